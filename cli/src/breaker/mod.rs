//! `weft breaker`: circuit breakers of all sidecars, listed and changed.
//!
//! Breakers live in the sidecars of callers, each with its own. What people change there lasts until a
//! reset, or until the sidecar or the endpoint goes.

mod listing;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::order::{INCOMPLETE, NO_ANSWER, Output, Told, Workload, print};
use crate::paint::{self, Paint};
use crate::proxy_status::ask::Server;
use listing::Listing;

const CODES: &str = "\
Breakers live in the sidecars of callers, each with its own. What is opened or closed by hand stays so
until it is reset, or until the sidecar or the endpoint goes; sidecars that start later know nothing of
it.

One replica of the control plane is asked, on its admin port; it asks the others. With files it answers
on loopback only. In a cluster it wants a token, which is had of the cluster by whoever may
(docs/commands.md); forward the port first:

  kubectl -n weft port-forward deploy/weft-control-plane 15190

Exit codes:
  0   done, or printed
  1   not by every sidecar: one did not do it or is not connected, a replica did not answer, or no
      sidecar has such a breaker
  2   the control plane cannot be asked
  64  bad command line";

/// What is done about breakers.
#[derive(Debug, Subcommand)]
pub enum BreakerCommand {
    /// Lists breakers and their states, those that are not closed first.
    #[command(after_help = CODES)]
    List(Any),
    /// Closes breakers, with nothing remembered; what was opened or closed by hand is so no more.
    #[command(after_help = CODES)]
    Reset(Any),
    /// Opens breakers, so that nothing passes until they are reset.
    #[command(after_help = CODES)]
    Open(One),
    /// Closes breakers, so that everything passes until they are reset.
    #[command(after_help = CODES)]
    Close(One),
}

/// Which breakers; all of them if nothing is said.
#[derive(Debug, Args)]
pub struct Any {
    /// Of which backend, as `NAMESPACE/NAME:PORT`; of all if left out.
    backend: Option<Backend>,
    /// Of which endpoint of it, as `IP:PORT`; of all if left out.
    #[arg(long, value_name = "ADDRESS", requires = "backend")]
    endpoint: Option<SocketAddr>,
    #[command(flatten)]
    whose: Whose,
}

/// Which breakers, of one backend.
#[derive(Debug, Args)]
pub struct One {
    /// Of which backend, as `NAMESPACE/NAME:PORT`.
    backend: Backend,
    /// Of which endpoint of it, as `IP:PORT`; of all if left out.
    #[arg(long, value_name = "ADDRESS")]
    endpoint: Option<SocketAddr>,
    #[command(flatten)]
    whose: Whose,
}

/// Whose sidecars, and how it is printed.
#[derive(Debug, Args)]
struct Whose {
    #[command(flatten)]
    server: Server,
    /// Only sidecars of this namespace.
    #[arg(short, long, conflicts_with = "workload")]
    namespace: Option<String>,
    /// Only this workload's sidecar, as `NAMESPACE/NAME`.
    #[arg(long)]
    workload: Option<Workload>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// A backend as sidecars label it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Backend(String);

/// What is done to breakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Reset,
    Open,
    Close,
}

/// Does something about breakers. Exit codes are in the command's help.
pub fn run(command: &BreakerCommand) -> ExitCode {
    match command {
        BreakerCommand::List(any) => list(any),
        BreakerCommand::Reset(any) => change(
            Action::Reset,
            any.backend.as_ref(),
            any.endpoint,
            &any.whose,
        ),
        BreakerCommand::Open(one) => {
            change(Action::Open, Some(&one.backend), one.endpoint, &one.whose)
        }
        BreakerCommand::Close(one) => {
            change(Action::Close, Some(&one.backend), one.endpoint, &one.whose)
        }
    }
}

fn list(any: &Any) -> ExitCode {
    let Some(answers) = ask("list", &any.whose, &json!({"kind": "breakers"})) else {
        return ExitCode::from(NO_ANSWER);
    };
    let mut listing = Listing::of(&answers);
    let backend = any.backend.as_ref().map(|backend| &*backend.0);
    listing.keep(backend, any.endpoint);
    let out = io::stdout();
    let paint = Paint::of(out.is_terminal() && paint::knows_control_sequences());
    show(&print(any.whose.output, &listing, || {
        text::list(&listing, &answers, paint)
    }));
    ExitCode::from(if answers.is_whole() { 0 } else { INCOMPLETE })
}

fn change(
    action: Action,
    backend: Option<&Backend>,
    endpoint: Option<SocketAddr>,
    whose: &Whose,
) -> ExitCode {
    let command = json!({
        "kind": "breaker",
        "action": action.as_str(),
        "backend": backend.map(|backend| &*backend.0),
        "endpoint": endpoint,
    });
    let Some(answers) = ask(action.as_str(), whose, &command) else {
        return ExitCode::from(NO_ANSWER);
    };
    let which = match (backend, endpoint) {
        (None, _) => String::new(),
        (Some(backend), None) => format!(" of {backend}"),
        (Some(backend), Some(endpoint)) => format!(" of {endpoint} of {backend}"),
    };
    show(&print(whose.output, &answers, || {
        text::changed(action, &which, &answers)
    }));
    // To reset where there is nothing is no mistake; to open what nobody has is one.
    let is_done = action == Action::Reset && backend.is_none() || breakers(&answers).0 > 0;
    let is_whole = answers.is_whole() && is_done;
    ExitCode::from(if is_whole { 0 } else { INCOMPLETE })
}

/// How many breakers were changed, and in how many sidecars.
fn breakers(answers: &Told) -> (u64, usize) {
    let counts = answers
        .done()
        .filter_map(|answer| answer.payload["breakers"].as_u64());
    let counts: Vec<u64> = counts.filter(|count| *count > 0).collect();
    (counts.iter().sum(), counts.len())
}

fn ask(name: &str, whose: &Whose, command: &Value) -> Option<Told> {
    let namespace = whose.namespace.as_deref();
    let answers = Told::ask(&whose.server, namespace, whose.workload.as_ref(), command);
    answers
        .map_err(|error| eprintln!("weft breaker {name}: {}: {error}", whose.server))
        .ok()
}

fn show(text: &str) {
    // Fails only where nobody reads any more; the exit code still tells.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Open => "open",
            Self::Close => "close",
        }
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a backend such as NAMESPACE/NAME:PORT".to_owned();
        let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        name.parse::<Workload>().map_err(|_| wrong())?;
        match port.parse() {
            Ok(1_u16..) => Ok(Self(text.to_owned())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
