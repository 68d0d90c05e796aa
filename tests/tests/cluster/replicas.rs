//! Several replicas of the control plane: whoever of them is killed, ends, loses the API server or comes
//! late, what is written and certified goes on, and no sidecar notices.

mod callers;
mod commands;
mod looking;
mod rotation;
mod scene;
mod tap;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use weft_proto::names::{self, cluster, env, ports};
use weft_sandbox::Mesh;
use weft_sandbox::mesh::{Builder, unique};
use weft_tests::counts::wait_for;

use crate::common::{CHANGE, Cluster, Cx, client_and, http_app, policy, service};
use crate::{Needs, Suite};
use looking::{connected, holder, leads};
use scene::Scene;

/// The lease of the quick form; the long form has the default.
const LEASE: Duration = Duration::from_secs(3);
const DEFAULT_LEASE: Duration = Duration::from_secs(15);
/// Candidates look fifteen times in a lease, and up to a fifth of that later: so long after a renewal they
/// may see it, and count from then.
const LOOKS: f64 = 0.08;
/// What a loaded machine may take beyond that.
const MARGIN: Duration = Duration::from_secs(3);
/// How long counts are awaited: a new leader counts for 10 s, and the next 10 s later.
const COUNTED: Duration = Duration::from_secs(25);
/// Sidecars of the mesh.
const SIDECARS: u64 = 4;
/// The policy that all sidecars hold something of: clients to call so, servers to be called so.
const STRICT: &str = "strict";
/// One that all servers' sidecars hold something of, and that comes later.
const RATES: &str = "rates";
/// Counts are written at most so often, and a little later.
const COALESCED: Duration = Duration::from_secs(11);
/// The oldest that a configuration may become, in seconds, while a sidecar goes from one replica to another.
const MAX_AGE: f64 = 5.0;
/// How long new sidecars are led to a replica that cannot certify.
const ASTRAY: Duration = Duration::from_secs(2);
/// Statuses of two policies that may be written over all that happens to a leader: what is said of each at
/// once, and their counts every 10 s.
const MAX_WRITES: u64 = 16;

pub(crate) fn register(suite: &mut Suite) {
    let server = Needs {
        server: true,
        ..Needs::default()
    };
    suite.add(
        "replicas::the_leader_is_killed",
        Needs::default(),
        leader_killed,
    );
    suite.add("replicas::the_leader_ends", Needs::default(), leader_ends);
    suite.add("replicas::the_leader_is_cut_off", server, leader_cut_off);
    suite.add("replicas::one_comes_late", server, one_comes_late);
    suite.add(
        "rotation::goes_on_when_the_leader_is_killed",
        Needs::default(),
        rotation::leader_killed,
    );
    suite.add(
        "replicas::each_knows_one_end_of_a_call",
        Needs::default(),
        callers::halves,
    );
    suite.add(
        "replicas::either_commands_all_sidecars",
        Needs::default(),
        commands::all,
    );
    suite.add(
        "replicas::either_taps_all_sidecars",
        Needs::default(),
        tap::all,
    );
    suite.add(
        "rotation::leaf_and_issuer",
        Needs::default(),
        rotation::leaf_and_issuer,
    );
    suite.add(
        "rotation::leaf_and_root",
        Needs::default(),
        rotation::leaf_and_root,
    );
    suite.add(
        "rotation::who_is_waited_for_is_named",
        server,
        rotation::waited_for,
    );
    suite.add(
        "replicas::sidecars_move_to_another",
        Needs::default(),
        sidecars_move,
    );
}

/// A client, `api` with two pods and `steady` with one, and two replicas.
fn replicated(name: &str, lease: Duration) -> Builder {
    let namespace = unique(name);
    let strict = of_namespace(&namespace, STRICT, "mtls: {mode: Strict}");
    client_and(name, ["api-1", "api-2"])
        .namespace(&namespace)
        .workload(http_app("steady-1"))
        .service(service("steady", ["steady-1"]))
        .named_policy(STRICT, &strict)
        .control_plane_env(env::LEASE_DURATION, &format!("{}s", lease.as_secs()))
        .replicas(2)
}

/// The leader is killed: the other one writes statuses, keeps trust bundles and says how many sidecars run
/// what within the lease; certificates are given all the while.
async fn leader_killed(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let lease = cx.pick(LEASE, DEFAULT_LEASE);
    cx.on(&cluster, replicated("killed", lease), async |mesh| {
        let scene = Scene::begin(&cluster, mesh).await?;
        scene.all_run(STRICT, SIDECARS).await?;
        let (leader, other) = leader_and_other(&cluster, mesh).await?;
        let webhook = webhook_certificate(&cluster, mesh).await?;
        mesh.kill_replica(&leader).await?;
        let killed = Instant::now();

        scene.create_rates().await?;
        let looser = json!({"spec": {"mtls": {"mode": "Permissive"}}});
        cluster
            .merge_policy(mesh.namespace(), STRICT, &looser)
            .await?;
        let fresh = Labelled::create(&cluster).await?;
        mesh.add_workload(http_app("late-1")).await?;
        let certified = killed.elapsed();
        scene.accepted(RATES, takeover(lease)).await?;
        let accepted = killed.elapsed();
        fresh.has_bundle(takeover(lease)).await?;
        let bundled = killed.elapsed();
        fresh.delete().await?;
        for took in [accepted, bundled] {
            assert!(took <= takeover(lease), "{took:?}");
        }
        assert_eq!(holder(&cluster, mesh).await?, Some(other.clone()));
        assert!(leads(mesh, &other).await?);

        scene.all_run(RATES, SIDECARS + 1).await?;
        let strict = scene.all_run(STRICT, SIDECARS + 1).await?;
        assert_eq!(strict.generation, 2);
        let counted = killed.elapsed();
        for said in scene.journal.all() {
            let (acknowledged, total) = said.count;
            assert!(acknowledged <= total && total <= SIDECARS + 1, "{said:?}");
        }
        scene.everybody_once(&other, &[&other]).await?;
        assert_eq!(webhook_certificate(&cluster, mesh).await?, webhook);
        let age = scene.end(&cx).await?;
        cx.measured(format!(
            "lease {lease:?}; a new pod certified after {certified:.1?}, a policy accepted after \
             {accepted:.1?}, a trust bundle after {bundled:.1?}, all counted after {counted:.1?}; \
             configuration at most {age:.1} s old"
        ));
        Ok(())
    })
    .await
}

/// A leader that is told to end gives the lease back: the other one does not wait for it to run out.
async fn leader_ends(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = replicated("ends", DEFAULT_LEASE);
    cx.on(&cluster, builder, async |mesh| {
        let scene = Scene::begin(&cluster, mesh).await?;
        let (leader, other) = leader_and_other(&cluster, mesh).await?;
        let begin = Instant::now();
        mesh.end_replica(&leader).await?;
        scene.create_rates().await?;
        scene.accepted(RATES, DEFAULT_LEASE / 2).await?;
        let accepted = begin.elapsed();
        assert!(accepted <= DEFAULT_LEASE / 2, "{accepted:?}");
        assert_eq!(holder(&cluster, mesh).await?, Some(other.clone()));
        assert!(leads(mesh, &other).await?);
        scene.all_run(STRICT, SIDECARS).await?;
        scene.all_run(RATES, SIDECARS).await?;
        for said in scene.journal.all() {
            assert!(said.count.1 <= SIDECARS, "{said:?}");
        }
        scene.everybody_once(&other, &[&other]).await?;
        let age = scene.end(&cx).await?;
        cx.measured(format!(
            "a policy accepted after {accepted:.1?}; configuration at most {age:.1} s old"
        ));
        Ok(())
    })
    .await
}

/// A leader that loses the API server leads no longer before another one does, and serves what it knows. A
/// new pod that came to it finds the other one. When it is back, one leads and nothing is written twice.
async fn leader_cut_off(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let lease = cx.pick(LEASE, DEFAULT_LEASE);
    cx.on(&cluster, replicated("cut", lease), async |mesh| {
        let server = cluster.server()?;
        let scene = Scene::begin(&cluster, mesh).await?;
        let (leader, other) = leader_and_other(&cluster, mesh).await?;
        mesh.cut_off_replica(&leader)?;
        let cut = Instant::now();
        scene.create_rates().await?;
        let mut resigned = None;
        wait_for("another leader", takeover(lease), async || {
            let (old, new) = (leads(mesh, &leader).await?, leads(mesh, &other).await?);
            assert!(!(old && new), "two lead");
            if !old {
                resigned.get_or_insert_with(|| cut.elapsed());
            }
            Ok(new.then_some(()))
        })
        .await?;
        let resigned = resigned.context("the former leader still leads")?;
        assert_eq!(holder(&cluster, mesh).await?, Some(other.clone()));
        scene.accepted(RATES, MARGIN).await?;
        let accepted = cut.elapsed();

        // Nobody can be certified by who cannot ask the API server.
        mesh.lead_to_replicas(Some(&[&leader]))?;
        let began = Instant::now();
        let elsewhere = async {
            tokio::time::sleep(ASTRAY).await;
            mesh.lead_to_replicas(Some(&[&other]))
        };
        let (added, led) = tokio::join!(mesh.add_workload(http_app("late-1")), elsewhere);
        added?;
        led?;
        mesh.lead_to_replicas(None)?;
        let certified = began.elapsed();
        assert!(certified <= ASTRAY + CHANGE, "{certified:?}");

        mesh.reach_replica(&leader)?;
        scene.all_run(STRICT, SIDECARS + 1).await?;
        scene.all_run(RATES, SIDECARS + 1).await?;
        assert!(!leads(mesh, &leader).await? && leads(mesh, &other).await?);
        let written = || server.count("patch", "trafficpolicies/status.weft.dev");
        let before = written();
        tokio::time::sleep(lease).await;
        assert_eq!(written(), before, "writes of what is there already");
        assert!(!leads(mesh, &leader).await? && leads(mesh, &other).await?);
        assert!(before <= MAX_WRITES, "{before} writes");
        for policy in [STRICT, RATES] {
            let said = scene.journal.of(policy);
            assert!(said.len() as u64 <= MAX_WRITES / 2, "{said:#?}");
            assert!(said.iter().all(|said| said.count.1 <= SIDECARS + 1));
        }
        scene.everybody_once(&other, &[&leader, &other]).await?;
        let age = scene.end(&cx).await?;
        cx.measured(format!(
            "lease {lease:?}; resigned after {resigned:.1?}, a policy accepted after \
             {accepted:.1?}; {before} writes; configuration at most {age:.1} s old"
        ));
        Ok(())
    })
    .await
}

/// A replica that has not listed all endpoints yet is not ready and takes no sidecar, also of those that
/// are led to it; they go on with what they have. Then it serves all that there is.
async fn one_comes_late(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = replicated("late", LEASE).workload(http_app("api-3"));
    cx.on(&cluster, builder, async |mesh| {
        let scene = Scene::begin(&cluster, mesh).await?;
        let (leader, other) = leader_and_other(&cluster, mesh).await?;
        // It tries again and again.
        let slices = "endpointslices.discovery.k8s.io";
        let refused = cx.pick(4, 6);
        cluster.server()?.refuse("list", slices, refused, 500);
        let late = mesh.make_replica()?;
        mesh.lead_to_replicas(Some(&[&late]))?;
        mesh.start_replica(&late)?;
        let begin = Instant::now();
        mesh.kill_replica(&other).await?;
        mesh.set_endpoints("api", ["api-1", "api-2", "api-3"])?;
        let to = (mesh.replica_pod(&late)?.v4(), ports::CONTROL_PLANE).into();
        let mut unsynced = 0_u64;
        wait_for("the late replica", COUNTED, async || {
            let is_open = mesh.control_plane_pod().connect(to).await.is_ok();
            let Ok(ready) = mesh.replica_get(&late, "/ready").await else {
                return Ok(None);
            };
            if ready.text().contains("not listed yet: EndpointSlice") {
                assert!(!is_open, "it listens before it has synced");
                unsynced += 1;
            }
            Ok(ready.status.is_success().then_some(()))
        })
        .await?;
        let synced = begin.elapsed();
        assert!(unsynced > 0, "it was never seen unsynced");
        assert_eq!(cluster.server()?.count("list", slices), 3 + u64::from(refused));
        scene.everybody_once(&leader, &[&leader, &late]).await?;
        wait_for("the third pod", CHANGE, async || {
            Ok((mesh.app("api-3").stats().await?.requests > 0).then_some(()))
        })
        .await?;
        let seen = scene.end_noticed(&cx).await?;
        // The first look may have come after the third one was there.
        assert!(seen.fewest >= Some(2) && seen.most == 3, "{seen:?}");
        let patience = synced + CHANGE;
        assert!(seen.age <= patience.as_secs_f64(), "{} s", seen.age);
        cx.measured(format!(
            "synced after {synced:.1?}, refused in {unsynced} looks; configuration at most {:.1} s old",
            seen.age
        ));
        Ok(())
    })
    .await
}

/// The replica that does not lead is killed: what statuses say of its sidecars stays right while they
/// move, and each is with one replica.
async fn sidecars_move(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, replicated("move", LEASE), async |mesh| {
        let scene = Scene::begin(&cluster, mesh).await?;
        let (leader, other) = leader_and_other(&cluster, mesh).await?;
        scene.all_run(STRICT, SIDECARS).await?;
        let moving = connected(mesh, &leader).await?;
        let moving = moving.iter().filter(|(_, at)| *at == other).count();
        assert!(moving > 0);
        // No write of counts is held back any more by the one before.
        tokio::time::sleep(COALESCED).await;
        let settled = Instant::now();
        mesh.kill_replica(&other).await?;
        wait_for("the sidecars at the other one", CHANGE, async || {
            let now = connected(mesh, &leader).await?;
            Ok((now.len() as u64 == SIDECARS).then_some(()))
        })
        .await?;
        let moved = settled.elapsed();
        tokio::time::sleep(cx.pick(MARGIN, COALESCED)).await;
        mesh.start_replica(&other)?;
        mesh.wait_for_replica(&other).await?;
        scene.everybody_once(&other, &[&leader, &other]).await?;
        scene.everybody_once(&leader, &[&leader, &other]).await?;
        for said in scene.journal.all() {
            let (is_later, is_all) = (said.at > settled, said.is_all(SIDECARS));
            assert!(
                !is_later || is_all,
                "{:?} after the kill: {said:?}",
                said.at - settled
            );
        }
        let age = scene.end(&cx).await?;
        cx.measured(format!(
            "{moving} sidecars moved within {moved:.1?}; configuration at most {age:.1} s old"
        ));
        Ok(())
    })
    .await
}

/// A namespace that asks for sidecars.
struct Labelled<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Labelled<'a> {
    async fn create(cluster: &'a Cluster) -> anyhow::Result<Self> {
        let name = unique("fresh");
        let labels = json!({names::INJECT_LABEL: names::INJECT_ENABLED});
        let manifest = json!({"metadata": {"name": name, "labels": labels}});
        let api: Api<Namespace> = Api::all(cluster.client.clone());
        let manifest = serde_json::from_value(manifest)?;
        api.create(&PostParams::default(), &manifest).await?;
        Ok(Self { cluster, name })
    }

    async fn has_bundle(&self, patience: Duration) -> anyhow::Result<()> {
        let api: Api<ConfigMap> = Api::namespaced(self.cluster.client.clone(), &self.name);
        wait_for(
            "the trust bundle of a new namespace",
            patience,
            async || {
                let map = api.get_opt(cluster::TRUST_BUNDLE).await?;
                Ok(map.map(|_| ()))
            },
        )
        .await
    }

    async fn delete(self) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.cluster.client.clone());
        let _ = api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// Of the first two.
async fn leader_and_other(cluster: &Cluster, mesh: &Mesh) -> anyhow::Result<(String, String)> {
    let leader = holder(cluster, mesh).await?.context("nobody leads")?;
    let mut replicas = mesh.replicas();
    replicas.retain(|replica| *replica != leader);
    Ok((leader, replicas.pop().context("there is one only")?))
}

/// A TrafficPolicy for a whole namespace.
fn of_namespace(namespace: &str, name: &str, stanzas: &str) -> String {
    let target = format!("kind: Namespace, name: {namespace}");
    policy(namespace, name, "x", stanzas).replace("kind: Service, name: x", &target)
}

/// Within this time another one leads and has written.
fn takeover(lease: Duration) -> Duration {
    lease.mul_f64(1.0 + LOOKS) + MARGIN
}

/// What the webhook proves itself with.
async fn webhook_certificate(cluster: &Cluster, mesh: &Mesh) -> anyhow::Result<Secret> {
    let namespace = mesh.control_plane_namespace()?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
    let secret = secrets.get(cluster::WEBHOOK_SECRET).await?;
    Ok(Secret {
        data: secret.data,
        ..Secret::default()
    })
}
