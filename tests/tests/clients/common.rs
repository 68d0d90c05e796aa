//! What the tests share: a client's pod and a server's, real servers in the one and real clients in the
//! other, and what the sidecars say of what went between them.

use std::fmt::{Display, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use weft_sandbox::mesh::Builder;
use weft_sandbox::metrics::Metrics;
use weft_sandbox::process::Process;
use weft_sandbox::programs::{LOG_PREFIX, log_tails};
use weft_sandbox::{AppSpec, Mesh, Pod, Programs, Sandbox, Service, Workload};
use weft_tests::counts::wait_for;

use crate::programs;

/// The workload that clients run in; its service account has the same name.
pub(crate) const CLIENT: &str = "client";
/// The workload that servers run in; its service account has the same name.
pub(crate) const SERVER: &str = "server";
/// Lines of a table that is filled at once, and the length of each with its end.
pub(crate) const LINES: usize = 100_000;
pub(crate) const LINE: usize = 100;
/// What a test may take, in both tiers: what hangs is named instead of waited for.
const LIMIT: Duration = Duration::from_secs(120);
const SOAK_LIMIT: Duration = Duration::from_secs(300);
/// What a server may take until it accepts connections. They come with a machine's first start.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// What counters may lag behind what has happened.
pub(crate) const COUNT_PATIENCE: Duration = Duration::from_secs(10);
/// Lines of a server's log that a message shows.
const TAIL_LINES: usize = 30;
/// Where the logs of failing tests are kept; nowhere without it.
const KEEP_LOGS: &str = "WEFT_TEST_LOGS";

/// What a test runs with.
#[derive(Clone, Debug)]
pub(crate) struct Cx {
    pub(crate) name: String,
    pub(crate) sandbox: Sandbox,
    pub(crate) soak: bool,
}

impl Cx {
    /// How long a connection is left alone that has to be there afterwards.
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(if self.soak { 60 } else { 5 })
    }

    /// Says what was measured, for whoever reads the suite's output.
    pub(crate) fn measured(&self, what: impl Display) {
        println!("measured {}: {what}", self.name);
    }

    /// Starts a mesh and runs the test on it. Where it fails, the ends of all logs are shown.
    pub(crate) async fn on(
        &self,
        mesh: Builder,
        test: impl AsyncFnOnce(&Mesh) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mesh = mesh.start(&self.sandbox).await?;
        let limit = if self.soak { SOAK_LIMIT } else { LIMIT };
        let bounded = tokio::time::timeout(limit, test(&mesh));
        let result = AssertUnwindSafe(bounded).catch_unwind().await;
        if !matches!(result, Ok(Ok(Ok(())))) {
            self.keep_logs(&mesh).await;
        }
        match result {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(error.context(all_log_tails(&mesh))),
            Ok(Err(_)) => anyhow::bail!("not done after {limit:?}\n{}", all_log_tails(&mesh)),
            // The mesh shows its own logs when it is dropped in a panic.
            Err(panic) => {
                eprintln!("{}", log_tails(mesh.dir()));
                std::panic::resume_unwind(panic)
            }
        }
    }

    /// Keeps logs and the sidecars' metrics, where that is asked for.
    async fn keep_logs(&self, mesh: &Mesh) {
        let Some(place) = std::env::var_os(KEEP_LOGS) else {
            return;
        };
        let place = PathBuf::from(place).join(self.name.replace("::", "."));
        let copy = || -> std::io::Result<()> {
            std::fs::create_dir_all(&place)?;
            for file in std::fs::read_dir(mesh.dir().join("logs"))? {
                let file = file?;
                std::fs::copy(file.path(), place.join(file.file_name()))?;
            }
            Ok(())
        };
        let copied = copy();
        for workload in [CLIENT, SERVER] {
            // A sidecar that is gone has none.
            if let Ok(page) = mesh.metrics(workload).await {
                let _ = std::fs::write(place.join(format!("{workload}.metrics")), page);
            }
        }
        if let Err(error) = copied {
            eprintln!("the logs could not be kept in {}: {error}", place.display());
        }
    }
}

/// An empty mesh that runs what was just built.
pub(crate) fn empty(name: &str) -> Builder {
    Mesh::builder(
        name,
        Programs::of_weft(env!("CARGO_BIN_EXE_weft-under-test")),
    )
}

/// A meshed client and a meshed server with these ports, on which tests start something themselves. They
/// are those of the service [`SERVER`] too, and nobody says what is spoken there.
pub(crate) fn client_and_server<const N: usize>(name: &str, ports: [u16; N]) -> Builder {
    client_and_apps(name, ports.map(|port| (port, AppSpec::none())))
}

/// The same with what listens there.
pub(crate) fn client_and_apps<const N: usize>(name: &str, ports: [(u16, AppSpec); N]) -> Builder {
    let mut server = Workload::new(SERVER).service_account(SERVER);
    let mut service = Service::new(SERVER).endpoints([SERVER]);
    for (port, app) in ports {
        server = server.port(port, app);
        service = service.port(port, port).port_name(&format!("p{port}"));
    }
    empty(name)
        .workload(Workload::new(CLIENT).service_account(CLIENT))
        .workload(server)
        .service(service)
}

/// What clients are told: an address that no process has.
pub(crate) fn host(mesh: &Mesh) -> String {
    mesh.cluster_ip(SERVER).to_string()
}

/// Starts a server in the server's pod and waits until it accepts connections on this port.
pub(crate) async fn serve(
    mesh: &Mesh,
    name: &str,
    command: Command,
    port: u16,
) -> anyhow::Result<Process> {
    let pod = mesh.pod(SERVER);
    let process = start(mesh, &pod, name, command)?;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listening = wait_for(name, START_PATIENCE, async || {
        if let Some(status) = process.ended()? {
            anyhow::bail!("{name} ended with {status}");
        }
        Ok(pod.connect(at).await.ok().map(drop))
    });
    listening
        .await
        .with_context(|| process.log_tail(TAIL_LINES))?;
    Ok(process)
}

/// Starts a process with a log that is shown where the test fails.
pub(crate) fn start(
    mesh: &Mesh,
    pod: &Pod,
    name: &str,
    command: Command,
) -> anyhow::Result<Process> {
    let log = mesh
        .dir()
        .join("logs")
        .join(format!("{LOG_PREFIX}{name}.log"));
    pod.start(name, command, &log)
        .with_context(|| format!("starting {name}"))
}

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: Option<i32>,
}

/// Runs a program of the client's pod to its end, however it ends.
pub(crate) async fn run(mesh: &Mesh, command: Command) -> anyhow::Result<Said> {
    run_in(&mesh.pod(CLIENT), command).await
}

/// Runs a program of the client's pod, which is to succeed; what it printed.
pub(crate) async fn succeed(mesh: &Mesh, command: Command) -> anyhow::Result<String> {
    Ok(succeed_in(&mesh.pod(CLIENT), command).await?.out)
}

/// As [`succeed`], in any pod, with what it said on stderr.
pub(crate) async fn succeed_in(pod: &Pod, command: Command) -> anyhow::Result<Said> {
    let what = format!("{command:?}");
    let said = run_in(pod, command).await?;
    anyhow::ensure!(
        said.code == Some(0),
        "{what} ended with {:?}\n{}\n{}",
        said.code,
        said.out,
        said.err
    );
    Ok(said)
}

/// Runs one of the scripts in `tests/clients` in the client's pod: it is told where the server is and how
/// long a connection is to be left alone, and is to succeed.
pub(crate) async fn run_script(
    cx: &Cx,
    mesh: &Mesh,
    name: &str,
    port: u16,
) -> anyhow::Result<String> {
    let mut command = programs::script(name, mesh.dir());
    command.args([
        host(mesh),
        port.to_string(),
        cx.idle().as_secs().to_string(),
    ]);
    succeed(mesh, command).await
}

/// 10 MB of text that no compression makes much shorter: [`LINES`] of [`LINE`] bytes, in order.
pub(crate) fn ten_megabytes() -> String {
    let mut random = fastrand::Rng::with_seed(10);
    let mut text = String::with_capacity(LINES * LINE);
    for number in 0..LINES {
        let _ = write!(text, "{number:08}");
        text.extend(std::iter::repeat_with(|| random.alphanumeric()).take(LINE - 9));
        text.push('\n');
    }
    text
}

/// A sidecar's metrics.
pub(crate) async fn metrics(mesh: &Mesh, workload: &str) -> anyhow::Result<Metrics> {
    Ok(Metrics::parse(&mesh.metrics(workload).await?))
}

/// Both sidecars relayed so many connections as bytes, each in mutual TLS with the other one, and no
/// others.
pub(crate) async fn assert_relayed(mesh: &Mesh, wanted: u64) -> anyhow::Result<()> {
    assert_carried(mesh, "weft_tcp_connections_total", wanted).await?;
    none_of(mesh, "weft_requests_total").await
}

/// Both sidecars carried so many HTTP requests, each in mutual TLS with the other one, and no others.
pub(crate) async fn assert_requests(mesh: &Mesh, wanted: u64) -> anyhow::Result<()> {
    assert_carried(mesh, "weft_requests_total", wanted).await?;
    none_of(mesh, "weft_tcp_connections_total").await
}

/// Both sidecars counted this much in mutual TLS with each other, and nothing otherwise.
pub(crate) async fn assert_carried(mesh: &Mesh, family: &str, wanted: u64) -> anyhow::Result<()> {
    for (workload, direction, peer) in [
        (CLIENT, "outbound", "default/server"),
        (SERVER, "inbound", "default/client"),
    ] {
        let labels = [("direction", direction), ("tls", "mutual"), ("peer", peer)];
        let mut seen = Metrics::default();
        // What has ended at the client may not have been counted yet.
        let counted = wait_for(family, COUNT_PATIENCE, async || {
            seen = metrics(mesh, workload).await?;
            Ok((seen.sum(family, &labels) >= wanted as f64).then_some(()))
        });
        let lines =
            |seen: &Metrics| format!("{:#?}", seen.matching(family, &[]).collect::<Vec<_>>());
        counted
            .await
            .with_context(|| format!("{wanted} wanted, {direction}: {}", lines(&seen)))?;
        for labels in [&labels[..], &[("direction", direction)]] {
            let found = seen.sum(family, labels);
            assert_eq!(
                found,
                wanted as f64,
                "{family} {labels:?}: {}",
                lines(&seen)
            );
        }
    }
    Ok(())
}

async fn none_of(mesh: &Mesh, family: &str) -> anyhow::Result<()> {
    for workload in [CLIENT, SERVER] {
        assert_eq!(
            metrics(mesh, workload).await?.sum(family, &[]),
            0.0,
            "{family}"
        );
    }
    Ok(())
}

async fn run_in(pod: &Pod, command: Command) -> anyhow::Result<Said> {
    let what = format!("{command:?}");
    let output = pod.output(command).await.context(what)?;
    Ok(Said {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    })
}

fn all_log_tails(mesh: &Mesh) -> String {
    format!("{}{}", mesh.log_tails(), log_tails(mesh.dir()))
}
