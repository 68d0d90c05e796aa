//! Several replicas of the control plane, each with a pod, a way to the API server and a process.
//!
//! `front` is what a cluster does for them.

mod front;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use parking_lot::Mutex;
use weft_proto::names::env;

use super::relay::Relay;
use crate::Pod;
use crate::client::Answer;
use crate::mesh::member::admin_address;
use crate::mesh::source::Source;
use crate::mesh::{Mesh, POLL, TAIL_LINES, end, wait_for_end, why_not_ready};
use crate::process::{Process, log_tail};
use front::Front;

/// See the module.
#[derive(Debug)]
pub(super) struct Replicas {
    front: Front,
    all: Mutex<BTreeMap<String, Arc<Replica>>>,
}

#[derive(Debug)]
struct Replica {
    pod: Pod,
    relay: Relay,
    process: Mutex<Option<Arc<Process>>>,
    log: PathBuf,
}

/// Several replicas of the control plane, for meshes with
/// [`Builder::replicas`](crate::mesh::Builder::replicas).
impl Mesh {
    /// Those that there are, running or not, by their pods' names.
    pub fn replicas(&self) -> Vec<String> {
        let Ok(replicas) = self.all_replicas() else {
            return Vec::new();
        };
        replicas.all.lock().keys().cloned().collect()
    }

    /// Makes one more replica's pod, without starting it: its name.
    pub fn make_replica(&self) -> anyhow::Result<String> {
        let replicas = self.all_replicas()?;
        let name = format!("control-plane-{}", replicas.all.lock().len());
        let Source::Cluster(cluster) = &self.source else {
            anyhow::bail!("there are replicas in a cluster only");
        };
        let pod = self.node.pod(&name)?;
        let replica = Replica {
            relay: cluster.relay.beside(&pod)?,
            process: Mutex::default(),
            log: self.common.dir.join("logs").join(format!("{name}.log")),
            pod,
        };
        cluster.background.wait(replicas.front.add(&replica.pod))?;
        replicas.all.lock().insert(name.clone(), Arc::new(replica));
        Ok(name)
    }

    /// Starts a replica that does not run. It is ready later: [`Self::wait_for_replica`].
    pub fn start_replica(&self, name: &str) -> anyhow::Result<()> {
        let replica = self.replica(name)?;
        let (program, environment) = self.source.control_plane(&self.common);
        let program = program
            .arg("--listen")
            .arg(format!(
                "{}:{}",
                replica.pod.v4(),
                self.common.control_plane_address.port()
            ))
            .arg("--admin")
            .arg(admin_address(&replica.pod).to_string());
        let mut command = replica.pod.command(&program);
        command.envs(environment);
        command.env(env::POD_NAME, name);
        command.env(env::POD_IP, replica.pod.v4().to_string());
        command.envs(self.common.control_plane_env.iter().map(|(n, v)| (n, v)));
        drop(replica.process.lock().take());
        let process = replica.pod.start(name, command, &replica.log);
        let process = process.with_context(|| format!("starting {name}"))?;
        *replica.process.lock() = Some(Arc::new(process));
        Ok(())
    }

    /// Waits until a replica is ready.
    pub async fn wait_for_replica(&self, name: &str) -> anyhow::Result<()> {
        let replica = self.replica(name)?;
        self.within_patience(async {
            while let Some(why) = why_not_ready(&replica.pod).await {
                let process = self.replica_process(name)?;
                if let Some(status) = process.ended()? {
                    let tail = process.log_tail(TAIL_LINES);
                    anyhow::bail!("{name} ended with {status}, {why}\n{tail}");
                }
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        })
        .await
    }

    /// Kills a replica and waits for its end. Its Pod stays, as that of a container that died does.
    pub async fn kill_replica(&self, name: &str) -> anyhow::Result<()> {
        let process = self.replica_process(name)?;
        process.kill()?;
        wait_for_end(&process).await
    }

    /// Tells a replica's Pod to end, and waits until its process has and the Pod is gone.
    pub async fn end_replica(&self, name: &str) -> anyhow::Result<()> {
        let replicas = self.all_replicas()?;
        replicas.front.begin_end(name);
        end(&self.replica_process(name)?).await?;
        let Source::Cluster(cluster) = &self.source else {
            anyhow::bail!("there are replicas in a cluster only");
        };
        cluster.background.wait(replicas.front.end(name))
    }

    /// Takes the API server away from one replica: connections end, new ones are refused.
    pub fn cut_off_replica(&self, name: &str) -> anyhow::Result<()> {
        self.replica(name)?.relay.cut();
        Ok(())
    }

    /// Gives the API server back.
    pub fn reach_replica(&self, name: &str) -> anyhow::Result<()> {
        self.replica(name)?.relay.mend()
    }

    /// Leads the sidecars' new connections to these replicas, ready or not; `None`: to all that are
    /// ready, as from the beginning.
    pub fn lead_to_replicas(&self, only: Option<&[&str]>) -> anyhow::Result<()> {
        let only = only.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        self.all_replicas()?.front.lead_to(only);
        Ok(())
    }

    /// A replica's pod.
    pub fn replica_pod(&self, name: &str) -> anyhow::Result<Pod> {
        Ok(self.replica(name)?.pod.clone())
    }

    /// A replica's process.
    pub fn replica_process(&self, name: &str) -> anyhow::Result<Arc<Process>> {
        let running = self.replica(name)?.process.lock().clone();
        running.with_context(|| format!("{name} was not started"))
    }

    /// GETs from a replica's admin port, as somebody who may look.
    pub async fn replica_get(&self, name: &str, target: &str) -> anyhow::Result<Answer> {
        let (pod, token) = (self.replica_pod(name)?, self.shown_token()?);
        pod.get_admin(target, token.as_deref()).await
    }

    /// Makes the first replicas, where there are to be several, and waits until all are ready.
    pub(in crate::mesh) async fn start_replicas(&self, count: usize) -> anyhow::Result<()> {
        let Source::Cluster(cluster) = &self.source else {
            anyhow::bail!("there are replicas in a cluster only");
        };
        let pod = self.control_plane_pod.clone();
        let listener = {
            // The socket is the pod's, the runtime is the cluster's.
            let _context = cluster.background.handle().enter();
            pod.listen(self.common.control_plane_address)?
        };
        let namespace = cluster.control_plane.namespace.clone();
        let front = Front::start(cluster.writer.clone(), namespace, pod, listener);
        let replicas = Replicas {
            front: cluster.background.wait(front)?,
            all: Mutex::default(),
        };
        anyhow::ensure!(
            cluster.replicas.set(replicas).is_ok(),
            "the replicas are made once"
        );
        for _ in 0..count {
            let name = self.make_replica()?;
            self.start_replica(&name)?;
        }
        for name in self.replicas() {
            self.wait_for_replica(&name).await?;
        }
        Ok(())
    }

    /// The ends of their logs.
    pub(in crate::mesh) fn replica_log_tails(&self) -> String {
        let mut text = String::new();
        if let Ok(replicas) = self.all_replicas() {
            for (name, replica) in &*replicas.all.lock() {
                let tail = log_tail(&replica.log, TAIL_LINES);
                text.extend(["--- ", name, "\n", &tail, "\n"]);
            }
        }
        text
    }

    fn replica(&self, name: &str) -> anyhow::Result<Arc<Replica>> {
        let known = self.all_replicas()?.all.lock().get(name).cloned();
        known.with_context(|| format!("there is no replica {name}"))
    }

    fn all_replicas(&self) -> anyhow::Result<&Replicas> {
        let Source::Cluster(cluster) = &self.source else {
            anyhow::bail!("there are replicas in a cluster only");
        };
        let replicas = cluster.replicas.get();
        replicas.context("the mesh was not built with `replicas`")
    }
}
