//! Meshes whose control plane reads a cluster: real sidecars and applications in network namespaces, as
//! the Pods of an API server.
//!
//! Each test has the API server of `tests/src/apiserver` to itself. With `WEFT_E2E_KUBECONFIG=FILE` the
//! tests use the cluster of that kubeconfig instead, one after the other, in namespaces of their own;
//! Weft's definitions are installed there and stay. Only tests that break the API server itself, as
//! [`Needs::server`] says, then still use the test's own.
//!
//! `cargo test -p weft-tests --test cluster` runs the quick form; `WEFT_SOAK=1` before it runs the same
//! tests with longer outages. `observe` needs `prometheus` and `promtool`. A test that cannot run here is
//! listed as ignored with the reason; with `CI=true` it fails instead. `WEFT_TEST_LOGS=DIR` keeps the logs
//! of failing tests.

// Shares come as `f64` of whole numbers: equality is what is meant.
#![allow(clippy::float_cmp)]

mod access;
mod canary;
mod canary_command;
mod common;
mod legacy;
mod life;
mod objects;
mod observe;
mod recipes;
mod replicas;
mod shapes;
mod statuses;
mod watches;

use std::path::PathBuf;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use weft_sandbox::Sandbox;

use common::Cx;

/// Meshes at a time; the sandbox allows no more.
const TEST_THREADS: usize = 2;
/// The kubeconfig of a cluster to use.
const KUBECONFIG: &str = "WEFT_E2E_KUBECONFIG";
const KUBECTL: &str = "kubectl";

fn main() -> anyhow::Result<ExitCode> {
    let sandbox = Sandbox::enter()?;
    let mut arguments = Arguments::from_args();
    let mut suite = Suite::new(sandbox);
    // What a control plane writes, it writes in the whole cluster.
    let threads = suite.given.as_ref().map_or(TEST_THREADS, |_| 1);
    arguments.test_threads.get_or_insert(threads);
    objects::register(&mut suite);
    access::register(&mut suite);
    canary::register(&mut suite);
    canary_command::register(&mut suite);
    legacy::register(&mut suite);
    life::register(&mut suite);
    observe::register(&mut suite);
    replicas::register(&mut suite);
    shapes::register(&mut suite);
    recipes::register(&mut suite);
    statuses::register(&mut suite);
    watches::register(&mut suite);
    if !arguments.list {
        println!("{}", suite.sandbox.mode());
    }
    Ok(libtest_mimic::run(&arguments, suite.trials).exit_code())
}

/// What a test cannot do without.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// An API server that may be broken.
    pub(crate) server: bool,
    /// `kubectl`.
    pub(crate) kubectl: bool,
    /// `prometheus` and `promtool`.
    pub(crate) prometheus: bool,
}

/// The tests and what they run with.
pub(crate) struct Suite {
    sandbox: Sandbox,
    soak: bool,
    given: Option<PathBuf>,
    trials: Vec<Trial>,
}

impl Suite {
    fn new(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            soak: std::env::var("WEFT_SOAK").is_ok_and(|value| value == "1"),
            given: std::env::var_os(KUBECONFIG).map(PathBuf::from),
            trials: Vec::new(),
        }
    }

    /// One more test.
    pub(crate) fn add<F>(&mut self, name: &str, needs: Needs, test: fn(Cx) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let cx = Cx {
            name: name.to_owned(),
            sandbox: self.sandbox.clone(),
            soak: self.soak,
            given: self.given.clone().filter(|_| !needs.server),
        };
        self.trials.push(Trial::ignorable_test(name, move || {
            if let Some(why) = obstacle(&cx.sandbox, needs) {
                return if std::env::var("CI").is_ok_and(|value| value == "true") {
                    Err(format!("cannot run here: {why}").into())
                } else {
                    Ok(Completion::ignored_with(why))
                };
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let tasks = tokio::task::LocalSet::new();
            let result = tasks.block_on(&runtime, test(cx));
            result.map_err(|error| format!("{error:#}"))?;
            Ok(Completion::Completed)
        }));
    }
}

/// Why a test cannot run on this machine.
fn obstacle(sandbox: &Sandbox, needs: Needs) -> Option<String> {
    if !sandbox.mode().has_namespaces() {
        return Some(sandbox.mode().to_string());
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths: Vec<PathBuf> = std::env::split_paths(&paths).collect();
    let wanted = [
        (KUBECTL, needs.kubectl),
        ("prometheus", needs.prometheus),
        ("promtool", needs.prometheus),
    ];
    let missing = wanted.into_iter().find(|(program, needed)| {
        *needed && !paths.iter().any(|path| path.join(program).is_file())
    });
    missing.map(|(program, _)| format!("there is no {program} on the PATH"))
}
