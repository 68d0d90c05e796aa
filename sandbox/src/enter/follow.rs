//! Processes that end with this one where no process namespace sees to it.
//!
//! The program starts itself once more, which asks the kernel to be killed with its parent and then
//! becomes the program that was meant: that wish survives `execve` (prctl(2), `PR_SET_PDEATHSIG`).
//! The parent in this sense is the thread that started it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use rustix::process::Signal;

use super::own_program;
use crate::process::Program;

/// Set in a process that is to follow: the program to become and its arguments.
pub(super) const BECOME_ENV: &str = "WEFT_SANDBOX_BECOME";
/// Set in a process that is to follow: the process id of its parent.
const LEADER_ENV: &str = "WEFT_SANDBOX_LEADER";
/// Between the words of [`BECOME_ENV`]: the unit separator, which no argument of ours has.
const SEPARATOR: u8 = 0x1f;

/// A command for `program` whose process ends with the thread that starts it. Takes environment
/// variables, but no further arguments.
pub(crate) fn command(program: &Program) -> Command {
    let meant = program.command();
    let words: Vec<&[u8]> = std::iter::once(meant.get_program())
        .chain(meant.get_args())
        .map(OsStr::as_bytes)
        .collect();
    let mut command = own_program();
    command
        .env_clear()
        .envs(
            meant
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env(BECOME_ENV, OsStr::from_bytes(&words.join(&SEPARATOR)))
        .env(LEADER_ENV, std::process::id().to_string());
    command
}

/// The process that is to follow: becomes the program that was meant.
pub(super) fn obey(meant: &OsStr) -> anyhow::Error {
    match prepare() {
        Ok(()) => become_program(meant),
        Err(error) => error.context("following the parent"),
    }
}

fn prepare() -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let leader: u32 = std::env::var(LEADER_ENV)
        .context("no parent is named")?
        .parse()?;
    // It may have ended before the kernel was asked.
    if std::os::unix::process::parent_id() != leader {
        std::process::exit(128 + Signal::KILL.as_raw());
    }
    Ok(())
}

/// Comes back with an error only.
fn become_program(meant: &OsStr) -> anyhow::Error {
    let mut words = meant
        .as_bytes()
        .split(|byte| *byte == SEPARATOR)
        .map(|word| OsString::from_vec(word.to_vec()));
    let program = words.next().unwrap_or_default();
    let error = Command::new(&program)
        .args(words)
        .env_remove(BECOME_ENV)
        .env_remove(LEADER_ENV)
        .exec();
    anyhow::Error::new(error).context(format!("starting {}", program.display()))
}
