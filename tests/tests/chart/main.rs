//! The chart, rendered by a real Helm engine, and what the injector makes of pods, judged by the schemas of
//! Kubernetes: the tests in `tests/chart`, each under its name; the programs with the settings that the
//! chart gives them; and `weft check` with the role that the chart's own test has.
//!
//! They need a Python with `tests/chart/requirements.txt`: that of `WEFT_CHART_PYTHON`, else
//! `target/python/bin/python`, which `.ci/run` makes. Where there is none, everything is listed as ignored
//! with the reason; with `CI=true` it fails instead.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

mod check;
mod python;
mod settings;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Trial};

use python::Python;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = match Python::find() {
        Ok(python) => {
            let python = Arc::new(python);
            let mut trials = python.trials();
            let mut add = |name: &str, test: fn(&Python)| {
                let python = Arc::clone(&python);
                trials.push(Trial::test(name, move || {
                    test(&python);
                    Ok(())
                }));
            };
            add(
                "check::the_charts_test_may_read_what_it_needs",
                check::the_charts_test_may_read_what_it_needs,
            );
            add(
                "settings::programs_understand_what_the_chart_sets",
                settings::programs_understand_what_the_chart_sets,
            );
            trials
        }
        Err(why) => vec![Trial::ignorable_test("everything", move || {
            if std::env::var("CI").is_ok_and(|value| value == "true") {
                return Err(why.into());
            }
            Ok(Completion::ignored_with(why))
        })],
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}
