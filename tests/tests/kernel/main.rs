//! What the real kernel makes of the redirect rules and of the links that pods have.
//!
//! `cargo test -p weft-tests --test kernel` runs it, as root or as an ordinary user where the machine
//! lets one make user namespaces. Each test is on a thread of its own, in network namespaces that it
//! makes. Where the machine has none, every test is listed as ignored with the reason; with `CI=true`
//! it fails instead.

mod interception;
mod links;
mod pod;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use weft_sandbox::{Mode, Sandbox};

/// A test's name and what it does; it panics where something is not as it should be.
pub(crate) type Test = (&'static str, fn());

/// Functions as tests of the same names.
macro_rules! tests {
    ($($test:ident),* $(,)?) => { &[$((stringify!($test), $test)),*] };
}
pub(crate) use tests;

fn main() -> anyhow::Result<ExitCode> {
    let sandbox = Sandbox::enter()?;
    let arguments = Arguments::from_args();
    if !arguments.list {
        println!("{}", sandbox.mode());
    }
    let groups = [
        ("interception", interception::TESTS),
        ("links", links::TESTS),
    ];
    let trials = groups.into_iter().flat_map(|(group, tests)| {
        let mode = sandbox.mode();
        tests
            .iter()
            .map(move |(name, test)| trial(format!("{group}::{name}"), *test, mode.clone()))
    });
    Ok(libtest_mimic::run(&arguments, trials.collect()).exit_code())
}

fn trial(name: String, test: fn(), mode: Mode) -> Trial {
    Trial::ignorable_test(name, move || {
        if mode.has_namespaces() {
            test();
            return Ok(Completion::Completed);
        }
        let why = mode.to_string();
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            return Err(format!("cannot run here: {why}").into());
        }
        Ok(Completion::ignored_with(why))
    })
}
