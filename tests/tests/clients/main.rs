//! What people run, as it is: `curl`, `nghttp`, `h2load`, `wrk`, gRPC and WebSockets of Python, PostgreSQL,
//! MariaDB, Redis, RabbitMQ and NATS with their own clients, each through two sidecars with interception and
//! mutual TLS. No client knows of a proxy: it gets a cluster IP and a port.
//!
//! The servers are processes in a pod, the clients in another. What was done is counted at the server: its
//! own statistics, its log, its tables. `cargo test -p weft-tests --test clients` runs the quick form;
//! `WEFT_SOAK=1` before it leaves connections idle for longer. Where a program is missing, the tests that
//! need it are listed as ignored with its name; with `CI=true` they fail instead. `.ci/run` installs all of
//! them. `WEFT_TEST_LOGS=DIR` keeps the logs of failing tests.

// Counters come as `f64` and are whole numbers: equality is what is meant.
#![allow(clippy::float_cmp)]

mod common;
mod curl;
mod http_load;
mod kafka;
mod mariadb;
mod messages;
mod nginx;
mod postgres;
mod programs;
mod prometheus;
mod python;
mod redis;
mod restarts;
mod silence;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use weft_sandbox::Sandbox;

use common::Cx;
use programs::Needs;

/// Meshes at a time; the sandbox allows no more.
const TEST_THREADS: usize = 2;

fn main() -> anyhow::Result<ExitCode> {
    let sandbox = Sandbox::enter()?;
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TEST_THREADS);
    let mut suite = Suite::new(sandbox);
    messages::register(&mut suite);
    kafka::register(&mut suite);
    postgres::register(&mut suite);
    mariadb::register(&mut suite);
    redis::register(&mut suite);
    restarts::register(&mut suite);
    curl::register(&mut suite);
    nginx::register(&mut suite);
    http_load::register(&mut suite);
    prometheus::register(&mut suite);
    python::register(&mut suite);
    silence::register(&mut suite);
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
    pub(crate) fn add<F>(&mut self, name: &str, needs: Needs, test: fn(Cx) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let cx = Cx {
            name: name.to_owned(),
            sandbox: self.sandbox.clone(),
            soak: self.soak,
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
    needs.missing()
}
