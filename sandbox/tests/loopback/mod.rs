//! A mesh without namespaces: real sidecars, explicit listeners on loopback. It runs in a run of its
//! own that is told to take this rung, so that it is tested on every machine.

mod servers;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_sandbox::app::echo::EchoRequest;
use weft_sandbox::enter::MODE_ENV;
use weft_sandbox::load::{Load, Protocol, Shot};
use weft_sandbox::pod::loopback::Place;
use weft_sandbox::process::Program;
use weft_sandbox::{AppSpec, Mesh, Pod, Programs, Sandbox, Service, Workload};

use super::leftovers;

/// How long a policy edit may take to reach a sidecar.
const EDIT_PATIENCE: Duration = Duration::from_secs(1);

/// The test: starts this program anew, as `loopback`.
pub(crate) async fn meshes_work(_: Sandbox) -> anyhow::Result<()> {
    let output = leftovers::run(&["loopback"])
        .env(MODE_ENV, "explicit")
        .output()?;
    ensure!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// What the new run does.
pub(crate) fn main(sandbox: &Sandbox) -> anyhow::Result<ExitCode> {
    ensure!(!sandbox.mode().has_interception(), "{}", sandbox.mode());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mesh = start(sandbox).await?;
        let told = async {
            requests_are_carried(&mesh).await?;
            bytes_are_carried(&mesh).await?;
            policy_holds(&mesh).await?;
            a_call_to_oneself_is_local(&mesh).await?;
            a_taken_listener_is_named(&mesh).await?;
            servers::work(&mesh).await?;
            workloads_come_and_go(&mesh).await
        };
        let result: anyhow::Result<()> = told.await;
        result.map_err(|error| error.context(mesh.log_tails()))?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn start(sandbox: &Sandbox) -> anyhow::Result<Mesh> {
    let this = Program::new("/proc/self/exe");
    let programs = Programs {
        proxy: this.clone().arg("real-proxy"),
        ..super::programs()
    };
    let server = |name: &str| {
        Workload::new(name)
            .service_account("shop")
            .port(8080, AppSpec::http())
            .port(9000, AppSpec::tcp())
            .port(9001, AppSpec::tcp_server_first())
    };
    Mesh::builder("loopback", programs)
        .workload(Workload::new("client").service_account("web"))
        .workload(server("server-1"))
        .workload(server("server-2"))
        .workload(servers::workload())
        .service(servers::service())
        .service(
            Service::new("shop")
                .port(80, 8080)
                .port_name("http")
                .port(90, 9000)
                .port_name("bytes")
                .port(91, 9001)
                .port_name("greeting")
                .endpoints(["server-1", "server-2"]),
        )
        .service(
            Service::new("first")
                .port(80, 8080)
                .port_name("http")
                .endpoints(["server-1"]),
        )
        .named_policy("mtls", &policy("Strict"))
        .start(sandbox)
        .await
}

fn policy(mode: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: mtls}}\nspec:\n  \
         targetRefs: [{{kind: Service, name: shop}}]\n  mtls: {{mode: {mode}}}\n"
    )
}

/// HTTP/1.1, HTTP/2 and gRPC, by mutual TLS, to both endpoints.
async fn requests_are_carried(mesh: &Mesh) -> anyhow::Result<()> {
    let (client, to) = (mesh.pod("client"), mesh.addr("shop", 80));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for server in ["server-1", "server-2"] {
            mesh.app(server).reset_stats().await?;
        }
        let report = Load::new(to)
            .protocol(protocol)
            .clients(4)
            .requests(200)
            .shot(Shot::get("/a"))
            .shot(Shot::post("/b", 1000))
            .run(&client)
            .await;
        ensure!(report.status(200) == 200, "{protocol:?}: {report:?}");
        let first = mesh.app("server-1").stats().await?.read;
        let second = mesh.app("server-2").stats().await?.read;
        ensure!(first > 0 && second > 0, "{first} and {second}");
        assert_eq!(first + second, 200);
    }
    let mut echo = client.echo_client(to, "shop").await?;
    let request = EchoRequest {
        payload: b"hello".to_vec(),
        ..EchoRequest::default()
    };
    assert_eq!(echo.unary(request).await?.into_inner().payload, b"hello");

    let seen = mesh.metrics("server-1").await?;
    for labels in [
        r#"direction="inbound""#,
        r#"peer="default/web""#,
        r#"tls="mutual""#,
    ] {
        ensure!(counted(&seen, labels), "no request with {labels}:\n{seen}");
    }
    ensure!(
        !counted(&mesh.metrics("client").await?, r#"tls="none",outcome="ok""#),
        "a request in plaintext"
    );
    // What listens at a service's address is nobody; what listens at a pod's is its sidecar.
    let stranger = mesh.stranger("stranger")?;
    ensure!(
        stranger.connect(to).await.is_err(),
        "a service without sidecar"
    );
    let over_v6 = client.connect(mesh.addr_v6("shop", 80)).await;
    ensure!(
        over_v6.is_err_and(|error| error.kind() == std::io::ErrorKind::Unsupported),
        "IPv6"
    );
    Ok(())
}

/// Both ways, with half-close; and a server that speaks first.
async fn bytes_are_carried(mesh: &Mesh) -> anyhow::Result<()> {
    let client = mesh.pod("client");
    let mut stream = client.connect(mesh.addr("shop", 90)).await?;
    stream.write_all(b"there and back").await?;
    stream.shutdown().await?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await?;
    assert_eq!(back, b"there and back");

    let mut greeting = [0; 4];
    let mut stream = client.connect(mesh.addr("shop", 91)).await?;
    stream.read_exact(&mut greeting).await?;
    assert_eq!(&greeting, b"220 ");
    Ok(())
}

/// Strict refuses plaintext, and an edit on disk changes that while everything runs.
async fn policy_holds(mesh: &Mesh) -> anyhow::Result<()> {
    let stranger = mesh.stranger("plaintext")?;
    let to = app_of(&mesh.pod("server-1"));
    mesh.app("server-1").reset_stats().await?;
    let answer = stranger.get(to, "/secret").await?;
    assert_eq!(
        (answer.status.as_u16(), answer.outcome()),
        (403, Some("mtls_required"))
    );
    assert_eq!(mesh.app("server-1").stats().await?.read, 0);

    mesh.apply_policy("mtls", &policy("Permissive"))?;
    let permitted = async {
        loop {
            let answer = stranger.get(to, "/").await?;
            if answer.status == 200 {
                return anyhow::Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let answer = tokio::time::timeout(EDIT_PATIENCE, permitted).await??;
    assert_eq!(answer.served_by(), Some("server-1"));
    Ok(())
}

/// Through a service whose only endpoint is the caller: straight to the own application.
async fn a_call_to_oneself_is_local(mesh: &Mesh) -> anyhow::Result<()> {
    let answer = mesh
        .pod("server-1")
        .get(mesh.addr("first", 80), "/")
        .await?;
    assert_eq!(answer.served_by(), Some("server-1"));
    let seen = mesh.metrics("server-1").await?;
    ensure!(counted(&seen, r#"tls="local""#), "not local:\n{seen}");
    let probe = mesh.admin_get("server-1", "/probe/8080").await?;
    assert_eq!(probe.status, 200, "{}", probe.text());
    Ok(())
}

/// A listener for a service that somebody else has: the sidecar is not ready, says which, and takes
/// it when it is free.
async fn a_taken_listener_is_named(mesh: &Mesh) -> anyhow::Result<()> {
    mesh.stop_sidecar("server-2").await?;
    let pod = mesh.pod("server-2");
    let mut listeners = pod.place().into_iter().flat_map(Place::listeners);
    let (service, listener) = listeners.next().context("no listener")?;
    let taken = std::net::TcpListener::bind(listener)?;
    let told = async {
        let line = format!("listener {listener} (");
        while !mesh
            .admin_get("server-2", "/ready")
            .await
            .is_ok_and(|answer| answer.status == 503 && answer.text().contains(&line))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(taken);
    };
    let (started, ()) = tokio::join!(mesh.start_sidecar("server-2"), told);
    started?;
    pod.connect(service).await?;
    Ok(())
}

/// A restart, a new workload with the listeners of its own, the end of an old one.
async fn workloads_come_and_go(mesh: &Mesh) -> anyhow::Result<()> {
    mesh.restart_sidecar("server-1").await?;
    let new = Workload::new("server-3")
        .service_account("shop")
        .port(8080, AppSpec::http());
    mesh.add_workload(new).await?;
    mesh.set_endpoints("first", ["server-3"])?;
    for caller in ["client", "server-3"] {
        let moved = async {
            loop {
                let answer = mesh.pod(caller).get(mesh.addr("first", 80), "/").await?;
                ensure!(answer.status == 200, "from {caller}: {}", answer.status);
                if answer.served_by() == Some("server-3") {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(EDIT_PATIENCE, moved).await??;
    }
    mesh.remove_workload("server-1").await?;
    mesh.kill_control_plane().await?;
    let answer = mesh.pod("client").get(mesh.addr("shop", 80), "/").await?;
    assert_eq!(answer.status, 200);
    Ok(())
}

fn app_of(pod: &Pod) -> SocketAddr {
    SocketAddr::new(pod.v4().into(), 8080)
}

/// Whether a page of metrics has requests with these labels, as they are written there.
fn counted(page: &str, labels: &str) -> bool {
    page.lines()
        .any(|line| line.starts_with("weft_requests_total{") && line.contains(labels))
}
