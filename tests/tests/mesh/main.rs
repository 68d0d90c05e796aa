//! Whole meshes on real traffic: control plane, sidecars and applications as processes in network
//! namespaces, with real interception.
//!
//! `cargo test -p weft-tests --test mesh` runs the quick form; `WEFT_SOAK=1` before it runs the same
//! tests with more requests and longer outages. A name or a part of one as argument chooses tests,
//! `--list` lists them. Where the machine has no network namespaces, or a test's program is missing,
//! the test is listed as ignored with the reason; with `CI=true` it fails instead.
//! `WEFT_TEST_LOGS=DIR` keeps the logs of failing tests.

// Counters come as `f64` and are whole numbers: equality is what is meant.
#![allow(clippy::float_cmp)]

mod access_log;
mod admin;
mod allowed;
mod authz;
mod backend_limits;
mod balancer;
mod bodies;
mod breaker;
mod callers;
mod canary;
mod cardinality;
mod clocks;
mod commands;
mod common;
mod conditions;
mod crowds;
mod deadlines;
mod edges;
mod expiry;
mod fallback;
mod faults;
mod frames;
mod gateway;
mod given;
mod handshakes;
mod http1;
mod lifecycle;
mod limits;
mod mirror;
mod numbers;
mod outage;
mod process_limits;
mod protocols;
mod proxy_status;
mod rates;
mod reload;
mod retries;
mod rolling;
mod rotation;
mod rules;
mod secrets;
mod security;
mod split;
mod stickiness;
mod streams;
mod tap;
mod targets;
mod tenants;
mod traces;
mod transparent;
mod triggers;
mod two_workers;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use weft_sandbox::Sandbox;

use common::Cx;

/// Meshes at a time; the sandbox allows no more.
const TEST_THREADS: usize = 2;

fn main() -> anyhow::Result<ExitCode> {
    let sandbox = Sandbox::enter()?;
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TEST_THREADS);
    let mut suite = Suite::new(sandbox);
    transparent::register(&mut suite);
    frames::register(&mut suite);
    streams::register(&mut suite);
    split::register(&mut suite);
    canary::register(&mut suite);
    admin::register(&mut suite);
    stickiness::register(&mut suite);
    mirror::register(&mut suite);
    breaker::register(&mut suite);
    balancer::register(&mut suite);
    retries::register(&mut suite);
    bodies::register(&mut suite);
    faults::register(&mut suite);
    fallback::register(&mut suite);
    security::register(&mut suite);
    handshakes::register(&mut suite);
    lifecycle::register(&mut suite);
    rolling::register(&mut suite);
    outage::register(&mut suite);
    rotation::register(&mut suite);
    given::register(&mut suite);
    secrets::register(&mut suite);
    expiry::register(&mut suite);
    clocks::register(&mut suite);
    commands::register(&mut suite);
    tap::register(&mut suite);
    numbers::register(&mut suite);
    triggers::register(&mut suite);
    two_workers::register(&mut suite);
    rates::register(&mut suite);
    targets::register(&mut suite);
    tenants::register(&mut suite);
    access_log::register(&mut suite);
    allowed::register(&mut suite);
    authz::register(&mut suite);
    reload::register(&mut suite);
    edges::register(&mut suite);
    limits::register(&mut suite);
    process_limits::register(&mut suite);
    deadlines::register(&mut suite);
    backend_limits::register(&mut suite);
    conditions::register(&mut suite);
    rules::register(&mut suite);
    gateway::register(&mut suite);
    http1::register(&mut suite);
    protocols::register(&mut suite);
    proxy_status::register(&mut suite);
    traces::register(&mut suite);
    callers::register(&mut suite);
    crowds::register(&mut suite);
    cardinality::register(&mut suite);
    if !arguments.list {
        println!("{}", suite.sandbox.mode());
    }
    Ok(libtest_mimic::run(&arguments, suite.trials).exit_code())
}

/// The tests and what they run with.
pub(crate) struct Suite {
    sandbox: Sandbox,
    soak: bool,
    trials: Vec<Trial>,
}

impl Suite {
    fn new(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            soak: std::env::var("WEFT_SOAK").is_ok_and(|value| value == "1"),
            trials: Vec::new(),
        }
    }

    /// One more test.
    pub(crate) fn add<F>(&mut self, name: &str, test: fn(Cx) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        self.add_needing(None, name, test);
    }

    /// One more test, which runs a program of this machine.
    pub(crate) fn add_needing<F>(
        &mut self,
        program: Option<&'static str>,
        name: &str,
        test: fn(Cx) -> F,
    ) where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let cx = Cx {
            name: name.to_owned(),
            sandbox: self.sandbox.clone(),
            soak: self.soak,
        };
        self.trials.push(Trial::ignorable_test(name, move || {
            if let Some(why) = obstacle(&cx.sandbox, program) {
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
fn obstacle(sandbox: &Sandbox, program: Option<&str>) -> Option<String> {
    if !sandbox.mode().has_namespaces() {
        return Some(sandbox.mode().to_string());
    }
    let program = program?;
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|path| Path::new(&path).join(program).is_file());
    (!found).then(|| format!("there is no {program} on the PATH"))
}
