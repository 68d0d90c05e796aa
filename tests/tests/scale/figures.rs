//! What was measured, and how it is printed.

use std::fmt;
use std::time::Duration;

use crate::plan::Size;
use crate::process::Memory;

/// Everything that is measured at one size.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) size: Size,
    /// From the process's start until it serves.
    pub(crate) started_in: Duration,
    /// The processor time that this took.
    pub(crate) started_with: Duration,
    /// A certificate for every sidecar.
    pub(crate) certified_in: Duration,
    /// From the first connection until every sidecar has everything.
    pub(crate) complete_in: Duration,
    pub(crate) without_streams: Memory,
    pub(crate) connected: Memory,
    pub(crate) in_the_end: Memory,
    /// Shares of one processor.
    pub(crate) at_rest: f64,
    pub(crate) at_rest_after: f64,
    pub(crate) churn_load: f64,
    /// One endpoint of a service that few call: from the write to each acknowledgement.
    pub(crate) near: Spread,
    /// The same until the control plane has counted the last.
    pub(crate) near_counted: Spread,
    /// One endpoint of the service that all call.
    pub(crate) far: Spread,
    pub(crate) far_counted: Spread,
    /// A namespace's policy.
    pub(crate) policy: Spread,
    pub(crate) policy_counted: Spread,
    /// Under churn, as `near`.
    pub(crate) churn: Spread,
}

/// Times of the same thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread(pub(crate) Vec<Duration>);

impl Figures {
    pub(crate) fn of(size: Size) -> Self {
        Self {
            size,
            started_in: Duration::ZERO,
            started_with: Duration::ZERO,
            certified_in: Duration::ZERO,
            complete_in: Duration::ZERO,
            without_streams: Memory::default(),
            connected: Memory::default(),
            in_the_end: Memory::default(),
            at_rest: 0.0,
            at_rest_after: 0.0,
            churn_load: 0.0,
            near: Spread::default(),
            near_counted: Spread::default(),
            far: Spread::default(),
            far_counted: Spread::default(),
            policy: Spread::default(),
            policy_counted: Spread::default(),
            churn: Spread::default(),
        }
    }
}

impl Spread {
    /// The time that this share of all is not above; zero where there is none.
    pub(crate) fn percentile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = (share * sorted.len() as f64).ceil() as usize;
        let place = place.saturating_sub(1);
        sorted.get(place).copied().unwrap_or_default()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.size;
        writeln!(
            f,
            "{} services, {} endpoints, {} streams",
            size.services,
            size.endpoints,
            size.streams()
        )?;
        let mut line = |what: &str, value: String| writeln!(f, "  {what:<52} {value}");
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        line("from start to serving", seconds(self.started_in))?;
        line("  processor time of it", seconds(self.started_with))?;
        line("a certificate for everybody", seconds(self.certified_in))?;
        line("streams opened, everything held", seconds(self.complete_in))?;
        for (what, memory) in [
            ("memory, nobody connected", self.without_streams),
            ("memory, all connected", self.connected),
            ("memory, in the end", self.in_the_end),
        ] {
            let Memory { now, peak } = memory;
            line(what, format!("{now:.1} MiB (peak {peak:.1} MiB)"))?;
        }
        for (what, share) in [
            ("of a processor, at rest", self.at_rest),
            (
                "of a processor, at rest after all changes",
                self.at_rest_after,
            ),
            ("of a processor, 10 changes per second", self.churn_load),
        ] {
            line(what, format!("{:.1} %", 100.0 * share))?;
        }
        for (what, spread) in [
            ("one endpoint of a service that few call", &self.near),
            ("  the last of it counted", &self.near_counted),
            ("one endpoint of the service that all call", &self.far),
            ("  the last of it counted", &self.far_counted),
            ("a namespace's policy", &self.policy),
            ("  the last of it counted", &self.policy_counted),
            ("one endpoint, 10 changes per second", &self.churn),
        ] {
            let [median, high, most] = [0.5, 0.99, 1.0].map(|share| {
                let time = spread.percentile(share);
                format!("{:.1}", 1000.0 * time.as_secs_f64())
            });
            let count = spread.0.len();
            line(
                what,
                format!("p50 {median}  p99 {high}  max {most} ms ({count})"),
            )?;
        }
        Ok(())
    }
}
