//! Container images: whether they are what the OCI image specification says, whether nothing is in them
//! that should not be, and whether their programs run with nothing but what is in them.
//!
//! `cargo test -p weft-tests --test images` makes them of the programs under test. What reads them here
//! is not what wrote them: `tar`, `gzip` and `sha256sum` of the system. Programs are started from the
//! unpacked image as their root, in namespaces of the sandbox; where a machine has none, those tests are
//! listed as ignored with the reason, and fail with `CI=true`. With `WEFT_SOAK=1` the programs of the
//! profile `dist` are built too, and their images measured.

mod commands;
mod dockerfile;
mod files;
mod layout;
mod made;
mod names;
mod run;
mod shape;
mod sizes;

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
    made::set_sandbox(sandbox.clone());
    let arguments = Arguments::from_args();
    if !arguments.list {
        println!("{}", sandbox.mode());
    }
    let everywhere = [
        ("commands", commands::TESTS),
        ("dockerfile", dockerfile::TESTS),
        ("files", files::TESTS),
        ("shape", shape::TESTS),
        ("sizes", sizes::TESTS),
    ];
    let rooted = [("names", names::TESTS), ("run", run::TESTS)];
    let trials = everywhere
        .into_iter()
        .flat_map(|(group, tests)| tests.iter().map(move |test| trial(group, *test, None)));
    let refusal = (!sandbox.mode().has_namespaces()).then(|| sandbox.mode().clone());
    let rooted = rooted.into_iter().flat_map(|(group, tests)| {
        let refusal = refusal.clone();
        tests
            .iter()
            .map(move |test| trial(group, *test, refusal.clone()))
    });
    let trials = trials.chain(rooted).collect();
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

fn trial(group: &str, (name, test): Test, refusal: Option<Mode>) -> Trial {
    Trial::ignorable_test(format!("{group}::{name}"), move || {
        let Some(why) = refusal else {
            test();
            return Ok(Completion::Completed);
        };
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            return Err(format!("cannot run here: {why}").into());
        }
        Ok(Completion::ignored_with(why.to_string()))
    })
}
