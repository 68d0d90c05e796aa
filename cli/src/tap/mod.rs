//! `weft tap`: exchanges of all sidecars as they end.
//!
//! Sidecars keep what they see for this command alone, a bounded number at a bounded rate, until it asks
//! again; what they dropped, and what was lost on the way here, is said at the end. They forget the session
//! 15 s after it was last asked for. What is secret is hidden by the sidecars: see docs/commands.md.

mod seen;
#[cfg(test)]
mod tests;
mod text;
mod watch;

use std::process::ExitCode;
use std::str::FromStr;

use clap::builder::TypedValueParser as _;
use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};
use weft_control_plane::policy::PolicyDuration;
use weft_proxy::outcome::Outcome;
use weft_proxy::telemetry::tap::{DEFAULT_RATE, MAX_RATE, WHOLE};

use crate::order::{NO_ANSWER, Output, Workload};
use crate::proxy_status::ask::Server;

const CODES: &str = "\
One line per request and sidecar, when it is over; a request inside the mesh has two, one of the
caller's sidecar (out) and one of the server's (in). Sidecars hide the values of queries and of most
headers.

One replica of the control plane is asked, on its admin port, which answers on loopback only; it asks
the others. In a cluster, forward the port first:

  kubectl -n weft port-forward deploy/weft-control-plane 15190

Exit codes:
  0   ended by Ctrl-C, by its time or by its number of records
  1   the same, but a sidecar or a replica did not answer, or there is no sidecar
  2   the control plane cannot be asked
  64  bad command line";

/// Which exchanges, of whom, for how long, and how they are printed.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct Options {
    /// Only this workload's sidecar; `weft proxy status` lists them.
    #[arg(value_name = "NAMESPACE/NAME", conflicts_with = "namespace")]
    workload: Option<Workload>,
    /// Only sidecars of this namespace.
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// Records per second of each sidecar, at most 1,000; what is more is counted and dropped.
    #[arg(long, default_value_t = DEFAULT_RATE, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
    rate: u32,
    /// How many of a hundred requests, at random.
    #[arg(long, value_name = "PERCENT", default_value = "100")]
    sample: Share,
    /// With the requests' headers. Values of most are hidden, whatever else is said.
    #[arg(long)]
    headers: bool,
    /// With the values in queries, which are hidden otherwise: there may be tokens among them.
    #[arg(long)]
    show_query: bool,
    /// For how long, such as 30s.
    #[arg(long = "for", value_name = "DURATION", default_value = "10m")]
    time: PolicyDuration,
    /// Ends after so many.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    max_records: Option<u64>,
    /// How they are printed: as lines, as one JSON object per line, or as one YAML document each.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

/// Which exchanges: those of which all of this is true.
#[derive(Debug, Args)]
struct Filter {
    /// To this service, as `NAMESPACE/NAME` or `NAMESPACE/NAME:PORT`.
    #[arg(long, value_name = "SERVICE")]
    to: Option<Workload>,
    /// From this identity, as `NAMESPACE/SERVICE-ACCOUNT`; of what comes in only.
    #[arg(long, value_name = "IDENTITY", conflicts_with = "direction")]
    from: Option<Workload>,
    /// Only what comes in, or only what goes out.
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    /// With this method.
    #[arg(long)]
    method: Option<Method>,
    /// Whose path begins so.
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// For this host, with its port or without.
    #[arg(long, value_name = "HOST")]
    authority: Option<String>,
    /// By this route.
    #[arg(long)]
    route: Option<String>,
    /// With this status, such as 503, or 5xx for all of them.
    #[arg(long)]
    status: Option<Status>,
    /// Ended with this outcome; docs/outcomes.md lists them.
    #[arg(long, value_parser = outcomes())]
    outcome: Option<String>,
}

/// Seen from a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    Inbound,
    Outbound,
}

/// A range of statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status {
    from: u16,
    to: u16,
}

/// Ten-thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share(u32);

/// Prints exchanges as they end. Exit codes are in the command's help.
pub fn run(options: &Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("weft tap: {error}");
            return ExitCode::from(NO_ANSWER);
        }
    };
    let code = runtime.block_on(watch::run(options));
    // A question that nobody waits for any more ends with the process.
    runtime.shutdown_background();
    ExitCode::from(code)
}

impl Options {
    /// One poll of a session, as the control plane takes it.
    fn command(&self, session: &str, number: u64, is_last: bool) -> Value {
        json!({
            "kind": "tap",
            "session": session,
            "number": number,
            "last": is_last,
            "filter": self.filter.json(),
            "rate": self.rate,
            "share": self.sample.0,
            "headers": self.headers,
            "showQuery": self.show_query,
        })
    }
}

impl Filter {
    fn json(&self) -> Value {
        let direction = match (self.direction, &self.from) {
            (Some(Direction::Outbound), _) => "outbound",
            (Some(Direction::Inbound), _) | (None, Some(_)) => "inbound",
            (None, None) => "",
        };
        let status = self.status.unwrap_or(Status { from: 0, to: 0 });
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let name = |name: Option<&Workload>| name.map(ToString::to_string).unwrap_or_default();
        json!({
            "direction": direction,
            "method": text(self.method.as_ref().map(Method::as_str)),
            "path": text(self.path.as_deref()),
            "authority": text(self.authority.as_deref()),
            "service": name(self.to.as_ref()),
            "route": text(self.route.as_deref()),
            "peer": name(self.from.as_ref()),
            "outcome": text(self.outcome.as_deref()),
            "statusFrom": status.from,
            "statusTo": status.to,
        })
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a status such as 503, or 5xx".to_owned();
        if let Some(class) = text.strip_suffix("xx") {
            let class: u16 = class.parse().map_err(|_| wrong())?;
            let is_class = (1..=5).contains(&class) && text.len() == 3;
            let from = class * 100;
            return is_class
                .then_some(Self {
                    from,
                    to: from + 99,
                })
                .ok_or_else(wrong);
        }
        let code = text.parse().map_err(|_| wrong())?;
        let is_code = (100..=999).contains(&code);
        is_code
            .then_some(Self {
                from: code,
                to: code,
            })
            .ok_or_else(wrong)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a percentage from 0.01 to 100".to_owned();
        let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| wrong())?;
        let share = (percent * f64::from(WHOLE) / 100.0).round();
        let is_share = (1.0..=f64::from(WHOLE)).contains(&share);
        is_share.then_some(Self(share as u32)).ok_or_else(wrong)
    }
}

/// The closed list.
fn outcomes() -> impl clap::builder::TypedValueParser<Value = String> {
    clap::builder::PossibleValuesParser::new(Outcome::ALL.map(Outcome::as_str)).map(String::from)
}
