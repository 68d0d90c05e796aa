//! What a story is played in: its mesh, and the traffic that flows all along.

use std::any::Any;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use weft_sandbox::load::{Load, Report, Running};
use weft_sandbox::metrics::Metrics;
use weft_sandbox::{Mesh, Sandbox};

use super::alerts::Watch;
use super::pace::Pace;
use super::stage::BREAKER_STATE;
use super::story::{Story, Target};

/// How long everything may take to become ready: a loaded machine and a debug build are slow.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A mesh that is ready, without traffic.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) mesh: Mesh,
    pub(super) story: &'static Story,
    pub(super) pace: Pace,
    watch: Option<Watch>,
    props: Box<dyn Any>,
}

/// The mesh and the traffic in it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) mesh: Mesh,
    pub(super) story: &'static Story,
    pub(super) pace: Pace,
    /// The story's Prometheus, where it has one and the machine does.
    pub(super) watch: Option<Watch>,
    props: Box<dyn Any>,
    traffic: Vec<Running>,
}

impl Set {
    /// Starts a story's mesh with its policies at this pace, and what else it needs.
    ///
    /// # Errors
    /// When a policy cannot be read, or something is not ready in time; the error says what.
    pub(super) async fn start(
        story: &'static Story,
        pace: Pace,
        sandbox: &Sandbox,
    ) -> anyhow::Result<Self> {
        let mut mesh = (story.mesh)(pace).patience(START_PATIENCE);
        for policy in story.policies {
            let yaml = pace
                .manifest(policy.yaml)
                .with_context(|| format!("the policy {}", policy.name))?;
            mesh = mesh.named_policy(policy.name, &yaml);
        }
        let mesh = mesh.start(sandbox).await?;
        let props: Box<dyn Any> = match story.props {
            Some(make) => make(&mesh, pace).await?,
            None => Box::new(()),
        };
        let watch = match story.watched {
            Some(watched) => Watch::start(&mesh, watched).await?,
            None => None,
        };
        Ok(Self {
            mesh,
            story,
            pace,
            watch,
            props,
        })
    }
}

impl World {
    /// Lets the traffic flow.
    pub(super) fn new(set: Set) -> Self {
        let Set {
            mesh,
            story,
            pace,
            watch,
            props,
        } = set;
        let traffic = story.targets.iter().map(|target| load(&mesh, target));
        Self {
            traffic: traffic.collect(),
            mesh,
            story,
            pace,
            watch,
            props,
        }
    }

    /// What [`Story::props`] made; `None` where that is something else.
    pub(super) fn props<T: 'static>(&self) -> Option<&T> {
        self.props.downcast_ref()
    }

    /// Looks at what has come of the traffic to one target since it was last taken.
    pub(super) fn look<T>(&self, target: usize, look: impl FnOnce(&Report) -> T) -> T {
        self.traffic[target].look(look)
    }

    /// Takes what has come of all traffic since the last time, by target.
    pub(super) fn take(&self) -> Vec<Report> {
        self.traffic.iter().map(Running::take).collect()
    }

    /// Ends the traffic, what is in flight included; the mesh stays.
    pub(super) async fn stop_traffic(self) -> (Set, Vec<Report>) {
        let ends = self.traffic.into_iter().map(Running::stop);
        let reports = futures_util::future::join_all(ends).await;
        let set = Set {
            mesh: self.mesh,
            story: self.story,
            pace: self.pace,
            watch: self.watch,
            props: self.props,
        };
        (set, reports)
    }

    /// A target's address.
    pub(super) fn addr(&self, target: usize) -> SocketAddr {
        let target = &self.story.targets[target];
        self.mesh.addr(target.service, target.port)
    }

    /// A target's service as metrics name it.
    pub(super) fn label(&self, target: usize) -> String {
        let target = &self.story.targets[target];
        self.label_of(target.service, target.port)
    }

    /// A workload's metrics now; `None` where its sidecar does not answer.
    pub(super) async fn metrics(&self, workload: &str) -> Option<Metrics> {
        let page = self.mesh.metrics(workload).await.ok()?;
        Some(Metrics::parse(&page))
    }

    /// Whether the circuit breaker of a target's whole backend is in this state, as its caller's
    /// sidecar says.
    pub(super) async fn has_breaker(&self, target: usize, state: &str) -> bool {
        let Target {
            caller,
            backends,
            port,
            ..
        } = &self.story.targets[target];
        for backend in *backends {
            let backend = self.label_of(backend, *port);
            if self.breaker_is(caller, &backend, state).await {
                return true;
            }
        }
        false
    }

    /// Whether the circuit breaker of a whole backend, by the label that metrics give it, is in this
    /// state at one workload's sidecar.
    pub(super) async fn breaker_is(&self, workload: &str, backend: &str, state: &str) -> bool {
        // Endpoints of such a backend have breakers too, for connections that fail.
        let labels = [("backend", backend), ("endpoint", ""), ("state", state)];
        let metrics = self.metrics(workload).await;
        metrics.is_some_and(|metrics| metrics.sum(BREAKER_STATE, &labels) > 0.0)
    }

    /// A service's port as metrics name it.
    pub(super) fn label_of(&self, service: &str, port: u16) -> String {
        format!("{}/{service}:{port}", self.story.namespace)
    }

    /// Traffic like a target's own, for an act to send as much of as it wants: the same requests from
    /// the same caller, under ids of their own.
    pub(super) fn load(&self, target: usize, ids: &str) -> Load {
        described(&self.mesh, &self.story.targets[target]).id_prefix(ids)
    }
}

fn load(mesh: &Mesh, target: &Target) -> Running {
    described(mesh, target)
        .clients(target.clients)
        .rate(target.rate)
        .on_demand()
        .start(&mesh.pod(target.caller))
}

fn described(mesh: &Mesh, target: &Target) -> Load {
    let load = Load::new(mesh.addr(target.service, target.port))
        .authority(target.service)
        .id_prefix(target.service)
        .protocol(target.protocol);
    (target.shots)(mesh).into_iter().fold(load, Load::shot)
}
