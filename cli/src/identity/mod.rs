//! `weft identity`: who signs the mesh's certificates, whom it trusts, and rotations of both.
//!
//! One process of the control plane is asked on its admin port. What decides about a rotation is there;
//! here it is asked for, looked at and printed.

mod status;
#[cfg(test)]
mod tests;
mod text;
mod watch;

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};

use crate::command::USAGE;
use crate::proxy_status::ask::{self, AskError, Server};
use status::Status;

/// Exit code where a rotation is refused, does not end, or something is wrong with what is kept.
const REFUSED: u8 = 1;
/// Exit code where the control plane cannot be asked.
const NO_ANSWER: u8 = 2;

/// What is asked about the authority.
#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// Shows roots and issuers, and how far a rotation is.
    Status(StatusOptions),
    /// Begins a rotation of the issuer, or of the root and the issuer.
    Rotate(RotateOptions),
}

/// Whom to ask.
#[derive(Clone, Debug, Args)]
struct Whom {
    #[command(flatten)]
    server: Server,
}

/// How to show it.
#[derive(Debug, Args)]
#[command(after_help = "\
With files, the control plane answers on loopback only. In a cluster it wants a token, which is had of
the cluster by whoever may (docs/commands.md); forward the port of a replica first, any of them:

  kubectl -n weft port-forward deploy/weft-control-plane 15190

Exit codes:
  0   shown
  1   what is kept of the authority is gone, broken or another one's
  2   the control plane cannot be asked
  64  bad command line")]
pub struct StatusOptions {
    #[command(flatten)]
    whom: Whom,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What to rotate.
#[derive(Debug, Args)]
#[command(after_help = "\
A rotation goes on by itself, phase by phase, and none can be skipped:
  publish  the new root is trusted beside the old one, until every connected sidecar and every
           replica has confirmed it, at the latest after the life of a certificate
  sign     the new one signs, both are trusted, until the last certificate of the old one has expired
An issuer has no first phase. No request fails for it.

With files, the control plane answers on loopback only. In a cluster it wants a token, which is had of
the cluster by whoever may (docs/commands.md); forward the port of a replica first, any of them:

  kubectl -n weft port-forward deploy/weft-control-plane 15190

Exit codes:
  0   it has begun; with --watch: it has ended
  1   it is refused, as while another one is under way
  2   the control plane cannot be asked
  64  bad command line")]
pub struct RotateOptions {
    /// What is replaced.
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    whom: Whom,
    /// Shows each phase, and ends when the rotation has ended.
    #[arg(long)]
    watch: bool,
    /// Does not ask back.
    #[arg(long)]
    yes: bool,
}

/// What is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The issuer, under the same root.
    Issuer,
    /// The root, and with it the issuer.
    Root,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Table,
    /// One object for machines.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Runs a command about the authority. Exit codes are in its help.
pub fn run(command: &IdentityCommand) -> ExitCode {
    match command {
        IdentityCommand::Status(options) => status(options),
        IdentityCommand::Rotate(options) => rotate(options),
    }
}

fn status(options: &StatusOptions) -> ExitCode {
    let status = match ask_status(&options.whom.server) {
        Ok(status) => status,
        Err(error) => return fail("status", &options.whom.server, &error),
    };
    let printed = match options.output {
        Output::Table => text::of(&status, now()),
        // Names, numbers and words: none of this can fail to be written.
        Output::Json => serde_json::to_string_pretty(&status).expect("plain values") + "\n",
        Output::Yaml => serde_saphyr::to_string(&status).expect("plain values"),
    };
    print(&printed);
    ExitCode::from(if status.problem.is_some() { REFUSED } else { 0 })
}

fn rotate(options: &RotateOptions) -> ExitCode {
    let server = &options.whom.server;
    if !options.yes && !is_wanted(options.what) {
        return ExitCode::from(USAGE);
    }
    let before = match ask_status(server) {
        Ok(status) => status,
        Err(error) => return fail("rotate", server, &error),
    };
    let path = format!("/identity/rotate/{}", options.what.word());
    match ask::post(server, &path) {
        Ok(answer) => print(&String::from_utf8_lossy(&answer)),
        Err(error) => return fail("rotate", server, &error),
    }
    if !options.watch {
        print("weft identity status shows how far it is\n");
        return ExitCode::SUCCESS;
    }
    match watch::until_ended(server, before.generation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("weft identity rotate: {why}");
            ExitCode::from(REFUSED)
        }
    }
}

impl What {
    fn word(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Root => "root",
        }
    }
}

/// Asks back where somebody is there to answer.
fn is_wanted(what: What) -> bool {
    let what = what.word();
    if !io::stdin().is_terminal() {
        eprintln!("weft identity rotate: nobody is there to be asked: say --yes");
        return false;
    }
    print(&format!(
        "This replaces the mesh's {what}. It takes as long as certificates live, and no request fails \
         for it. Go on? [y/N] "
    ));
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn ask_status(server: &Server) -> Result<Status, AskError> {
    let body = ask::get(server, "/identity")?;
    Ok(serde_json::from_slice(&body)?)
}

fn fail(what: &str, server: &Server, error: &AskError) -> ExitCode {
    eprintln!("weft identity {what}: {server}: {error}");
    ExitCode::from(match error {
        AskError::Refused { .. } => REFUSED,
        _ => NO_ANSWER,
    })
}

fn print(text: &(impl Display + ?Sized)) {
    let mut out = io::stdout().lock();
    // Fails only where nobody reads any more; the exit code still tells.
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// Seconds of unix time.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
