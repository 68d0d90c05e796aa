//! The sandbox itself: pods that reach each other, applications that count, a load that hides
//! nothing, and nothing left behind.
//!
//! The binary enters the sandbox first and runs the tests inside. It is its own application
//! (`app`), control plane (`control-plane`), a stand-in for a sidecar (`proxy`), a real one
//! (`real-proxy`), a mesh on loopback (`loopback`), and the program whose sudden death is looked at
//! (`hold`, `mode`).

mod leftovers;
mod loopback;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use libtest_mimic::{Arguments, Trial};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_proto::names::env;
use weft_sandbox::app::echo::EchoRequest;
use weft_sandbox::app::http::Seen;
use weft_sandbox::app::{Behavior, body_hash};
use weft_sandbox::client::Http2;
use weft_sandbox::load::{Load, Protocol, Shot};
use weft_sandbox::process::Program;
use weft_sandbox::{AppSpec, Mesh, Programs, Sandbox, Service, Workload};

fn main() -> anyhow::Result<ExitCode> {
    let mut args = std::env::args_os();
    match std::env::args().nth(1).as_deref() {
        Some("app") => {
            args.next();
            return Ok(weft_sandbox::app::main(args));
        }
        Some("control-plane") => {
            args.next();
            return Ok(weft_control_plane::app::main(args));
        }
        Some("real-proxy") => {
            args.next();
            return Ok(weft_proxy::app::main(args));
        }
        Some("proxy") => return stand_in_sidecar(),
        _ => {}
    }
    let sandbox = Sandbox::enter()?;
    match std::env::args().nth(1).as_deref() {
        Some("loopback") => return loopback::main(&sandbox),
        Some("hold") => return leftovers::hold(&sandbox),
        Some("mode") => {
            println!("{}\n{}", sandbox.dir().display(), sandbox.mode());
            return Ok(ExitCode::from(7));
        }
        _ => {}
    }
    let tests = vec![
        case(&sandbox, "pods_reach_each_other", pods_reach_each_other),
        case(&sandbox, "grpc_of_every_kind", grpc_of_every_kind),
        case(
            &sandbox,
            "bytes_come_back_after_half_close",
            bytes_come_back,
        ),
        case(&sandbox, "what_was_sent_was_seen", what_was_sent_was_seen),
        case(&sandbox, "applications_do_as_told", applications_do_as_told),
        case(&sandbox, "an_application_ends_in_order", ends_in_order),
        case(&sandbox, "a_mesh_intercepts", a_mesh_intercepts),
        case(&sandbox, "a_mesh_that_cannot_start_says_why", says_why),
        case(&sandbox, "a_killed_run_leaves_nothing", leftovers::killed),
        case(&sandbox, "a_told_run_ends", leftovers::told),
        case(&sandbox, "every_rung_of_the_ladder", leftovers::ladder),
        case_anywhere(&sandbox, "a_mesh_without_namespaces", loopback::meshes_work),
        case_anywhere(
            &sandbox,
            "a_killed_run_without_namespaces_leaves_no_process",
            leftovers::killed_on_loopback,
        ),
    ];
    println!("{}", sandbox.mode());
    Ok(libtest_mimic::run(&Arguments::from_args(), tests).exit_code())
}

/// A test on a runtime of its own. Where there are no namespaces it is listed as ignored, and fails
/// where `CI` is set.
fn case<F>(sandbox: &Sandbox, name: &str, test: fn(Sandbox) -> F) -> Trial
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let impossible = !sandbox.mode().has_namespaces() && std::env::var("CI").is_err();
    case_anywhere(sandbox, name, test).with_ignored_flag(impossible)
}

/// A test that needs no namespaces.
fn case_anywhere<F>(sandbox: &Sandbox, name: &str, test: fn(Sandbox) -> F) -> Trial
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let sandbox = sandbox.clone();
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let result = runtime.block_on(test(sandbox));
        result.map_err(|error| format!("{error:#}").into())
    })
}

fn programs() -> Programs {
    let this = Program::new("/proc/self/exe");
    Programs {
        proxy: this.clone().arg("proxy"),
        control_plane: this.clone().arg("control-plane"),
        app: this.arg("app"),
    }
}

/// A client and a server without sidecars; the server's HTTP and TCP ports.
async fn two_pods(sandbox: &Sandbox) -> anyhow::Result<Mesh> {
    Mesh::builder("two", programs())
        .workload(Workload::new("client").unmeshed())
        .workload(
            Workload::new("server")
                .unmeshed()
                .version("v2")
                .port(8080, AppSpec::http())
                .port(9000, AppSpec::tcp())
                .port(9001, AppSpec::tcp_server_first()),
        )
        .start(sandbox)
        .await
}

async fn pods_reach_each_other(sandbox: Sandbox) -> anyhow::Result<()> {
    let mesh = two_pods(&sandbox).await?;
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    for address in server.addresses() {
        let to = SocketAddr::new(address, 8080);
        let answer = client.post(to, "/orders?x=1", "an order").await?;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.served_by(), Some("server"));
        let seen: Seen = serde_json::from_slice(&answer.body)?;
        assert_eq!(
            (
                seen.version.as_str(),
                seen.target.as_str(),
                seen.protocol.as_str()
            ),
            ("v2", "/orders?x=1", "HTTP/1.1")
        );
        assert_eq!(seen.body_hash, body_hash(b"an order"));

        let http2 = Http2::connect(&client, to).await?;
        let request = Request::get(format!("http://{to}/two")).body(Full::default())?;
        let seen: Seen = serde_json::from_slice(&http2.request(request).await?.body)?;
        assert_eq!(seen.protocol, "HTTP/2.0");
    }
    // Services have a route, and nobody there.
    let connect = client.connect("10.96.0.99:80".parse()?);
    let nobody = tokio::time::timeout(Duration::from_millis(200), connect).await;
    ensure!(
        !matches!(nobody, Ok(Ok(_))),
        "somebody has a service's address"
    );
    Ok(())
}

async fn grpc_of_every_kind(sandbox: Sandbox) -> anyhow::Result<()> {
    let mesh = two_pods(&sandbox).await?;
    let to = SocketAddr::new(mesh.pod("server").v4().into(), 8080);
    let mut echo = mesh.pod("client").echo_client(to, "server").await?;
    let request = |payload: &str| EchoRequest {
        payload: payload.as_bytes().to_vec(),
        repeat: 3,
        ..EchoRequest::default()
    };
    let answer = echo.unary(request("a")).await?.into_inner();
    assert_eq!(
        (answer.payload, answer.version),
        (b"a".to_vec(), "v2".into())
    );

    let mut answers = echo.server_stream(request("b")).await?.into_inner();
    for sequence in 0..3 {
        let answer = answers.message().await?.context("an answer")?;
        assert_eq!(answer.sequence, sequence);
    }
    assert_eq!(answers.message().await?, None);

    let requests = tokio_stream::iter([request("c"), request("d")]);
    let answer = echo.client_stream(requests).await?.into_inner();
    assert_eq!((answer.payload, answer.sequence), (b"cd".to_vec(), 2));

    let requests = tokio_stream::iter([request("e"), request("f")]);
    let answers = echo.bidi(requests).await?.into_inner();
    let payloads: Vec<_> = answers.map(|a| a.map(|a| a.payload)).collect().await;
    let payloads: Vec<_> = payloads.into_iter().collect::<Result<_, _>>()?;
    assert_eq!(payloads, [b"e", b"f"]);

    let failing = EchoRequest {
        fail_code: 8,
        ..request("g")
    };
    let status = echo.unary(failing).await.err().context("a failure")?;
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    Ok(())
}

async fn bytes_come_back(sandbox: Sandbox) -> anyhow::Result<()> {
    let mesh = two_pods(&sandbox).await?;
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let to = SocketAddr::new(server.v6().into(), 9000);
    let (mut read, mut write) = client.connect(to).await?.into_split();
    let sent = vec![7; 1 << 20];
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move {
            write.write_all(&sent).await?;
            write.shutdown().await
        }
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await?;
    writing.await??;
    ensure!(back == sent, "other bytes came back");

    let to = SocketAddr::new(server.v4().into(), 9001);
    let mut greeting = [0; 4];
    client.connect(to).await?.read_exact(&mut greeting).await?;
    assert_eq!(&greeting, b"220 ");
    Ok(())
}

async fn what_was_sent_was_seen(sandbox: Sandbox) -> anyhow::Result<()> {
    let mesh = two_pods(&sandbox).await?;
    let (client, app) = (mesh.pod("client"), mesh.app("server"));
    let to = SocketAddr::new(mesh.pod("server").v4().into(), 8080);
    for (protocol, prefix) in [(Protocol::Http1, "one"), (Protocol::Http2, "two")] {
        app.reset_stats().await?;
        let report = Load::new(to)
            .protocol(protocol)
            .id_prefix(prefix)
            .clients(4)
            .requests(400)
            .shot(Shot::get("/a"))
            .shot(Shot::post("/b", 1000))
            .run(&client)
            .await;
        assert_eq!((report.sent, report.status(200)), (400, 400), "{report:?}");
        assert_eq!((report.failed, report.reconnects), (0, 0), "{report:?}");
        assert_eq!(report.records.len(), 400);
        let stats = app.stats().await?;
        assert_eq!(stats.ids.len(), 400);
        assert_eq!((stats.repeated_ids(), stats.bodies.len()), (0, 200));
        assert_eq!((stats.read, stats.connections), (400, 4));
        assert_eq!(stats.routes["POST /b"], 200);
    }
    // An open loop keeps its rate, and counts what waits.
    let report = Load::new(to)
        .rate(100.0)
        .duration(Duration::from_millis(500))
        .run(&client)
        .await;
    assert!((45..=51).contains(&report.sent), "{}", report.sent);
    Ok(())
}

async fn applications_do_as_told(sandbox: Sandbox) -> anyhow::Result<()> {
    let mesh = two_pods(&sandbox).await?;
    let (client, app) = (mesh.pod("client"), mesh.app("server"));
    let to = SocketAddr::new(mesh.pod("server").v4().into(), 8080);
    let one = || Load::new(to).shot(Shot::post("/", 10)).requests(1);

    app.behave(&Behavior::status(503)).await?;
    assert_eq!(one().run(&client).await.status(503), 1);
    app.behave(&Behavior::latency(Duration::from_millis(100)))
        .await?;
    assert!(one().run(&client).await.latency(1.0) >= Duration::from_millis(100));
    app.behave(&Behavior {
        close_next: 1,
        reset_next: 1,
        ..Behavior::default()
    })
    .await?;
    for how in ["reset by peer", "closed before message completed"] {
        let report = one().run(&client).await;
        let why = report.failures.keys().next().context("a failure")?;
        ensure!(why.contains(how), "{why} instead of {how}");
    }
    let stats = app.stats().await?;
    assert_eq!((stats.read, stats.statuses[&0]), (4, 2));

    app.behave(&Behavior {
        hang_next: 1,
        ..Behavior::default()
    })
    .await?;
    let report = one().timeout(Duration::from_millis(50)).run(&client).await;
    assert_eq!(report.failed, 1);
    // 200 again, scripted by the requests themselves.
    let answer = client.get(to, "/?status=418&bytes=70000").await?;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (418, 70000));
    let answer = client.get(to, "/?chunks=3&every_ms=1").await?;
    assert_eq!(answer.text(), "chunk 0\nchunk 1\nchunk 2\n");
    let answer = client
        .post(to, "/echo", Bytes::from_static(b"back"))
        .await?;
    assert_eq!(answer.text(), "back");
    Ok(())
}

async fn ends_in_order(sandbox: Sandbox) -> anyhow::Result<()> {
    let mesh = two_pods(&sandbox).await?;
    let client = mesh.pod("client");
    let to = SocketAddr::new(mesh.pod("server").v4().into(), 8080);
    let slow = client.get(to, "/?delay_ms=1000");
    let stop = async {
        while mesh.app("server").stats().await?.in_flight == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        mesh.stop_app("server").await
    };
    let (slow, stopped) = tokio::join!(slow, stop);
    stopped?;
    let slow = slow?;
    assert_eq!(slow.status, 200);
    assert_eq!(slow.header("connection"), Some("close"));
    ensure!(client.connect(to).await.is_err(), "somebody still listens");
    mesh.start_app("server").await?;

    // Under load: what is on a connection is answered; what comes later is refused, not lost.
    let load = Load::new(to).clients(4).shot(Shot::post("/", 100));
    let load = load.start(&client);
    while load.look(|report| report.answered < 100) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let app = mesh.app("server");
    app.finish().await?;
    while load.look(|report| report.failed == 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let report = load.stop().await;
    for why in report.failures.keys() {
        ensure!(why.contains("connecting: Connection refused"), "{why}");
    }
    assert_eq!(app.stats().await?.statuses[&200], report.status(200));
    Ok(())
}

/// Listens where a sidecar does and answers by the name of its workload, once all that a sidecar
/// is told is there.
fn stand_in_sidecar() -> anyhow::Result<ExitCode> {
    for name in [env::CONTROL_PLANE_ADDR, env::CONTROL_PLANE_ID, env::MARK] {
        std::env::var(name).context(name)?;
    }
    for file in [env::TOKEN_FILE, env::TRUST_BUNDLE_FILE] {
        let content = std::fs::read(std::env::var(file).context(file)?).context(file)?;
        ensure!(!content.is_empty(), "{file} is empty");
    }
    let control = match std::env::var(env::ADMIN_ADDR)?.as_str() {
        "nowhere" => "15199",
        _ => "15190",
    };
    let name = format!("sidecar-of-{}", std::env::var(env::WORKLOAD)?);
    let args = ["proxy", "--name", &name, "--control", control];
    let listeners = ["--serve=http:15140", "--serve=http:15143"];
    let args = args.into_iter().chain(listeners).map(Into::into);
    Ok(weft_sandbox::app::main(args))
}

async fn a_mesh_intercepts(sandbox: Sandbox) -> anyhow::Result<()> {
    let mesh = Mesh::builder("meshed", programs())
        .workload(Workload::new("client").zone("a"))
        .workload(Workload::new("server").port(8080, AppSpec::http()))
        .service(Service::new("shop").port(80, 8080).endpoints(["server"]))
        .start(&sandbox)
        .await?;
    let server = mesh.pod("server");
    let stranger = mesh.stranger("stranger")?;
    for (pod, to, by) in [
        // To a cluster IP, out of a meshed pod: its own sidecar.
        (
            mesh.pod("client"),
            mesh.addr("shop", 80),
            "sidecar-of-client",
        ),
        (
            mesh.pod("client"),
            mesh.addr_v6("shop", 80),
            "sidecar-of-client",
        ),
        // From outside: the sidecar of the pod that is called.
        (
            stranger.clone(),
            (server.v4(), 8080).into(),
            "sidecar-of-server",
        ),
        (stranger, (server.v6(), 8080).into(), "sidecar-of-server"),
        // To oneself: nobody in between.
        (server.clone(), (server.v4(), 8080).into(), "server"),
    ] {
        let answer = pod.get(to, "/").await?;
        assert_eq!(answer.served_by(), Some(by), "{} to {to}", pod.name());
    }

    // From the host's network into the pod.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let forward = mesh.pod("client").forward(listener, mesh.addr("shop", 80));
    let stream = tokio::net::TcpStream::connect(at).await?;
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/")
        .header("host", "shop")
        .body(Full::<Bytes>::default())?;
    let answer = send.send_request(request).await?;
    assert_eq!(answer.headers()["x-served-by"], "sidecar-of-client");
    drop(forward);

    // The control plane reads what the sandbox writes, goes, and comes back.
    mesh.set_draining("server", true)?;
    mesh.set_endpoints("shop", ["server"])?;
    mesh.kill_control_plane().await?;
    ensure!(
        mesh.control_plane_get("/ready").await.is_err(),
        "it is there"
    );
    mesh.start_control_plane().await?;
    mesh.restart_sidecar("server").await?;

    // A rolling update.
    mesh.add_workload(Workload::new("server-2").port(8080, AppSpec::http()))
        .await?;
    mesh.set_endpoints("shop", ["server", "server-2"])?;
    mesh.remove_workload("server").await?;
    let file = std::fs::read_to_string(mesh.config_dir().join("mesh.yaml"))?;
    ensure!(
        file.contains("server-2") && !file.contains("workload: server\n"),
        "{file}"
    );
    Ok(())
}

async fn says_why(sandbox: Sandbox) -> anyhow::Result<()> {
    let result = Mesh::builder("broken", programs())
        .workload(
            Workload::new("twice")
                .unmeshed()
                .port(8080, AppSpec::http())
                .port(8080, AppSpec::http()),
        )
        .start(&sandbox)
        .await;
    let error = format!("{:#}", result.err().context("a mesh came up")?);
    for part in ["app of twice ended", "listening on [::]:8080"] {
        ensure!(error.contains(part), "{error}");
    }
    // Its sidecar never becomes ready.
    let result = Mesh::builder("late", programs())
        .workload(Workload::new("late").env(env::ADMIN_ADDR, "nowhere"))
        .patience(Duration::from_secs(1))
        .start(&sandbox)
        .await;
    let error = format!("{:#}", result.err().context("a mesh came up")?);
    for part in [
        "not ready after 1s",
        "late's sidecar: GET http://127.0.0.1:15190/ready",
    ] {
        ensure!(error.contains(part), "{error}");
    }
    Ok(())
}
