//! Settings, threads, life cycle; puts everything together.
//!
//! [`main`] is the program; [`sidecar`] lists what a sidecar is made of, in the order in which it
//! starts.
//!
//! * [`sidecar`]: the parts of one sidecar and their start and end.
//! * [`state`]: what the admin endpoint and the control plane may ask and change.
//! * [`readiness`]: what is missing before a sidecar is ready.
//! * `descriptors`: how many connections there may be.
//! * `explicit`: listeners that stand for services.
//! * [`listen`]: accept loops.
//! * [`threads`]: the data workers and the control thread.
//! * [`settings`]: what the environment says.
//! * [`wait`]: `weft-proxy await`.

mod certificates;
mod descriptors;
mod explicit;
pub mod listen;
pub mod readiness;
pub mod settings;
pub mod sidecar;
pub mod state;
pub mod threads;
pub mod wait;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use weft_proto::logs;

use crate::interception;
use settings::{EXIT_BAD_SETTINGS, Settings};

/// Weft's sidecar. Its settings come from the environment (WEFT_*).
#[derive(Debug, Parser)]
#[command(name = "weft-proxy", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Redirects the connections of this network namespace to the sidecar, then ends.
    Init(interception::InitArgs),
    /// Waits until the sidecar beside it is ready.
    Await(wait::AwaitArgs),
}

/// The program `weft-proxy`. `args` begins with the program's name.
///
/// Exit codes: 0 after an end that was asked for, 1 after a failure, 64 for bad arguments or
/// settings.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                EXIT_BAD_SETTINGS
            } else {
                0
            });
        }
    };
    match arguments.command {
        Some(Command::Init(init)) => interception::run(&init),
        Some(Command::Await(args)) => wait::run(&args),
        None => run(),
    }
}

fn run() -> ExitCode {
    let settings = match Settings::from_env() {
        Ok(settings) => settings,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_BAD_SETTINGS);
        }
    };
    let (level, format) = (settings.log_level, settings.log_format);
    let sink = Box::new(std::io::stdout());
    let (log, _last_lines) = match logs::install("weft-proxy", level, format, sink) {
        Ok(installed) => installed,
        Err(error) => {
            eprintln!("weft-proxy: {error}");
            return ExitCode::FAILURE;
        }
    };
    descriptors::raise();
    match sidecar::run(settings, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the sidecar ends");
            ExitCode::FAILURE
        }
    }
}
