//! Polling until there is enough.
//!
//! An answer that did not come at all is asked for again under the same number, so that nothing is lost;
//! where one of several replicas is silent, the others go on, and what that one's sidecars told is counted
//! as lost.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::seen::{Record, Tally};
use super::{Options, text};
use crate::explain::table::paragraph;
use crate::order::{INCOMPLETE, NO_ANSWER, Output, Told, print};
use crate::paint::{self, Paint};
use crate::proxy_status::ask::AskError;

/// Between polls.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long the control plane may be silent once it has answered. Sidecars have ended the session by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the last answers are waited for after Ctrl-C.
const LAST: Duration = Duration::from_secs(3);

/// What is going on.
struct Watch<'o> {
    options: &'o Options,
    session: String,
    number: u64,
    tally: Tally,
    printed: u64,
    said: Vec<String>,
    paint: Paint,
}

/// Who is told to end.
struct Ended {
    interrupt: Signal,
    terminate: Signal,
}

/// Nobody reads any more.
struct Deaf;

/// Looks until told otherwise; the exit code.
pub(super) async fn run(options: &Options) -> u8 {
    let mut ended = match Ended::listen() {
        Ok(ended) => ended,
        Err(error) => {
            eprintln!("weft tap: {error}");
            return NO_ANSWER;
        }
    };
    let is_terminal = io::stdout().is_terminal() && paint::knows_control_sequences();
    let mut watch = Watch {
        options,
        session: format!("{:032x}", fastrand::u128(..)),
        number: 1,
        tally: Tally::default(),
        printed: 0,
        said: Vec::new(),
        paint: Paint::of(is_terminal),
    };
    let result = tokio::select! {
        result = watch.look() => result,
        () = ended.told() => Ok(true),
    };
    let goes_on = match result {
        Ok(goes_on) => goes_on,
        Err(error) => {
            eprintln!("weft tap: {}: {error}", options.server);
            return NO_ANSWER;
        }
    };
    tokio::select! {
        () = watch.finish(goes_on) => {}
        () = ended.told() => {}
    }
    eprint!("{}", text::sum(watch.tally.sum(), watch.printed));
    if watch.tally.is_whole() {
        0
    } else {
        INCOMPLETE
    }
}

impl Watch<'_> {
    /// Until the time is over or there is enough. Whether more may be printed.
    async fn look(&mut self) -> Result<bool, AskError> {
        let until = Instant::now() + self.options.time.get();
        let told = self.ask(false).await?;
        let mut goes_on = self.show(&told).is_ok() && !self.is_enough();
        self.greet();
        let mut heard = Instant::now();
        while goes_on {
            sleep_until(until.min(Instant::now() + INTERVAL)).await;
            if Instant::now() >= until {
                return Ok(true);
            }
            match self.ask(false).await {
                Ok(told) => {
                    heard = Instant::now();
                    goes_on = self.show(&told).is_ok() && !self.is_enough();
                }
                Err(error) if heard.elapsed() > PATIENCE => return Err(error),
                Err(error) => self.say(vec![format!("{}: {error}", self.options.server)]),
            }
        }
        Ok(false)
    }

    /// Ends the session everywhere, and takes what is there.
    async fn finish(&mut self, goes_on: bool) {
        let until = Instant::now() + LAST;
        let Ok(Ok(told)) = timeout_at(until, self.ask(true)).await else {
            // They end by themselves a little later.
            return;
        };
        if goes_on {
            let _ = self.show(&told);
        }
    }

    /// One poll. Its number is used up when it is answered.
    async fn ask(&mut self, is_last: bool) -> Result<Told, AskError> {
        let options = self.options;
        let command = options.command(&self.session, self.number, is_last);
        let (server, namespace) = (options.server.clone(), options.namespace.clone());
        let workload = options.workload.clone();
        let asking = tokio::task::spawn_blocking(move || {
            Told::ask(&server, namespace.as_deref(), workload.as_ref(), &command)
        });
        let told = asking
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error).into()))?;
        self.number += 1;
        Ok(told)
    }

    fn show(&mut self, told: &Told) -> Result<(), Deaf> {
        let records = self.tally.take(told);
        self.say(self.tally.problems().to_vec());
        let left = self
            .options
            .max_records
            .map_or(u64::MAX, |max| max - self.printed);
        let some: Vec<_> = records
            .iter()
            .take(usize::try_from(left).unwrap_or(usize::MAX))
            .collect();
        if some.is_empty() {
            return Ok(());
        }
        self.printed += some.len() as u64;
        let text: String = some
            .into_iter()
            .map(|record| self.printed(record))
            .collect();
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|_| Deaf)
    }

    fn printed(&self, record: &Record) -> String {
        match self.options.output {
            Output::Text => text::line(record, self.paint),
            // Names, numbers and words: this cannot fail to be written.
            Output::Json => serde_json::to_string(record).expect("plain values") + "\n",
            Output::Yaml => format!("---\n{}", print(Output::Yaml, record, String::new)),
        }
    }

    fn is_enough(&self) -> bool {
        self.options
            .max_records
            .is_some_and(|max| self.printed >= max)
    }

    /// Once it is known who looks.
    fn greet(&self) {
        let sidecars = self.tally.sidecars();
        let what = if sidecars == 1 { "sidecar" } else { "sidecars" };
        eprintln!("Looking at {sidecars} {what}; Ctrl-C ends.");
        if self.options.output == Output::Text && self.printed == 0 {
            let head = text::head(self.paint) + "\n";
            // Who does not read is noticed at the next line.
            let _ = io::stdout().lock().write_all(head.as_bytes());
        }
    }

    /// Problems, each once until it changes.
    fn say(&mut self, problems: Vec<String>) {
        for problem in problems.iter().filter(|it| !self.said.contains(it)) {
            for line in paragraph(0, problem) {
                eprintln!("{line}");
            }
        }
        self.said = problems;
    }
}

impl Ended {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for Ctrl-C or what ends processes.
    async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
