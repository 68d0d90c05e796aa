//! Weft as it is installed: the objects of `weft install` in an API server, and all their pods as
//! processes in namespaces of their own, which a stand-in for a kubelet starts from exactly what the API
//! server has of them. The control plane, the webhook and every sidecar have the permissions, tokens,
//! addresses and users that the objects give them, and no others.
//!
//! What is stood in for: the API server (`tests/src/apiserver`, which asks the webhook over TLS with the
//! bundle in its configuration, evaluates selectors and roles, and no matchConditions), the kubelet, DNS
//! and kube-proxy (`weft_sandbox::kubelet`), the controllers of Deployments, Jobs and EndpointSlices
//! ([`controllers`]), and images: a command is the program of that name.
//!
//! `cargo test -p weft-tests --test install -- NAME`. Needs network namespaces: where there are none, every
//! test is listed as ignored with the reason; with `CI=true` it fails instead. `WEFT_TEST_LOGS=DIR` keeps the
//! logs of failing tests.

mod controllers;
mod jobs;
mod life;
mod outages;
mod patched;
mod processes;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use weft_sandbox::Sandbox;

/// Meshes at a time; the sandbox allows no more.
const TEST_THREADS: usize = 2;
/// Of each test's own runtime.
const WORKERS: usize = 2;

/// What a test runs with.
#[derive(Clone, Debug)]
pub(crate) struct Cx {
    pub(crate) name: String,
    pub(crate) sandbox: Sandbox,
}

impl Cx {
    /// Says what was measured, for whoever reads the suite's output.
    pub(crate) fn measured(&self, what: impl std::fmt::Display) {
        println!("measured {}: {what}", self.name);
    }
}

/// The tests.
pub(crate) struct Suite {
    sandbox: Sandbox,
    trials: Vec<Trial>,
}

impl Suite {
    /// One more test.
    pub(crate) fn add<F>(&mut self, name: &str, test: fn(Cx) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let cx = Cx {
            name: name.to_owned(),
            sandbox: self.sandbox.clone(),
        };
        self.trials.push(Trial::ignorable_test(name, move || {
            if !cx.sandbox.mode().has_namespaces() {
                let why = cx.sandbox.mode().to_string();
                return if std::env::var("CI").is_ok_and(|value| value == "true") {
                    Err(format!("cannot run here: {why}").into())
                } else {
                    Ok(Completion::ignored_with(why))
                };
            }
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(WORKERS)
                .enable_all()
                .build()?;
            let result = runtime.block_on(test(cx));
            runtime.shutdown_background();
            result.map_err(|error| format!("{error:#}"))?;
            Ok(Completion::Completed)
        }));
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let sandbox = Sandbox::enter()?;
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TEST_THREADS);
    let mut suite = Suite {
        sandbox,
        trials: Vec::new(),
    };
    patched::register(&mut suite);
    jobs::register(&mut suite);
    life::register(&mut suite);
    outages::register(&mut suite);
    if !arguments.list {
        println!("{}", suite.sandbox.mode());
    }
    Ok(libtest_mimic::run(&arguments, suite.trials).exit_code())
}
