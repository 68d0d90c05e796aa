//! Who may look into a cluster's mesh, and who may operate it: by the roles of the chart, and by tokens of
//! service accounts, whatever the port is reached by.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http::Method;
use serde_json::json;
use weft_proto::names::env::ADMIN_TOKEN_FILE;
use weft_proto::names::ports;
use weft_sandbox::mesh::unique;
use weft_sandbox::process::Program;
use weft_sandbox::{Mesh, Pod};
use weft_tests::counts::wait_for;

use crate::common::{CHANGE, Cx, PORT, client_and, stats};
use crate::{Needs, Suite};

pub(crate) fn register(suite: &mut Suite) {
    suite.add("access::by_roles", Needs::default(), by_roles);
    suite.add("access::borrowed", Needs::default(), borrowed);
}

const PAGES: [&str; 3] = ["/status", "/edges", "/identity"];

/// What a command ended with.
struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

/// Nobody without a token gets anything, by loopback as little as from another pod; an observer lists
/// breakers and opens none; an operator opens them, which the server's own count shows; the API server away,
/// nobody is let in.
async fn by_roles(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = client_and("access", ["api-1"])
        .namespace(&unique("access"))
        .replicas(1);
    cx.on(&cluster, builder, async |mesh| {
        let replicas = mesh.replicas();
        let pod = mesh.replica_pod(&replicas[0])?;
        let backend = format!("{}/api:{PORT}", mesh.namespace());
        call(mesh, 200).await?;
        let served = stats(mesh, ["api-1"]).await?.requests;

        nobody(mesh, &pod).await?;
        // A sidecar's own kind of token, which every pod has.
        let foreign = cluster.token(mesh, "weft-observer", "weft.dev").await?;
        let answer = pod.get_admin("/status", Some(&foreign)).await?;
        assert_eq!(answer.status, 401, "{}", answer.text());
        // A token of the audience, whose owner has no right.
        let stranger = cluster
            .token(mesh, "control-plane", "admin.weft.dev")
            .await?;
        let answer = pod.get_admin("/status", Some(&stranger)).await?;
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(answer.text().contains("weft-observe"), "{}", answer.text());

        let (observer, operator) = (mesh.observer_token()?, mesh.operator_token()?);
        let listed = weft(&pod, &["breaker", "list", &backend], &observer).await?;
        assert_eq!(listed.code, Some(0), "{}", listed.error);
        assert!(listed.out.contains(&backend), "{}", listed.out);
        for args in [
            &["breaker", "open", &backend][..],
            &["identity", "rotate", "issuer", "--yes"],
        ] {
            let refused = weft(&pod, args, &observer).await?;
            assert!(matches!(refused.code, Some(1 | 2)), "{}", refused.out);
            let error = refused.error;
            assert!(
                error.contains("403") && error.contains("weft-operate"),
                "{error}"
            );
        }
        call(mesh, 200).await?;
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, served + 1);

        let opened = weft(&pod, &["breaker", "open", &backend], &operator).await?;
        assert_eq!(opened.code, Some(0), "{}", opened.error);
        call(mesh, 503).await?;
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, served + 1);
        let reset = weft(&pod, &["breaker", "reset"], &operator).await?;
        assert_eq!(reset.code, Some(0), "{}", reset.error);
        call(mesh, 200).await?;

        // What was said a moment ago still holds, and not for long.
        mesh.cut_off_replica(&replicas[0])?;
        wait_for("nobody being let in", CHANGE * 3, async || {
            let listed = weft(&pod, &["breaker", "list"], &observer).await?;
            Ok(listed.error.contains("503").then_some(()))
        })
        .await?;
        mesh.reach_replica(&replicas[0])
    })
    .await
}

/// Without a token: 401 on loopback, and from a workload's pod.
async fn nobody(mesh: &Mesh, pod: &Pod) -> anyhow::Result<()> {
    let command = json!({"command": {"kind": "breakers"}}).to_string();
    let client = mesh.pod("client");
    let port = ports::ADMIN;
    let at_home = SocketAddr::from(([127, 0, 0, 1], port));
    let from_afar = SocketAddr::from((pod.v4(), port));
    for (from, to) in [(pod, at_home), (&client, from_afar)] {
        for page in PAGES {
            let answer = from.get(to, page).await?;
            assert_eq!(answer.status, 401, "{page} at {to}: {}", answer.text());
        }
        let rotated = from
            .post(to, "/identity/rotate/issuer", Bytes::new())
            .await?;
        assert_eq!(rotated.status, 401, "{}", rotated.text());
        // Its content's type is judged before anybody is asked who that is.
        let answer = from
            .send_as(to, Method::POST, "/command", None, command.clone().into())
            .await?;
        assert_eq!(answer.status, 415, "{}", answer.text());
        for open in ["/live", "/ready", "/metrics"] {
            assert_eq!(from.get(to, open).await?.status, 200, "{open} at {to}");
        }
    }
    Ok(())
}

async fn call(mesh: &Mesh, status: u16) -> anyhow::Result<()> {
    let client = mesh.pod("client");
    let answer = client.get(mesh.addr("api", PORT), "/").await?;
    assert_eq!(answer.status, status, "{}", answer.text());
    Ok(())
}

/// Without a token file, a command gets a token of the cluster that its kubeconfig names: one that may make
/// tokens of the operator's account gets in, and one that may not is told what to do.
async fn borrowed(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = client_and("borrowed", ["api-1"])
        .namespace(&unique("borrowed"))
        .replicas(1);
    cx.on(&cluster, builder, async |mesh| {
        let replicas = mesh.replicas();
        let pod = mesh.replica_pod(&replicas[0])?;
        call(mesh, 200).await?;
        let run = async |kubeconfig: &Path| {
            let mut command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
                .args(["breaker", "reset"])
                .command();
            command.env("KUBECONFIG", kubeconfig);
            let output = pod.output(command).await?;
            anyhow::Ok(Said {
                code: output.status.code(),
                out: String::from_utf8(output.stdout)?,
                error: String::from_utf8(output.stderr)?,
            })
        };
        // The control plane itself may make no tokens.
        let own = mesh.dir().join("kubeconfig");
        let refused = run(&own).await?;
        assert_eq!(refused.code, Some(2), "{}", refused.out);
        for words in ["weft-operator", "weft-operate", "--token-file"] {
            assert!(refused.error.contains(words), "{}", refused.error);
        }
        let admin = cluster.admin_inside(mesh)?;
        let done = run(&admin).await?;
        assert_eq!(done.code, Some(0), "{}", done.error);
        assert!(done.out.starts_with("Reset 1 breaker"), "{}", done.out);
        Ok(())
    })
    .await
}

/// What the command says beside a replica, with the token of a file.
async fn weft(pod: &Pod, args: &[&str], token: &Path) -> anyhow::Result<Said> {
    let mut command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(args.iter().copied())
        .command();
    command.env(ADMIN_TOKEN_FILE, token);
    let output = pod.output(command).await?;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        error: String::from_utf8(output.stderr)?,
    })
}
