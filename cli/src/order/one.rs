//! `weft proxy config|metrics|log-level`: one sidecar asked through the control plane.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{INCOMPLETE, NO_ANSWER, Output, Told, Workload, print};
use crate::proxy_status::ask::Server;

const CODES: &str = "\
One replica of the control plane is asked, on its admin port; it asks the others. With files it answers
on loopback only. In a cluster it wants a token, which is had of the cluster by whoever may
(docs/commands.md); forward the port first:

  kubectl -n weft port-forward deploy/weft-control-plane 15190

Exit codes:
  0   done
  1   the sidecar is not connected, or did not do it
  2   the control plane cannot be asked
  64  bad command line";

/// Which sidecar, and whom to ask about it.
#[derive(Debug, Args)]
struct Whom {
    /// Whose sidecar; `weft proxy status` lists them.
    #[arg(value_name = "NAMESPACE/NAME")]
    workload: Workload,
    #[command(flatten)]
    server: Server,
}

/// Which sidecar tells what it knows, and how that is printed.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct Config {
    #[command(flatten)]
    whom: Whom,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Form::Json)]
    output: Form,
}

/// Which sidecar tells its metrics.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct Metrics {
    #[command(flatten)]
    whom: Whom,
}

/// Whose log level it is, and what it becomes.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct LogLevel {
    #[command(flatten)]
    whom: Whom,
    /// What it becomes; left out, it is shown.
    level: Option<Level>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How much a sidecar says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// For machines, which people can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// One object.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Prints what a sidecar knows. Exit codes are in the command's help.
pub(crate) fn config(options: &Config) -> ExitCode {
    let command = json!({"kind": "config"});
    answered("config", &options.whom, &command, |payload| {
        let output = match options.output {
            Form::Json => Output::Json,
            Form::Yaml => Output::Yaml,
        };
        print(output, payload, String::new)
    })
}

/// Prints a sidecar's metrics. Exit codes are in the command's help.
pub(crate) fn metrics(options: &Metrics) -> ExitCode {
    let command = json!({"kind": "metrics"});
    answered("metrics", &options.whom, &command, |payload| {
        payload.as_str().unwrap_or_default().to_owned()
    })
}

/// Shows a sidecar's log level, or changes it. Exit codes are in the command's help.
pub(crate) fn log_level(options: &LogLevel) -> ExitCode {
    let level = options.level.map(Level::as_str);
    let command = json!({"kind": "logLevel", "level": level.unwrap_or_default()});
    answered("log-level", &options.whom, &command, |before| {
        let now = level.map_or_else(|| before.clone(), |level| json!(level));
        let whole = json!({"level": now, "before": before});
        print(options.output, &whole, || {
            let before = before.as_str().unwrap_or_default();
            match level {
                None => format!("{}: {before}\n", options.whom.workload),
                Some(level) => format!("{}: {level}, was {before}\n", options.whom.workload),
            }
        })
    })
}

/// Has a sidecar do it and prints what it answered.
fn answered(
    name: &str,
    whom: &Whom,
    command: &Value,
    printed: impl FnOnce(&Value) -> String,
) -> ExitCode {
    let answers = match Told::ask(&whom.server, None, Some(&whom.workload), command) {
        Ok(answers) => answers,
        Err(error) => {
            eprintln!("weft proxy {name}: {}: {error}", whom.server);
            return ExitCode::from(NO_ANSWER);
        }
    };
    // Where another replica did not answer and this one's did, nothing is missing.
    let Some(answer) = answers.done().next() else {
        for problem in answers.problems() {
            eprintln!("weft proxy {name}: {problem}");
        }
        return ExitCode::from(INCOMPLETE);
    };
    // Fails only where nobody reads any more.
    let _ = io::stdout()
        .lock()
        .write_all(printed(&answer.payload).as_bytes());
    ExitCode::SUCCESS
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
