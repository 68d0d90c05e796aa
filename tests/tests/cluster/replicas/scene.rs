//! The mesh under load that every test of replicas has, and what is to be true of it.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use weft_proto::names::env::ADMIN_TOKEN_FILE;
use weft_proto::names::ports;
use weft_sandbox::Mesh;
use weft_sandbox::load::Running;
use weft_sandbox::process::Program;
use weft_tests::counts::{assert_all_served_once, wait_for};

use super::looking::{self, Calm, Journal, Noticed, Said, connected};
use super::{COUNTED, MAX_AGE, RATES, of_namespace};
use crate::common::{CHANGE, Cluster, Cx, load, reaches, stats};

/// The mesh under load, with both replicas at work, and what is written down of it.
pub(super) struct Scene<'a> {
    cluster: &'a Cluster,
    mesh: &'a Mesh,
    pub(super) journal: Journal,
    calm: Calm,
    steady: Running,
    api: Running,
}

impl<'a> Scene<'a> {
    pub(super) async fn begin(cluster: &'a Cluster, mesh: &'a Mesh) -> anyhow::Result<Self> {
        spread(mesh).await?;
        let journal = Journal::begin(cluster, mesh.namespace()).await?;
        let (steady, api) = (load(mesh, "steady"), load(mesh, "api"));
        reaches(&api, "api-1").await?;
        reaches(&steady, "steady-1").await?;
        Ok(Self {
            cluster,
            mesh,
            journal,
            calm: Calm::begin(mesh, "api").await?,
            steady,
            api,
        })
    }

    /// Certificates live so short that every sidecar is to have another one at the end.
    pub(super) fn expect_renewals(&mut self) {
        self.calm.expect_renewals();
    }

    /// A new policy that all servers' sidecars hold something of.
    pub(super) async fn create_rates(&self) -> anyhow::Result<()> {
        let stanza = "rateLimit: {requestsPerSecond: 10000, burst: 10000}";
        let namespace = self.mesh.namespace();
        let rates = of_namespace(namespace, RATES, stanza);
        self.cluster.create_policy(namespace, &rates).await?;
        Ok(())
    }

    /// Waits until a policy's status says that it is accepted.
    pub(super) async fn accepted(&self, policy: &str, patience: Duration) -> anyhow::Result<()> {
        let policies = self.cluster.policies(self.mesh.namespace());
        wait_for(&format!("{policy} accepted"), patience, async || {
            let object = policies.get(policy).await?;
            let mut conditions = object.data["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten();
            let is_so = conditions.any(|it| it["type"] == "Accepted" && it["status"] == "True");
            Ok(is_so.then_some(()))
        })
        .await
    }

    /// Waits until a policy's newest status says of its newest generation that so many sidecars run it,
    /// and no more are to.
    pub(super) async fn all_run(&self, policy: &str, sidecars: u64) -> anyhow::Result<Said> {
        let policies = self.cluster.policies(self.mesh.namespace());
        let newest = policies.get(policy).await?.metadata.generation;
        let what = format!("{policy} everywhere");
        let waited = wait_for(&what, COUNTED, async || {
            let last = self.journal.of(policy).pop();
            Ok(last.filter(|said| Some(said.generation) == newest && said.is_all(sidecars)))
        });
        waited
            .await
            .map_err(|error| error.context(format!("{:#?}", self.journal.of(policy))))
    }

    /// Every sidecar is connected once, to one of these replicas, in the words of `weft proxy status`.
    pub(super) async fn everybody_once(
        &self,
        asked: &str,
        replicas: &[&str],
    ) -> anyhow::Result<()> {
        let (proxies, heard) = wait_for("everybody connected", CHANGE, async || {
            let (proxies, heard) = self.proxy_status(asked).await?;
            let all = proxies.len() == self.mesh.workloads().len();
            let reached = replicas
                .iter()
                .all(|it| heard.iter().any(|heard| heard == it));
            Ok((all && reached).then_some((proxies, heard)))
        })
        .await?;
        let mut names: Vec<_> = proxies.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        assert_eq!(names, self.mesh.workloads());
        let is_there = |replica: &str| replicas.contains(&replica);
        assert!(proxies.iter().all(|(_, at)| is_there(at)), "{proxies:?}");
        assert!(
            replicas
                .iter()
                .all(|it| heard.iter().any(|heard| heard == it)),
            "{heard:?}"
        );
        // And no replica has one that another has too.
        let mut own = Vec::new();
        for replica in replicas {
            let answer = self.mesh.replica_get(replica, "/status").await?;
            let status: Value = serde_json::from_slice(&answer.body)?;
            let workloads = status["workloads"].as_array().context("no workloads")?;
            own.push(workloads.len());
        }
        assert_eq!(own.iter().sum::<usize>(), names.len(), "{own:?}");
        Ok(())
    }

    /// `weft proxy status` beside a replica: sidecars with their replicas, and the replicas.
    async fn proxy_status(
        &self,
        replica: &str,
    ) -> anyhow::Result<(Vec<(String, String)>, Vec<String>)> {
        let pod = self.mesh.replica_pod(replica)?;
        let server = format!("http://127.0.0.1:{}", ports::ADMIN);
        let mut command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
            .args(["proxy", "status", "--server", &server, "-o", "json"])
            .command();
        command.env(ADMIN_TOKEN_FILE, self.mesh.observer_token()?);
        let output = pod.output(command).await?;
        let said: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let heard = said["replicas"].as_array().context("no replicas")?.iter();
        let heard = heard.map(|it| it["name"].as_str().unwrap_or_default().to_owned());
        Ok((looking::proxies(&said)?, heard.collect()))
    }

    /// Ends the loads, of which nothing has failed: what sidecars noticed.
    pub(super) async fn end_noticed(self, cx: &Cx) -> anyhow::Result<Noticed> {
        let (steady, api) = (self.steady.stop().await, self.api.stop().await);
        let mut of_api = stats(self.mesh, ["api-1", "api-2"]).await?;
        if self
            .mesh
            .workloads()
            .iter()
            .any(|name| name.ends_with("/api-3"))
        {
            weft_tests::counts::add(&mut of_api, &stats(self.mesh, ["api-3"]).await?);
        }
        assert_all_served_once(&api, &of_api);
        assert_all_served_once(&steady, &stats(self.mesh, ["steady-1"]).await?);
        cx.measured(format!("{} requests, 0 failed", steady.sent + api.sent));
        self.calm.end(self.mesh).await
    }

    /// [`Self::end_noticed`], where sidecars were without control plane for moments only: the seconds.
    pub(super) async fn end(self, cx: &Cx) -> anyhow::Result<f64> {
        let seen = self.end_noticed(cx).await?;
        assert!(
            seen.age <= MAX_AGE,
            "a configuration was {} s old",
            seen.age
        );
        assert_eq!((seen.fewest, seen.most), (Some(2), 2));
        Ok(seen.age)
    }
}

/// Makes sure that each of the two replicas has a sidecar: chance leads them.
async fn spread(mesh: &Mesh) -> anyhow::Result<()> {
    let replicas = mesh.replicas();
    for replica in &replicas {
        let all = connected(mesh, replica).await?;
        if all.iter().all(|(_, at)| at != replica) {
            mesh.lead_to_replicas(Some(&[replica]))?;
            mesh.restart_sidecar("steady-1").await?;
        }
    }
    mesh.lead_to_replicas(None)
}
