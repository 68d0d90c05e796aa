//! A cluster of one size, a control plane that follows it, connected sidecars, and what is measured on
//! them. Every phase checks that each sidecar got exactly what concerns it, once, and has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;
use weft_proto::names::cluster::TOKEN_AUDIENCE;
use weft_tests::apiserver::ApiServer;

use crate::figures::{Figures, Spread};
use crate::plan::{self, PORT, Plan, Size, TARGET_PORT, Topic, account, pod_name, service_name};
use crate::process::ControlPlane;
use crate::sidecar::{self, Fleet};

/// How long anything may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an update that nobody should get has to show up.
const SETTLE: Duration = Duration::from_millis(50);
/// How often what is waited for is looked at. Times are taken where things happen.
const LOOK: Duration = Duration::from_millis(2);
/// Sidecars that get their certificate or connect at the same time.
const AT_ONCE: usize = 64;
/// Between two changes under churn.
const CHURN: Duration = Duration::from_millis(100);
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
const ACKS: &str = "weft_control_plane_answers_total{answer=\"ack\"}";
const SENT: &str = "weft_control_plane_updates_sent_total";

/// How long each phase is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Changes of an endpoint, of each kind.
    pub(crate) changes: usize,
    /// Changes of a namespace's policy.
    pub(crate) policies: usize,
    /// How long rest and churn last.
    pub(crate) window: Duration,
}

/// See the module.
pub(crate) struct Bench {
    plan: Plan,
    server: ApiServer,
    control_plane: ControlPlane,
    fleet: Arc<Fleet>,
    /// Endpoints that are not ready, by service.
    unready: BTreeMap<usize, BTreeSet<usize>>,
    /// What each namespace's policy says.
    seconds: BTreeMap<usize, u32>,
    /// Updates that were due so far.
    due: usize,
    /// Of the pods whose sidecars connect.
    uids: Vec<String>,
    dir: TempDir,
}

impl Bench {
    /// Measures everything at one size.
    pub(crate) async fn measure(size: Size, effort: Effort) -> anyhow::Result<Figures> {
        let mut bench = Self::start(size).await?;
        let mut figures = Figures {
            started_in: bench.control_plane.started_in,
            started_with: bench.control_plane.time()?,
            without_streams: bench.control_plane.memory()?,
            ..Figures::of(size)
        };
        bench.connect(&mut figures).await.context("connecting")?;
        sleep(Duration::from_secs(1)).await;
        figures.connected = bench.control_plane.memory()?;
        figures.at_rest = bench.rest(effort.window).await?;
        for change in 0..effort.changes {
            let service = 1 + (change * 7) % (size.services - 1);
            let (each, counted) = bench.endpoint(service).await.context("one endpoint")?;
            figures.near.add(&each);
            figures.near_counted.add(&[counted]);
        }
        for _ in 0..effort.changes {
            let (each, counted) = bench.endpoint(0).await.context("an endpoint of all")?;
            figures.far.add(&each);
            figures.far_counted.add(&[counted]);
        }
        for _ in 0..effort.policies {
            let (each, counted) = bench.policy(0).await.context("a namespace's policy")?;
            figures.policy.add(&each);
            figures.policy_counted.add(&[counted]);
        }
        bench.churn(effort.window, &mut figures).await?;
        figures.at_rest_after = bench.rest(effort.window).await?;
        figures.in_the_end = bench.control_plane.memory()?;
        bench.check_all().await?;
        Ok(figures)
    }

    async fn start(size: Size) -> anyhow::Result<Self> {
        let plan = Plan { size };
        let server = ApiServer::start().await?;
        let crd = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../charts/weft/templates/crds/trafficpolicies.yaml");
        let crd: Value = serde_saphyr::from_str(&std::fs::read_to_string(crd)?)?;
        server.put(&crd).await?;
        let mut uids = Vec::new();
        for manifest in plan.manifests() {
            let made = server.put(&manifest).await?;
            if plan::is_connected(&manifest) {
                let uid = made["metadata"]["uid"].as_str();
                uids.push(uid.context("a uid")?.to_owned());
            }
            if manifest["kind"] == "Pod" {
                // A pod that is created has no status yet.
                let metadata = &manifest["metadata"];
                let path = format!(
                    "/api/v1/namespaces/{}/pods/{}/status",
                    metadata["namespace"].as_str().context("a namespace")?,
                    metadata["name"].as_str().context("a name")?,
                );
                let status = json!({"status": manifest["status"]});
                let (code, answer) = server.ask(Method::PATCH, &path, Some(&status)).await;
                ensure!(code == 200, "{answer}");
            }
        }
        for service in 0..size.services {
            server.put(&plan.slice(service, |_| true)).await?;
        }
        let dir = tempfile::tempdir()?;
        let control_plane = ControlPlane::start(dir.path(), &server.kubeconfig()?).await?;
        let held = (0..size.streams()).map(|_| Default::default());
        let fleet = Fleet {
            plan,
            seen: Default::default(),
            ended: Default::default(),
            held: held.collect(),
        };
        Ok(Self {
            plan,
            server,
            control_plane,
            fleet: Arc::new(fleet),
            unready: BTreeMap::new(),
            seconds: (0..size.namespaces)
                .map(|namespace| (namespace, 30))
                .collect(),
            due: 0,
            uids,
            dir,
        })
    }

    /// Gives every sidecar an identity and a stream, until each has everything.
    async fn connect(&mut self, figures: &mut Figures) -> anyhow::Result<()> {
        let plan = self.plan;
        let grpc = self.control_plane.grpc;
        let began = Instant::now();
        let certificates = stream::iter(0..plan.size.streams()).map(|stream| {
            let account = (&*plan.namespace(stream), &*account(stream));
            let pod = (&*pod_name(stream, 0), &*self.uids[stream]);
            let audiences = [TOKEN_AUDIENCE];
            let token = self
                .server
                .mint_token(account, &audiences, TOKEN_LIFE, Some(pod));
            sidecar::certify(grpc, token)
        });
        let certificates: Vec<_> = certificates.buffered(AT_ONCE).try_collect().await?;
        figures.certified_in = began.elapsed();

        let all = plan.concerned(|_, _| true);
        let began = Instant::now();
        let opening = stream::iter(certificates.into_iter().enumerate());
        let opening = opening.map(|(stream, credentials)| {
            sidecar::open(Arc::clone(&self.fleet), stream, grpc, credentials)
        });
        let opened: Vec<()> = opening.buffer_unordered(AT_ONCE).try_collect().await?;
        ensure!(opened.len() == plan.size.streams(), "not all are open");
        let (_, counted) = self.exactly(&all, began).await?;
        figures.complete_in = counted;
        self.check_all().await
    }

    /// The share of one processor that is used while nothing changes.
    async fn rest(&self, window: Duration) -> anyhow::Result<f64> {
        let before = self.control_plane.time()?;
        let began = Instant::now();
        sleep(window).await;
        let used = self.control_plane.time()?.saturating_sub(before);
        ensure!(self.fleet.seen.lock().is_empty(), "updates at rest");
        Ok(used.as_secs_f64() / began.elapsed().as_secs_f64())
    }

    /// Makes an endpoint of a service unready, or ready again. How long each sidecar concerned took to
    /// have it and say so, and until the control plane had heard the last.
    async fn endpoint(&mut self, service: usize) -> anyhow::Result<(Vec<Duration>, Duration)> {
        let concerned = self
            .plan
            .concerned(|_, topic| topic == Topic::Endpoints(service));
        let began = self.toggle(service).await?;
        let (times, counted) = self.exactly(&concerned, began).await?;
        self.check_endpoints(service, &concerned)?;
        Ok((times, counted))
    }

    /// Changes the policy of a namespace, which all of its services' clients hear of, and its workloads.
    async fn policy(&mut self, namespace: usize) -> anyhow::Result<(Vec<Duration>, Duration)> {
        let is_inside = |service: usize| service % self.plan.size.namespaces == namespace;
        let concerned = self.plan.concerned(|stream, topic| match topic {
            Topic::Service(service) => is_inside(service),
            Topic::Inbound(_) => is_inside(stream),
            Topic::Bundle | Topic::Endpoints(_) => false,
        });
        let seconds = self.seconds.entry(namespace).or_default();
        *seconds += 1;
        let policy = self.plan.namespace_policy(namespace, *seconds);
        let path = format!(
            "/apis/weft.dev/v1alpha1/namespaces/{}/trafficpolicies/defaults",
            self.plan.namespace(namespace)
        );
        let began = self.patch(&path, json!({"spec": policy["spec"]})).await?;
        let (times, counted) = self.exactly(&concerned, began).await?;
        self.check_policies()?;
        Ok((times, counted))
    }

    /// Changes one endpoint after the other, without waiting.
    async fn churn(&mut self, window: Duration, figures: &mut Figures) -> anyhow::Result<()> {
        let mut began: BTreeMap<usize, Vec<Instant>> = BTreeMap::new();
        let mut due = 0;
        let before = self.control_plane.time()?;
        let start = tokio::time::Instant::now();
        let count = (window.as_millis() / CHURN.as_millis()) as usize;
        for change in 0..count {
            tokio::time::sleep_until(start + CHURN * change as u32).await;
            // Neighbours are far apart, and service 0, which all call, is not among them.
            let service = 1 + (change * 3) % (self.plan.size.services - 1);
            let at = self.toggle(service).await?;
            began.entry(service).or_default().push(at);
            let concerned = self
                .plan
                .concerned(|_, topic| topic == Topic::Endpoints(service));
            due += concerned.len();
        }
        tokio::time::sleep_until(start + window).await;
        let used = self.control_plane.time()?.saturating_sub(before);
        figures.churn_load = used.as_secs_f64() / start.elapsed().as_secs_f64();
        self.wait(due).await?;
        let seen = std::mem::take(&mut *self.fleet.seen.lock());
        ensure!(seen.len() == due, "{} updates, and not {due}", seen.len());
        self.due += due;
        self.heard(Instant::now()).await?;
        for seen in seen {
            let Topic::Endpoints(service) = seen.topic else {
                anyhow::bail!("nobody has changed {:?}", seen.topic);
            };
            let began = began.get(&service).into_iter().flatten();
            let last = began.filter(|began| **began < seen.at).max();
            figures.churn.add(&[seen.at - *last.context("a change")?]);
        }
        Ok(())
    }

    /// Writes the opposite of what an endpoint is, and says when that began.
    async fn toggle(&mut self, service: usize) -> anyhow::Result<Instant> {
        let unready = self.unready.entry(service).or_default();
        let each = self.plan.each();
        // One at a time, so that a service keeps most of its endpoints.
        if unready.pop_first().is_none() {
            unready.insert(1 + service % (each - 1));
        }
        let slice = self.plan.slice(service, |index| !unready.contains(&index));
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices/{}-abcde",
            self.plan.namespace(service),
            service_name(service)
        );
        self.patch(&path, json!({"endpoints": slice["endpoints"]}))
            .await
    }

    async fn patch(&self, path: &str, change: Value) -> anyhow::Result<Instant> {
        let began = Instant::now();
        let (code, answer) = self.server.ask(Method::PATCH, path, Some(&change)).await;
        ensure!(code == 200, "{answer}");
        Ok(began)
    }

    /// Waits for these updates, and for what must not come: others, or one of them twice. How long after
    /// `began` each was acknowledged, and until the control plane had counted them all.
    async fn exactly(
        &mut self,
        concerned: &BTreeSet<(usize, Topic)>,
        began: Instant,
    ) -> anyhow::Result<(Vec<Duration>, Duration)> {
        self.wait(concerned.len()).await?;
        self.due += concerned.len();
        let counted = self.heard(began).await?;
        sleep(SETTLE).await;
        let seen = std::mem::take(&mut *self.fleet.seen.lock());
        let mut rest = concerned.clone();
        let mut times = Vec::with_capacity(seen.len());
        for seen in seen {
            let what = (seen.stream, seen.topic);
            ensure!(
                rest.remove(&what),
                "{what:?} came twice, or concerns nobody there"
            );
            times.push(seen.at - began);
        }
        ensure!(
            rest.is_empty(),
            "{} never came: {:?}",
            rest.len(),
            rest.first()
        );
        Ok((times, counted))
    }

    async fn wait(&self, updates: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.fleet.seen.lock().len() < updates {
            let ended = self.fleet.ended.lock().first().cloned();
            ensure!(ended.is_none(), "a stream ended: {ended:?}");
            let count = self.fleet.seen.lock().len();
            ensure!(
                began.elapsed() < PATIENCE,
                "only {count} of {updates} updates came"
            );
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// How long after `began` the control plane has counted every acknowledgement that is due; at most
    /// what it takes to ask.
    async fn heard(&self, began: Instant) -> anyhow::Result<Duration> {
        loop {
            let (counted, due) = (self.control_plane.metric(ACKS)?, self.due as u64);
            if counted == due {
                return Ok(began.elapsed());
            }
            ensure!(counted < due, "{counted} answers to {due} updates");
            let waited = began.elapsed();
            ensure!(waited < PATIENCE, "{counted} answers, and not {due}");
            sleep(LOOK).await;
        }
    }

    /// Whether everybody has everything as it is, and nothing was sent that was not due.
    async fn check_all(&self) -> anyhow::Result<()> {
        for service in 0..self.plan.size.services {
            let concerned = self
                .plan
                .concerned(|_, topic| topic == Topic::Endpoints(service));
            self.check_endpoints(service, &concerned)?;
        }
        self.check_policies()?;
        for (stream, held) in self.fleet.held.iter().enumerate() {
            ensure!(
                held.lock().roots == 1,
                "stream {stream} has no trust bundle"
            );
        }
        let sent = self.control_plane.metric(SENT)?;
        ensure!(
            sent == self.due as u64,
            "{sent} updates were sent, and {} due",
            self.due
        );
        let nacks = self
            .control_plane
            .metric("weft_control_plane_answers_total{answer=\"nack\"}")?;
        ensure!(nacks == 0, "{nacks} were refused");
        let ended = self.fleet.ended.lock().first().cloned();
        ensure!(ended.is_none(), "a stream ended: {ended:?}");
        let log = std::fs::read_to_string(self.dir.path().join("log"))?;
        ensure!(log.is_empty(), "the control plane complains: {log}");
        Ok(())
    }

    fn check_endpoints(
        &self,
        service: usize,
        concerned: &BTreeSet<(usize, Topic)>,
    ) -> anyhow::Result<()> {
        let unready = self.unready.get(&service).cloned().unwrap_or_default();
        let ready = (0..self.plan.each()).filter(|index| !unready.contains(index));
        let expected: BTreeMap<_, _> = ready
            .map(|index| {
                let address = (self.plan.address(service, index), TARGET_PORT as u16);
                let id = format!(
                    "spiffe://cluster.local/ns/{}/sa/{}",
                    self.plan.namespace(service),
                    account(service)
                );
                (std::net::SocketAddr::from(address), id)
            })
            .collect();
        for (stream, _) in concerned {
            let held = self.fleet.held[*stream].lock();
            let known = held.endpoints.get(&service).into_iter().flatten();
            let known: BTreeMap<_, _> = known
                .map(|(address, endpoint)| (*address, endpoint.spiffe_id.clone()))
                .collect();
            ensure!(
                known == expected,
                "stream {stream} has other endpoints of {service}:{PORT}"
            );
        }
        Ok(())
    }

    fn check_policies(&self) -> anyhow::Result<()> {
        let seconds = |service: usize| self.seconds[&(service % self.plan.size.namespaces)];
        for (stream, held) in self.fleet.held.iter().enumerate() {
            let held = held.lock();
            let calls = self.plan.calls(stream);
            ensure!(
                held.timeouts.len() == calls.len(),
                "stream {stream} lacks services"
            );
            for (service, known) in &held.timeouts {
                ensure!(
                    *known == i64::from(seconds(*service)),
                    "stream {stream}: {known} s"
                );
            }
            for port in [0, TARGET_PORT] {
                let known = held.limits.get(&port).copied();
                ensure!(
                    known == Some(1000 * seconds(stream)),
                    "stream {stream}: {known:?}/s"
                );
            }
        }
        Ok(())
    }
}

impl Spread {
    fn add(&mut self, times: &[Duration]) {
        self.0.extend_from_slice(times);
    }
}
