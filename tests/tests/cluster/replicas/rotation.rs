//! Rotations with two replicas: of leaves, issuer and root, each with traffic of each kind; and of the root
//! while the replica that leads is killed, which another one goes on with where it was.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use weft_proto::names::{alpn, cluster, env, ports};
use weft_proto::spiffe::SpiffeId;
use weft_sandbox::metrics::Metrics;
use weft_sandbox::process::Program;
use weft_sandbox::{Mesh, Pod};
use weft_tests::counts::wait_for;
use weft_tests::grpc_and_bytes::{GrpcAndBytes, with_servers};
use weft_tests::tls::{self, Credentials, End};

use super::scene::Scene;
use super::{LEASE, leader_and_other, replicated};
use crate::common::{APP_PORT, Cluster, Cx};

/// So short that each phase takes seconds.
const LEAF: &str = "8s";
/// The same without such an accident, in both forms.
const QUICK_LEAF: &str = "5s";
const SOAK_LEAF: &str = "30s";
/// So long that a rotation is still there when somebody looks.
const LONG_LEAF: &str = "60s";
/// Certificates that each sidecar has had before the rotation; during it there are several more.
const LEAVES: u64 = 2;
/// What one phase may take on a busy machine.
const PHASE: Duration = Duration::from_secs(50);

/// "Rotation of leaf, issuer and root under load (HTTP/1, gRPC, TCP; two control-plane replicas): 0 failed; the
/// old root gone at the end; a phase cannot be skipped": leaves and the root, with its issuer. A certificate
/// of the old root is refused.
pub(super) async fn leaf_and_root(cx: Cx) -> anyhow::Result<()> {
    under_load(&cx, "root").await
}

/// The same of leaves and the issuer under a root that stays.
pub(super) async fn leaf_and_issuer(cx: Cx) -> anyhow::Result<()> {
    under_load(&cx, "issuer").await
}

async fn under_load(cx: &Cx, kind: &str) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let leaf = cx.pick(QUICK_LEAF, SOAK_LEAF);
    let builder = with_servers(replicated(&format!("rotate-{kind}"), LEASE));
    let builder = builder.control_plane_env(env::LEAF_LIFETIME, leaf);
    cx.on(&cluster, builder, async |mesh| {
        let former = Stranger::of(&cluster, mesh, "former").await?;
        former.is_served(mesh).await?;
        mesh.app("api-1").reset_stats().await?;

        let mut scene = Scene::begin(&cluster, mesh).await?;
        scene.expect_renewals();
        let others = GrpcAndBytes::start(mesh);
        let (leader, other) = leader_and_other(&cluster, mesh).await?;
        let begin = Instant::now();
        wait_for("several generations of leaves", PHASE, async || {
            let all = identities(mesh).await?;
            let issued = all.values().map(|it| it["certificatesIssued"].as_u64());
            Ok(issued.min().flatten().filter(|issued| *issued >= LEAVES))
        })
        .await?;
        let (renewed, begin) = (begin.elapsed(), Instant::now());
        let (before, old_root) = (identities(mesh).await?, root(mesh, &other).await?);

        // Asked for where nobody leads in one of the two, and where somebody does in the other.
        let phases = if kind == "root" {
            rotated(mesh, kind, &leader, &other).await?
        } else {
            rotated(mesh, kind, &other, &leader).await?
        };
        let took = begin.elapsed();
        all_signed_anew(mesh, &before).await?;
        let root_now = root(mesh, &other).await?;
        assert_eq!(root(mesh, &leader).await?, root_now);
        assert_eq!(root_now == old_root, kind == "issuer");
        trust_only(mesh, &root_now).await?;
        match kind {
            "root" => assert_eq!(phases, ["publish", "sign"]),
            _ => assert_eq!(phases, ["sign"]),
        }

        let others = others.end(mesh).await?;
        assert!(others.calls > 100 && others.connections > 50, "{others:?}");
        let age = scene.end(cx).await?;
        let latter = Stranger::of(&cluster, mesh, "latter").await?;
        if kind == "root" {
            former.is_refused(mesh).await?;
        } else {
            // Its root is trusted still; nobody has such a certificate any more but who made one up.
            former.is_served(mesh).await?;
        }
        latter.is_served(mesh).await?;
        cx.measured(format!(
            "leaves of {leaf}: {LEAVES} of each after {renewed:.1?}, a rotation of the {kind} took \
             {took:.1?}; {} gRPC calls, {} TCP connections, {} bytes each way, 0 failed; configuration at \
             most {age:.1} s old",
            others.calls, others.connections, others.bytes
        ));
        Ok(())
    })
    .await
}

/// "Rotation under load with two control-plane replicas: 0 failed; the old root gone at the end." It is asked
/// for at the replica that does not lead, and the one that leads is killed as soon as the new root is
/// published.
pub(super) async fn leader_killed(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = replicated("rotation", LEASE).control_plane_env(env::LEAF_LIFETIME, LEAF);
    cx.on(&cluster, builder, async |mesh| {
        let mut scene = Scene::begin(&cluster, mesh).await?;
        scene.expect_renewals();
        let (leader, other) = leader_and_other(&cluster, mesh).await?;
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), mesh.namespace());
        let bundle = async || -> anyhow::Result<String> {
            let map = maps.get(cluster::TRUST_BUNDLE).await?;
            let text = map.data.and_then(|mut data| data.remove(cluster::TRUST_BUNDLE_KEY));
            text.context("no bundle")
        };
        let (old_bundle, old_root) = (bundle().await?, root(mesh, &other).await?);
        let begin = Instant::now();
        let said = rotate(mesh, &other, "root").await?;
        assert!(said.contains("the replica that leads begins it"), "{said}");
        in_phase(mesh, &other, Some("publish")).await?;
        mesh.kill_replica(&leader).await?;
        let published = begin.elapsed();
        // Nothing is skipped for that, and nobody who signs begins before the others know.
        mesh.start_replica(&leader)?;
        mesh.wait_for_replica(&leader).await?;
        in_phase(mesh, &other, Some("sign")).await?;
        let signs = begin.elapsed();
        assert_eq!(bundle().await?.matches("BEGIN CERTIFICATE").count(), 2);
        in_phase(mesh, &other, None).await?;
        let ended = begin.elapsed();

        for replica in [&leader, &other] {
            in_phase(mesh, replica, None).await?;
            assert_ne!(root(mesh, replica).await?, old_root);
        }
        let new_root = root(mesh, &other).await?;
        wait_for("the bundle of the new root", PHASE, async || {
            let now = bundle().await?;
            Ok((now != old_bundle && now.matches("BEGIN CERTIFICATE").count() == 1).then_some(()))
        })
        .await?;
        trust_only(mesh, &new_root).await?;
        let age = scene.end(&cx).await?;
        cx.measured(format!(
            "published and the leader killed after {published:.1?}, signing after {signs:.1?}, the old root \
             gone after {ended:.1?}; configuration at most {age:.1} s old"
        ));
        Ok(())
    })
    .await
}

/// A replica that cannot read the state is waited for, and `weft check` says so until it can.
pub(super) async fn waited_for(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = replicated("waits", LEASE).control_plane_env(env::LEAF_LIFETIME, LONG_LEAF);
    cx.on(&cluster, builder, async |mesh| {
        let home = mesh.control_plane_namespace()?;
        let (leader, other) = leader_and_other(&cluster, mesh).await?;
        mesh.cut_off_replica(&other)?;
        rotate(mesh, &leader, "root").await?;
        let before = "a rotation of the root is in phase publish since ";
        let after = format!(", waiting for 1 replica ({other})");
        let mut said = String::new();
        let named = wait_for("whom the rotation waits for", PHASE, async || {
            said = cluster.check(home).await?;
            Ok((said.contains(before) && said.contains(&after)).then_some(()))
        });
        let named = named.await;
        named.with_context(|| said.clone())?;
        mesh.reach_replica(&other)?;
        wait_for("nobody is waited for", PHASE, async || {
            let said = cluster.check(home).await?;
            let is_on = said.contains("a rotation of the root is in phase ");
            Ok((is_on && !said.contains("waiting for")).then_some(()))
        })
        .await
    })
    .await
}

async fn identity(mesh: &Mesh, replica: &str) -> anyhow::Result<Value> {
    let answer = mesh.replica_get(replica, "/identity").await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

async fn in_phase(mesh: &Mesh, replica: &str, phase: Option<&str>) -> anyhow::Result<()> {
    wait_for(&format!("{phase:?} at {replica}"), PHASE, async || {
        // Right after its start it has none.
        let Ok(identity) = identity(mesh, replica).await else {
            return Ok(None);
        };
        let now = identity["rotation"]["phase"].as_str();
        Ok((now == phase).then_some(()))
    })
    .await
}

/// The root that signs.
async fn root(mesh: &Mesh, replica: &str) -> anyhow::Result<String> {
    let identity = identity(mesh, replica).await?;
    let root = identity["certificates"][0]["fingerprint"].as_str();
    Ok(root.context("no root")?.to_owned())
}

/// Rotates by the command, asked for at one replica: the phases that both replicas were seen in until it had
/// ended at both. Meanwhile each of them refuses another rotation.
async fn rotated(
    mesh: &Mesh,
    kind: &str,
    asked: &str,
    beside: &str,
) -> anyhow::Result<Vec<String>> {
    rotate(mesh, asked, kind).await?;
    let begun = wait_for("a rotation", PHASE, async || phase(mesh, asked).await).await?;
    for replica in [asked, beside] {
        let refused = rotate(mesh, replica, "root").await;
        let why = refused.err().map(|error| error.to_string());
        let why = why.context("a second rotation was taken")?;
        assert!(why.contains("no phase of it can be skipped"), "{why}");
    }
    let mut phases = vec![begun];
    wait_for("the end of the rotation", 2 * PHASE, async || {
        let now = (phase(mesh, asked).await?, phase(mesh, beside).await?);
        if let (Some(one), Some(other)) = &now
            && one == other
            && phases.last() != Some(one)
        {
            phases.push(one.clone());
        }
        Ok((now == (None, None)).then_some(()))
    })
    .await?;
    Ok(phases)
}

async fn phase(mesh: &Mesh, replica: &str) -> anyhow::Result<Option<String>> {
    let identity = identity(mesh, replica).await?;
    Ok(identity["rotation"]["phase"].as_str().map(str::to_owned))
}

/// Asks a replica to rotate, by the command: what it says.
async fn rotate(mesh: &Mesh, replica: &str, kind: &str) -> anyhow::Result<String> {
    let pod = mesh.replica_pod(replica)?;
    let server = format!("http://127.0.0.1:{}", ports::ADMIN);
    let mut command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(["identity", "rotate", kind, "--yes", "--server", &server])
        .command();
    command.env(env::ADMIN_TOKEN_FILE, mesh.operator_token()?);
    let output = pod.output(command).await?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{error}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What each sidecar says of its identity.
async fn identities(mesh: &Mesh) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    for workload in mesh.workloads() {
        let answer = mesh.admin_get(&workload, "/config").await?;
        let mut config: Value = serde_json::from_slice(&answer.body)?;
        all.insert(workload, config["health"]["identity"].take());
    }
    Ok(all)
}

/// Waits until no sidecar has a certificate of an issuer that signed one of these.
async fn all_signed_anew(
    mesh: &Mesh,
    before: &BTreeMap<String, Value>,
) -> anyhow::Result<BTreeMap<String, Value>> {
    let issuer = |identity: &Value| identity["issuerFingerprint"].as_str().map(str::to_owned);
    wait_for("certificates of the new issuer", PHASE, async || {
        let now = identities(mesh).await?;
        let all = now.values().all(|now| {
            let now = issuer(now);
            now.is_some() && before.values().all(|before| issuer(before) != now)
        });
        Ok(all.then_some(now))
    })
    .await
}

/// Waits until every sidecar trusts this root and no other.
async fn trust_only(mesh: &Mesh, root: &str) -> anyhow::Result<()> {
    wait_for("sidecars that trust the new root only", PHASE, async || {
        let all = identities(mesh).await?;
        let mut all = all.values();
        let is_so = all.all(|it| it["rootFingerprints"] == serde_json::json!([root]));
        Ok(is_so.then_some(()))
    })
    .await
}

/// A client of no sidecar, with a certificate that the authority of a certain time has signed for a day.
struct Stranger {
    pod: Pod,
    shown: Credentials,
}

impl Stranger {
    async fn of(cluster: &Cluster, mesh: &Mesh, name: &str) -> anyhow::Result<Self> {
        let home = mesh.control_plane_namespace()?;
        let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), home);
        let secret = secrets.get(cluster::AUTHORITY_SECRET).await?;
        let state = secret
            .data
            .and_then(|mut data| data.remove(cluster::AUTHORITY_KEY));
        let directory = tempfile::tempdir()?;
        let file = directory.path().join(cluster::AUTHORITY_KEY);
        fs::write(file, state.context("no authority")?.0)?;
        let id = SpiffeId::new("weft.local", mesh.namespace(), "client")?;
        Ok(Self {
            pod: mesh.stranger(name)?,
            shown: Credentials::issued(directory.path(), &id, SystemTime::now())?,
        })
    }

    /// A request to `api-1`, straight to its sidecar: all that comes back until the connection ends.
    async fn get(&self, mesh: &Mesh) -> anyhow::Result<End> {
        let to = (mesh.pod("api-1").v4(), APP_PORT).into();
        let stream = self.pod.connect(to).await?;
        // A refusal of the certificate comes in the handshake or at the first read.
        let Ok(mut stream) = tls::connect(stream, Some(&self.shown), &[alpn::HTTP1]).await else {
            return Ok(End::Closed(Vec::new()));
        };
        let request = "GET /stranger HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";
        // Fails where the server has closed already, which the read shows too.
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.flush().await;
        Ok(tls::read_to_end(&mut stream).await)
    }

    async fn is_served(&self, mesh: &Mesh) -> anyhow::Result<()> {
        let heard = self.get(mesh).await?;
        assert!(heard.text().starts_with("HTTP/1.1 200 "), "{heard:?}");
        Ok(())
    }

    /// Nothing comes back, nothing has arrived, and the sidecar says why.
    async fn is_refused(&self, mesh: &Mesh) -> anyhow::Result<()> {
        let before = mesh.app("api-1").stats().await?.requests;
        assert_eq!(self.get(mesh).await?, End::Closed(Vec::new()));
        assert_eq!(mesh.app("api-1").stats().await?.requests, before);
        let metrics = Metrics::parse(&mesh.metrics("api-1").await?);
        let reason = [("direction", "inbound"), ("reason", "unknown_issuer")];
        let refused = metrics.sum("weft_tls_handshake_failures_total", &reason);
        assert!(refused >= 1.0, "not refused for its issuer");
        Ok(())
    }
}
