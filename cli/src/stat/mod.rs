//! `weft stat` and `weft top`: success, rate, latency, retries and mutual TLS, as all sidecars counted them.
//!
//! Sidecars count; nobody else does. One replica of the control plane is asked, and has every sidecar tell
//! its sums; here they are put together. A request between two meshed workloads is counted on both sides:
//! of each thing that is shown only one side counts, so that nothing is added twice.

mod ask;
mod difference;
mod quantile;
mod sums;
#[cfg(test)]
mod tests;
mod text;
pub mod top;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::order::{INCOMPLETE, NO_ANSWER, Output, print};
use crate::paint::{self, Paint};
use ask::Which;
use sums::Stat;

const CODES: &str = "\
A request between two sidecars is counted by both, and only one of them is shown. Services, routes,
backends and pairs are told from the client's side, which is what callers got; where no client's
sidecar knows of one, from the server's, which a * says. Workloads are told from the server's side; where one serves nothing, from the
client's. --side shows one side only.

  SUCCESS   answers but 5xx and gRPC's UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS
  RPS       requests per second over the window
  P50 ...   from the buckets of weft_request_duration_seconds, interpolated as Prometheus does; -o json
            has the bucket that each one fell into
  RETRIES   tries beyond a request's first one, by clients' sidecars
  MTLS      share of mutual TLS of the mesh, of requests that were sent at all

One replica of the control plane is asked, on its admin port, which answers on loopback only; it asks
the others. In a cluster, forward the port first:

  kubectl -n weft port-forward deploy/weft-control-plane 15190

Exit codes:
  0   printed
  1   printed, but a sidecar did not answer or is not connected, or a replica did not answer
  2   the control plane cannot be asked
  64  bad command line";

/// What is shown, of what, and how.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct Options {
    /// A line for each of what.
    #[arg(value_enum, default_value_t = View::Services)]
    view: View,
    #[command(flatten)]
    which: Which,
    /// Of the last so much time, 10s to 1m, as near as sidecars keep it.
    #[arg(long, value_name = "TIME", default_value = "1m")]
    window: Span,
    /// Since each sidecar's start.
    #[arg(long, conflicts_with = "window")]
    since_start: bool,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum View {
    /// What clients address.
    #[default]
    Services,
    /// Pods, by what they serve.
    Workloads,
    /// Routes of services.
    Routes,
    /// Where requests to services go: both sides of a canary.
    Backends,
    /// Who calls whom.
    Pairs,
}

/// Whose count it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
enum Side {
    /// What clients' sidecars sent.
    Client,
    /// What came to servers' sidecars.
    Server,
}

/// The last so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span(Duration);

/// Prints what passed. Exit codes are in the command's help.
pub fn run(options: &Options) -> ExitCode {
    let window = (!options.since_start).then_some(options.window.0);
    let answers = match options.which.ask(options.view, window) {
        Ok(answers) => answers,
        Err(error) => {
            eprintln!("weft stat: {}: {error}", options.which.server());
            return ExitCode::from(NO_ANSWER);
        }
    };
    let stat = Stat::of(options.view, &options.which, &answers);
    let out = io::stdout();
    let paint = Paint::of(out.is_terminal() && paint::knows_control_sequences());
    let printed = print(options.output, &stat, || text::of(&stat, &answers, paint));
    // Fails only where nobody reads any more; the exit code still tells.
    let _ = out.lock().write_all(printed.as_bytes());
    ExitCode::from(if answers.is_whole() { 0 } else { INCOMPLETE })
}

impl View {
    /// The side that counts where both are known.
    fn side(self) -> Side {
        match self {
            Self::Services | Self::Routes | Self::Backends | Self::Pairs => Side::Client,
            Self::Workloads => Side::Server,
        }
    }
}

impl Side {
    /// As sidecars call the direction, seen from their workload.
    fn direction(self) -> &'static str {
        match self {
            Self::Client => "outbound",
            Self::Server => "inbound",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

impl Span {
    const LEAST: u64 = 10;
    const MOST: u64 = 60;
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a time of 10s to 1m".to_owned();
        let (number, unit) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
            (Some(number), _) => (number, 1),
            (_, Some(number)) => (number, 60),
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let seconds = number.saturating_mul(unit);
        if !(Self::LEAST..=Self::MOST).contains(&seconds) {
            return Err(wrong());
        }
        Ok(Self(Duration::from_secs(seconds)))
    }
}
