//! Where acts play: time passes here, the table is kept up to date, and what is measured is judged.

use std::borrow::Cow;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use weft_sandbox::load::Report;

use super::check::{Check, Expected, Unit};
use super::live::{Breakers, Row, Split, View};
use super::screen::Screen;
use super::story::Target;
use super::summary::{Summary, Tally};
use super::world::World;
use weft_sandbox::metrics::Metrics;

/// How often the table is drawn.
const TICK: Duration = Duration::from_millis(500);
/// How often a condition is asked for.
const POLL: Duration = Duration::from_millis(20);
/// Metric of a breaker's state.
pub(super) const BREAKER_STATE: &str = "weft_circuit_breaker_state";
/// The stage of one story.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) world: Rc<World>,
    screen: Screen,
    summary: Summary,
    act: Act,
    /// Shares that policy wants, by target.
    wanted: Vec<[u32; 2]>,
    /// What each target's caller said last.
    metrics: Vec<Metrics>,
}

/// The act that plays.
#[derive(Debug)]
struct Act {
    number: usize,
    begun: Instant,
    title: &'static str,
    /// Requests that were taken from the traffic during this act.
    tallies: Vec<Tally>,
    /// What metrics said when it began.
    before: Vec<Counted>,
}

/// Counters of a caller's sidecar about one service.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    requests: f64,
    mutual: f64,
    retries: f64,
}

impl Stage {
    /// With traffic that has just begun.
    pub(super) fn new(world: World, screen: Screen, summary: Summary) -> Self {
        let targets = world.story.targets.len();
        Self {
            world: Rc::new(world),
            screen,
            summary,
            act: Act {
                number: 0,
                begun: Instant::now(),
                title: "",
                tallies: vec![Tally::default(); targets],
                before: vec![Counted::default(); targets],
            },
            wanted: vec![[100, 0]; targets],
            metrics: vec![Metrics::default(); targets],
        }
    }

    /// How long something takes here that takes `written` in the guide.
    pub(super) fn time(&self, written: Duration) -> Duration {
        self.world.pace.of(written)
    }

    /// Begins the next act.
    pub(super) async fn begin(&mut self, title: &'static str, words: &str) {
        self.cut();
        self.scrape().await;
        self.act = Act {
            number: self.act.number + 1,
            begun: Instant::now(),
            title,
            tallies: vec![Tally::default(); self.targets()],
            before: (0..self.targets())
                .map(|target| self.counted(target))
                .collect(),
        };
        let heading = format!("[{}] {title}", self.place());
        let heading = self.screen.paint().strong(&heading);
        self.screen.say(&format!("\n{heading}\n  {words}"));
        self.tick().await;
    }

    /// Tells the table which split policy wants of a target from now on.
    pub(super) fn want_split(&mut self, target: usize, weights: [u32; 2]) {
        self.wanted[target] = weights;
    }

    /// When the act began.
    pub(super) fn begun(&self) -> Instant {
        self.act.begun
    }

    /// Says something in between.
    pub(super) fn say(&mut self, words: &str) {
        self.screen.say(&format!("  {words}"));
    }

    /// Lets time pass.
    pub(super) async fn watch(&mut self, duration: Duration) {
        self.during(tokio::time::sleep(duration)).await;
    }

    /// Waits for `work` while the table goes on.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            self.tick().await;
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Waits until `seen` says so; the answer is how long that took, `None` past `patience`.
    pub(super) async fn until(
        &mut self,
        patience: Duration,
        mut seen: impl AsyncFnMut(&World) -> bool,
    ) -> Option<Duration> {
        let begun = Instant::now();
        let mut next_tick = begun + TICK;
        loop {
            if seen(&self.world).await {
                return Some(begun.elapsed());
            }
            if begun.elapsed() >= patience {
                return None;
            }
            if Instant::now() >= next_tick {
                self.tick().await;
                next_tick = Instant::now() + TICK;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Remembers what the table shows now as the mesh's steady state.
    pub(super) fn remember_steady_state(&mut self) {
        let rows = (0..self.targets()).map(|target| self.row(target).json());
        self.summary.set_steady_state(rows.collect());
    }

    /// Takes the traffic's reports since the last cut. What they count stays with the act.
    pub(super) fn cut(&mut self) -> Vec<Report> {
        let reports = self.world.take();
        for (tally, report) in self.act.tallies.iter_mut().zip(&reports) {
            tally.add(report);
            self.summary.add(report);
        }
        reports
    }

    /// What came of the traffic to one target in this act.
    pub(super) fn tally(&self, target: usize) -> Tally {
        let mut tally = self.act.tallies[target];
        self.world.look(target, |report| tally.add(report));
        tally
    }

    /// What came of all traffic in this act.
    pub(super) fn tally_of_all(&self) -> Tally {
        let tallies = (0..self.targets()).map(|target| self.tally(target));
        tallies.fold(Tally::default(), Tally::plus)
    }

    /// Further tries that callers' sidecars sent in this act, to one target.
    pub(super) fn retries(&self, target: usize) -> f64 {
        self.counted(target).retries - self.act.before[target].retries
    }

    /// Share of the requests of this act, over all targets, that went over mutual TLS; `None`
    /// without any.
    pub(super) fn mtls_percent(&self) -> Option<f64> {
        let [requests, mutual] = (0..self.targets())
            .map(|target| self.counted(target).since(&self.act.before[target]))
            .fold([0.0, 0.0], |[requests, mutual], counted| {
                [requests + counted.requests, mutual + counted.mutual]
            });
        (requests > 0.0).then(|| mutual * 100.0 / requests)
    }

    /// The sum over samples that the caller of a target has, as last scraped.
    pub(super) fn metric(&self, target: usize, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.metrics[target].value(name, labels)
    }

    /// Tells what was measured.
    pub(super) fn check(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        value: impl Into<Option<f64>>,
        unit: Unit,
        expected: Expected,
    ) {
        self.judge(what.into(), None, value.into(), unit, expected);
    }

    /// Tells how many, of so many things, are as described.
    pub(super) fn check_count(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        of: (u64, &'static str),
        count: u64,
        expected: Expected,
    ) {
        self.judge(
            what.into(),
            Some(of),
            Some(count as f64),
            Unit::Count,
            expected,
        );
    }

    /// Tells a share in percent of so many things.
    pub(super) fn check_share(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        of: (u64, &'static str),
        percent: Option<f64>,
        expected: Expected,
    ) {
        self.judge(what.into(), Some(of), percent, Unit::Percent, expected);
    }

    /// Tells the time that something took, which must be short.
    pub(super) fn check_time(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        took: Option<Duration>,
        most: Duration,
    ) {
        let seconds = took.map(|took| took.as_secs_f64());
        let expected = Expected::at_most(most.as_secs_f64());
        self.check(what, seconds, Unit::Seconds, expected);
    }

    /// Tells how many requests of the act were not answered with 200: none may be.
    pub(super) fn check_no_failure(&mut self) {
        self.cut();
        let tally = self.tally_of_all();
        self.check_all_well("not answered with 200", tally);
    }

    /// The same of the traffic to some targets, as `what`.
    pub(super) fn check_no_failure_of(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        targets: &[usize],
    ) {
        self.cut();
        let tallies = targets.iter().map(|target| self.tally(*target));
        let tally = tallies.fold(Tally::default(), Tally::plus);
        self.check_all_well(what, tally);
    }

    fn check_all_well(&mut self, what: impl Into<Cow<'static, str>>, tally: Tally) {
        let Tally { sent, not_ok, .. } = tally;
        self.check_count(what, (sent, "requests"), not_ok, Expected::exactly(0));
        if not_ok > 0 {
            for reason in self.summary.reasons() {
                self.screen.say(&format!("    {reason}"));
            }
        }
    }

    fn judge(
        &mut self,
        what: Cow<'static, str>,
        of: Option<(u64, &'static str)>,
        value: Option<f64>,
        unit: Unit,
        expected: Expected,
    ) {
        let check = Check {
            act: self.act.title,
            what,
            of,
            value,
            unit,
            expected,
        };
        self.screen.say(&check.line(self.screen.paint()));
        self.summary.push(check);
    }

    /// Asks the callers' sidecars for their metrics. One that does not answer keeps its last ones.
    pub(super) async fn scrape(&mut self) {
        let mut pages: Vec<(&str, Metrics)> = Vec::new();
        for (target, metrics) in self.world.story.targets.iter().zip(&mut self.metrics) {
            if let Some((_, page)) = pages.iter().find(|(caller, _)| *caller == target.caller) {
                metrics.clone_from(page);
                continue;
            }
            if let Ok(page) = self.world.mesh.metrics(target.caller).await {
                *metrics = Metrics::parse(&page);
                pages.push((target.caller, metrics.clone()));
            }
        }
    }

    /// The table, when the story is over: nothing of it stays.
    pub(super) fn end(mut self) -> (Rc<World>, Screen, Summary) {
        self.screen.clear();
        (self.world, self.screen, self.summary)
    }

    async fn tick(&mut self) {
        self.scrape().await;
        let view = self.view();
        self.screen.show(&view);
    }

    fn view(&self) -> View {
        View {
            act: format!("{} {}", self.place(), self.act.title),
            elapsed: self.summary.elapsed(),
            rows: (0..self.targets()).map(|target| self.row(target)).collect(),
            config_age: self.metric(0, "weft_config_age_seconds", &[]),
        }
    }

    /// Which act it is, of how many.
    fn place(&self) -> String {
        format!("{}/{}", self.act.number, self.world.story.acts.len())
    }

    fn targets(&self) -> usize {
        self.world.story.targets.len()
    }

    fn row(&self, index: usize) -> Row {
        let target = &self.world.story.targets[index];
        let tally = self.tally(index);
        let counted = self.counted(index).since(&self.act.before[index]);
        let (latencies, observed) = self.world.look(index, |report| {
            let [v1, v2] = target
                .versions
                .map_or([0, 0], |both| both.map(|it| answers_of(report, it)))
                .map(|answers| answers as f64);
            let all = v1 + v2;
            let observed = (all > 0.0).then(|| [v1 * 100.0 / all, v2 * 100.0 / all]);
            let latencies = [report.latency(0.5), report.latency(0.99)];
            ((report.answered > 0).then_some(latencies), observed)
        });
        Row {
            service: target.service,
            requests: tally.sent,
            success_percent: tally.success_percent(),
            latencies,
            split: target.versions.map(|_| Split {
                wanted: self.wanted[index],
                observed,
            }),
            retries: counted.retries as u64,
            breakers: self.breakers(index),
            mtls_percent: (counted.requests > 0.0)
                .then(|| counted.mutual * 100.0 / counted.requests),
        }
    }

    fn breakers(&self, target: usize) -> Breakers {
        let mut breakers = Breakers::default();
        let Target { backends, port, .. } = &self.world.story.targets[target];
        for backend in *backends {
            let backend = self.world.label_of(backend, *port);
            for (state, count) in [
                ("closed", &mut breakers.closed),
                ("half_open", &mut breakers.half_open),
                ("open", &mut breakers.open),
            ] {
                let labels = [("backend", backend.as_str()), ("state", state)];
                *count += self.metrics[target].sum(BREAKER_STATE, &labels) as usize;
            }
        }
        breakers
    }

    fn counted(&self, target: usize) -> Counted {
        let metrics = &self.metrics[target];
        let service = self.world.label(target);
        let of_service = [("direction", "outbound"), ("service", service.as_str())];
        let [direction, service] = of_service;
        Counted {
            requests: metrics.sum("weft_requests_total", &of_service),
            mutual: metrics.sum(
                "weft_requests_total",
                &[direction, service, ("tls", "mutual")],
            ),
            retries: metrics.sum("weft_retries_total", &[service, ("result", "sent")]),
        }
    }
}

impl Counted {
    fn since(self, before: &Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            mutual: self.mutual - before.mutual,
            retries: self.retries - before.retries,
        }
    }
}

/// Answers that a version gave.
pub(super) fn answers_of(report: &Report, version: &str) -> u64 {
    report.versions.get(version).copied().unwrap_or(0)
}
