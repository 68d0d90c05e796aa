//! One load at one peer, and what it used.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;

use super::pairs::Pair;
use super::usage::{CLIENT_CORE, MachineTime, Process, pin_thread, processor_time};
use super::wire::{self, Load, Measured};

/// Loaded before it is measured, if that is not longer than this.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long a service may be unknown to the client's sidecar, which learns of it when it is asked for.
const PATIENCE: Duration = Duration::from_secs(20);
const GIGA: f64 = 1e9;
/// What others may use of the machine's cores while something is measured.
pub(super) const MAX_FOREIGN: f64 = 0.06;
/// How many of a rate's requests may be sent [late](wire::LATE): half of what a p99 could be made of.
pub(super) const MAX_LATE: f64 = 0.005;

/// One measurement.
#[derive(Clone, Debug, Default)]
pub(super) struct Value {
    /// By [`super::point::Column::key`].
    pub(super) of: BTreeMap<&'static str, f64>,
    /// The share of the machine's cores that others used meanwhile.
    pub(super) foreign: f64,
    /// The share of a rate's requests that were sent late, though nothing that was asked was waited for.
    pub(super) late: f64,
    /// How often it was measured again, since it was disturbed.
    pub(super) again: u16,
}

/// Clocks of processors at one time.
struct Mark {
    sidecars: Duration,
    own: Duration,
    ours: Duration,
    machine: MachineTime,
}

/// What was used between two marks.
struct Used {
    sidecars: f64,
    own: f64,
    foreign: f64,
}

/// Whose clocks are read.
struct Clocks {
    sidecars: Vec<Process>,
    own: Process,
    ours: Vec<Process>,
}

impl Value {
    /// No number where there is none.
    pub(super) fn get(&self, key: &str) -> f64 {
        self.of.get(key).copied().unwrap_or(f64::NAN)
    }

    /// How much was beside it, as a multiple of what may be.
    pub(super) fn disturbance(&self) -> f64 {
        (self.foreign / MAX_FOREIGN).max(self.late / MAX_LATE)
    }

    /// Whether it tells of others as much as of what was measured.
    pub(super) fn disturbed(&self) -> bool {
        self.disturbance() > 1.0
    }
}

/// Measures `load` at `pair` for `time`.
pub(super) async fn measure(pair: &Pair, load: Load, time: Duration) -> anyhow::Result<Value> {
    let to = pair.to(load.protocol());
    let clocks = Clocks {
        sidecars: pair.sidecars.clone(),
        own: Process::find(std::process::id())?,
        ours: Process::all_of_ours()?,
    };
    let (measured, used) = pair
        .client
        .run_future(move || async move {
            pin_thread(CLIENT_CORE)?;
            wire::until_answered(to, load.protocol(), PATIENCE).await?;
            let marks = Rc::new(RefCell::new(Vec::new()));
            let mark = || marks.borrow_mut().push(clocks.read());
            let measured = wire::load(to, load, WARM_UP.min(time), time, mark).await?;
            let mut marks = marks
                .borrow_mut()
                .drain(..)
                .collect::<Result<Vec<_>, _>>()?;
            let (end, begin) = (marks.pop(), marks.pop());
            let begin = begin.context("no mark at the begin")?;
            let used = end.context("no mark at the end")?.since(&begin);
            anyhow::Ok((measured, used))
        })
        .await?;
    let mut value = Value {
        of: values(load, &measured, &used),
        foreign: used.foreign,
        late: measured.late as f64 / measured.done as f64,
        again: 0,
    };
    if pair.sidecars.is_empty() {
        // Nothing, and not something that uses nothing.
        value.of.remove("cpuMicros");
        value.of.remove("cpuSecondsPerGigabyte");
    }
    let keys = ["clientResidentMiB", "serverResidentMiB"];
    for (key, sidecar) in keys.into_iter().zip(&pair.sidecars) {
        value.of.insert(key, sidecar.resident_mib()?);
    }
    Ok(value)
}

fn values(load: Load, measured: &Measured, used: &Used) -> BTreeMap<&'static str, f64> {
    let (done, seconds) = (measured.done as f64, measured.seconds);
    if let Load::Stream(_) = load {
        let giga = done / GIGA;
        return BTreeMap::from([
            ("gigabytesPerSecond", giga / seconds),
            ("cpuSecondsPerGigabyte", used.sidecars / giga),
            ("ownCpuSecondsPerGigabyte", used.own / giga),
        ]);
    }
    let latency = |quantile| measured.latency.value_at_quantile(quantile) as f64;
    let mut values = BTreeMap::from([
        ("perSecond", done / seconds),
        ("cpuMicros", used.sidecars * 1e6 / done),
        ("ownCpu", used.own * 1e6 / done),
        ("p50Micros", latency(0.5)),
        ("p90Micros", latency(0.9)),
        ("p99Micros", latency(0.99)),
        ("p999Micros", latency(0.999)),
    ]);
    if let Load::Connections(_) = load {
        values.insert("failed", measured.failed as f64);
    }
    values
}

impl Clocks {
    fn read(&self) -> anyhow::Result<Mark> {
        // A process that has ended meanwhile uses no more: only sidecars must live.
        let ours = |process: &Process| processor_time(&[*process]).unwrap_or_default();
        Ok(Mark {
            sidecars: processor_time(&self.sidecars)?,
            own: processor_time(&[self.own])?,
            ours: self.ours.iter().map(ours).sum(),
            machine: MachineTime::now()?,
        })
    }
}

impl Mark {
    fn since(&self, begin: &Self) -> Used {
        let seconds = |of: fn(&Self) -> Duration| of(self).saturating_sub(of(begin)).as_secs_f64();
        let (busy, whole) = self.machine.busy_since(&begin.machine);
        let foreign = busy.as_secs_f64() - seconds(|it| it.ours);
        Used {
            sidecars: seconds(|it| it.sidecars),
            own: seconds(|it| it.own),
            foreign: (foreign / whole.as_secs_f64()).max(0.0),
        }
    }
}
