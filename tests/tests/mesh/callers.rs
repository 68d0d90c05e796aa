//! Who calls whom, and when Strict is safe: `weft edges` and `weft check --server`, against what servers
//! and tests have counted themselves.

use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_proto::names::ports;
use weft_sandbox::process::Program;
use weft_sandbox::{AppSpec, Mesh, Service, Workload};

use crate::Suite;
use crate::common::{APP_PORT, Cx, PORT, http_app, mesh, request, send, service, stats, wait_for};

/// Sidecars report every 10 s.
const SOON: Duration = Duration::from_secs(25);
/// Who came in plaintext longer ago counts no more.
const WINDOW: u64 = 5;
const TCP_PORT: u16 = 9000;
const PROBE: &str = "/healthz";

pub(crate) fn register(suite: &mut Suite) {
    suite.add("callers::from_plaintext_to_strict", migration);
}

/// What the command said.
struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

/// "Permissive shows who still comes in plaintext, `weft check` says when Strict is safe": callers with a
/// sidecar and without, over HTTP and as bytes, and a probe. Every count is the server's and the test's.
/// When all have a sidecar, Strict is safe, and is so.
async fn migration(cx: Cx) -> anyhow::Result<()> {
    let legacy = || Workload::new("legacy").service_account("legacy");
    let builder = mesh("callers")
        .workload(Workload::new("client").service_account("client"))
        .workload(legacy().unmeshed())
        .workload(http_app("api-1").probe(APP_PORT, PROBE))
        .workload(http_app("api-2").probe(APP_PORT, PROBE))
        .workload(Workload::new("db-1").port(TCP_PORT, AppSpec::tcp()))
        .service(service("api", ["api-1", "api-2"]))
        .service(
            Service::new("db")
                .port(TCP_PORT, TCP_PORT)
                .endpoints(["db-1"]),
        );
    cx.on(builder, async |mesh| {
        let api = mesh.addr("api", PORT);
        let client = mesh.pod("client");
        for number in 0..30 {
            let get = request(Method::GET, "/", &format!("mesh-{number}"), "");
            assert_eq!(send(&client, api, get).await?.status, 200);
        }
        // What is called without a sidecar is called at its own address.
        let first = (mesh.pod("api-1").v4(), APP_PORT).into();
        let legacy_pod = mesh.pod("legacy");
        for number in 0..7 {
            let get = request(Method::GET, "/", &format!("plain-{number}"), "");
            assert_eq!(send(&legacy_pod, first, get).await?.status, 200);
        }
        for number in 0..5 {
            let get = request(Method::GET, PROBE, &format!("probe-{number}"), "");
            assert_eq!(send(&legacy_pod, first, get).await?.status, 200);
        }
        let bytes = (mesh.pod("db-1").v4(), TCP_PORT).into();
        let mut held = legacy_pod.connect(bytes).await?;
        held.write_all(b"anything").await?;
        let mut echo = [0; 8];
        held.read_exact(&mut echo).await?;
        assert_eq!(&echo, b"anything");

        let seen = stats(mesh, ["api-1", "api-2"]).await?;
        assert_eq!((seen.requests, seen.repeated_ids()), (42, 0));
        let wanted = [
            "unmeshed default/legacy > api:80 plaintext 7 7",
            "unmeshed default/legacy > db:9000 plaintext 1 0",
            "identity default/client > api:80 mesh - 30",
            "unmeshed default/legacy > api:80 exempt 5 5",
        ];
        let edges = wait_for_edges(mesh, &wanted).await?;
        println!("{}", weft(mesh, &["edges"]).await?.out);
        for edge in edges["edges"].as_array().context("no edges")? {
            assert!(edge["lastSeconds"].as_u64() < Some(60), "{edge}");
        }
        let plain = weft(mesh, &["edges", "--plaintext"]).await?;
        assert_eq!(plain.code, Some(0), "{}", plain.error);
        assert!(
            plain.out.contains("2 edges by 4 sidecars, 2 in plaintext."),
            "{}",
            plain.out
        );
        assert!(!plain.out.contains("exempt"), "{}", plain.out);
        let elsewhere = weft(mesh, &["edges", "-n", "elsewhere"]).await?;
        assert!(elsewhere.out.starts_with("No edges"), "{}", elsewhere.out);

        // It is not safe, and the files are checked all the same.
        let said = check(mesh, "24h").await?;
        println!("{}", said.out);
        assert_eq!(said.code, Some(1), "{}{}", said.out, said.error);
        for words in [
            "nothing found",
            "warning default: Strict is not safe yet: 1 caller comes in plaintext",
            "api: default/legacy (no sidecar), last seen ",
            "db: default/legacy (no sidecar), last seen ",
        ] {
            assert!(said.out.contains(words), "{words} is not in {}", said.out);
        }
        // A connection that stays open is seen for as long as it is.
        tokio::time::sleep(Duration::from_secs(WINDOW + 2)).await;
        let said = check(mesh, &format!("{WINDOW}s")).await?;
        assert!(said.out.contains("db: default/legacy"), "{}", said.out);
        assert!(!said.out.contains("api: "), "{}", said.out);
        drop(held);

        // The pod comes again, with a sidecar. What it did before is remembered, and over.
        mesh.remove_workload("legacy").await?;
        mesh.add_workload(legacy()).await?;
        let legacy_pod = mesh.pod("legacy");
        for number in 0..9 {
            let get = request(Method::GET, "/", &format!("late-{number}"), "");
            assert_eq!(send(&legacy_pod, api, get).await?.status, 200);
        }
        let seen = stats(mesh, ["api-1", "api-2"]).await?;
        assert_eq!((seen.requests, seen.repeated_ids()), (51, 0));
        wait_for_edges(
            mesh,
            &[
                "identity default/client > api:80 mesh - 30",
                "identity default/legacy > api:80 mesh - 9",
            ],
        )
        .await?;
        let window = format!("{WINDOW}s");
        let said = wait_for("Strict is safe", SOON, async || {
            let said = check(mesh, &window).await?;
            Ok(said
                .out
                .contains("default: Strict is safe: ")
                .then_some(said))
        })
        .await?;
        println!("{}", said.out);
        assert_eq!(said.code, Some(0), "{}", said.out);
        // By default sidecars are wanted to have watched for longer, and yesterday counts.
        let said = check(mesh, "24h").await?;
        assert_eq!(said.code, Some(1), "{}", said.out);

        // And so it is.
        mesh.apply_policy("strict", STRICT)?;
        wait_for("Strict", SOON, async || {
            let said = check(mesh, &window).await?;
            Ok(said
                .out
                .contains("nothing with a sidecar is Permissive")
                .then_some(()))
        })
        .await?;
        for pod in [&client, &legacy_pod] {
            let get = request(Method::GET, "/", &format!("strict-{}", pod.v4()), "");
            assert_eq!(send(pod, api, get).await?.status, 200);
        }
        let stranger = mesh.stranger("stranger")?;
        let get = request(Method::GET, "/", "refused", "");
        assert_eq!(send(&stranger, first, get).await?.status, 403);
        let seen = stats(mesh, ["api-1", "api-2"]).await?;
        assert_eq!((seen.requests, seen.repeated_ids()), (53, 0));
        let refused = format!("address {} > api:80 refused 1 1", stranger.v4());
        wait_for_edges(mesh, &[&refused]).await?;
        println!("{}", weft(mesh, &["edges"]).await?.out);

        mesh.kill_control_plane().await?;
        let said = weft(mesh, &["edges"]).await?;
        assert_eq!(said.code, Some(2), "{}", said.out);
        assert!(said.error.contains("port-forward"), "{}", said.error);
        let said = check(mesh, &window).await?;
        assert_eq!(said.code, Some(0), "{}", said.out);
        assert!(
            said.out.contains("could not be asked who calls"),
            "{}",
            said.out
        );
        Ok(())
    })
    .await
}

const STRICT: &str = "\
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: strict, namespace: default}
spec: {targetRefs: [{kind: Namespace, name: default}], mtls: {mode: Strict}}
";

/// Waits until these are among the edges, as `KIND NAME > SERVICE:PORT TLS CONNECTIONS REQUESTS`; of
/// sidecars' connections, which they share as they like, `-` stands for the count.
async fn wait_for_edges(mesh: &Mesh, wanted: &[&str]) -> anyhow::Result<Value> {
    let mut last = Vec::new();
    let found = wait_for("edges", SOON, async || {
        let said = weft(mesh, &["edges", "-o", "json"]).await?;
        let edges: Value = serde_json::from_str(&said.out).with_context(|| said.error.clone())?;
        let all = edges["edges"].as_array().context("no edges")?;
        last = all.iter().map(words).collect();
        let is_there = |wanted: &&str| last.iter().any(|it| it == wanted);
        Ok(wanted.iter().all(is_there).then_some(edges))
    })
    .await;
    found.with_context(|| format!("{last:#?}"))
}

fn words(edge: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let tls = text(&edge["tls"]);
    let connections = match &*tls {
        "mesh" => "-".to_owned(),
        _ => edge["connections"].to_string(),
    };
    format!(
        "{} {} > {}:{} {tls} {connections} {}",
        text(&edge["from"]["kind"]),
        text(&edge["from"]["name"]),
        text(&edge["to"]["name"]),
        edge["port"],
        edge["requests"],
    )
}

/// Checks the mesh's files, and asks who calls.
async fn check(mesh: &Mesh, window: &str) -> anyhow::Result<Said> {
    let files = mesh.config_dir();
    let files = files.to_str().context("a path")?;
    weft(mesh, &["check", "-f", files, "--window", window]).await
}

/// Runs a command beside the control plane.
async fn weft(mesh: &Mesh, args: &[&str]) -> anyhow::Result<Said> {
    let pod = mesh.control_plane_pod();
    let host = pod.place().map_or(
        [127, 0, 0, 1].into(),
        weft_sandbox::pod::loopback::Place::address,
    );
    let server = format!("http://{host}:{}", ports::ADMIN);
    let command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(args.iter().copied())
        .args(["--server", &server])
        .command();
    let output = pod.output(command).await?;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        error: String::from_utf8(output.stderr)?,
    })
}
