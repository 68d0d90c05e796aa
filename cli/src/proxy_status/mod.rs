//! `weft proxy status`: which sidecars run what, how old it is, and who is behind.
//!
//! One replica of the control plane is asked on its admin port; it asks the others. Here the answer is
//! judged and printed.

pub(crate) mod ask;
mod status;
#[cfg(test)]
mod tests;
pub(crate) mod text;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use crate::order::one;
use ask::Server;
use status::Status;

/// Exit code where a sidecar is not in step.
const BEHIND: u8 = 1;
/// Exit code where the control plane cannot be asked.
const NO_ANSWER: u8 = 2;

/// What is asked about sidecars.
#[derive(Debug, Subcommand)]
pub enum ProxyCommand {
    /// Shows which sidecars are connected, what they run, and which are behind.
    Status(Options),
    /// Prints what a sidecar knows: its health, policies, destinations and endpoints.
    Config(one::Config),
    /// Prints a sidecar's metrics, in Prometheus' format.
    Metrics(one::Metrics),
    /// Shows a sidecar's log level, or changes it until the sidecar ends.
    LogLevel(one::LogLevel),
}

/// Whom to ask, and for what.
#[derive(Debug, Args)]
#[command(after_help = "\
One replica of the control plane is asked, on its admin port; it asks the others. With files it answers
on loopback only. In a cluster it wants a token, which is had of the cluster by whoever may
(docs/commands.md); forward the port first:

  kubectl -n weft port-forward deploy/weft-control-plane 15190

A sidecar is in step when it has confirmed the newest version of every resource that it is subscribed
to. What is younger than 2 s is on its way and counts as in step.

Exit codes:
  0   every sidecar is in step
  1   a sidecar is behind, refuses an update or is not connected, or a replica did not answer
  2   the control plane cannot be asked
  64  bad command line")]
pub struct Options {
    #[command(flatten)]
    server: Server,
    /// Only sidecars of this namespace.
    #[arg(short, long)]
    namespace: Option<String>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table that fits 100 columns.
    Text,
    /// A table with service account, zone, replica and revision beside it, however wide.
    Wide,
    /// One object for machines.
    Json,
}

/// Runs a command about sidecars. Exit codes are in its help.
pub fn run(command: &ProxyCommand) -> ExitCode {
    let options = match command {
        ProxyCommand::Status(options) => options,
        ProxyCommand::Config(options) => return one::config(options),
        ProxyCommand::Metrics(options) => return one::metrics(options),
        ProxyCommand::LogLevel(options) => return one::log_level(options),
    };
    let mut status = match ask::status(&options.server) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("weft proxy status: {}: {error}", options.server);
            return ExitCode::from(NO_ANSWER);
        }
    };
    if let Some(namespace) = &options.namespace {
        status.keep(namespace);
    }
    let printed = print(options.output, &status);
    // Fails only where nobody reads any more; the exit code still tells.
    let _ = io::stdout().lock().write_all(printed.as_bytes());
    ExitCode::from(code(&status))
}

fn code(status: &Status) -> u8 {
    if status.is_in_step() { 0 } else { BEHIND }
}

fn print(output: Output, status: &Status) -> String {
    match output {
        Output::Text => text::of(status),
        Output::Wide => text::wide(status),
        // Names, numbers and words: none of this can fail to be written.
        Output::Json => serde_json::to_string_pretty(status).expect("plain values") + "\n",
    }
}
