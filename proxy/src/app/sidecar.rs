//! One sidecar: its parts, in the order in which they start, and its end.
//!
//! The end has two signals. *Pod terminating* comes from the control plane: peers are told to leave,
//! everything is still served. *SIGTERM*: a native sidecar's application has gone already, so what is
//! in flight is finished and the process ends; a legacy sidecar hears it together with its
//! application, and first serves on for a settle time. One deadline bounds it all; SIGTERM works at
//! every stage, and a second one ends at once.
//!
//! A legacy sidecar has a third: *application ended*, from the control plane too. Kubernetes ends it only
//! with its pod, and a Job's pod ends only with its containers; so it ends itself, as a native one would.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::certificates::Certificates;
use super::explicit::ServiceListeners;
use super::listen::{self, Listener, Serve};
use super::readiness::Readiness;
use super::settings::{Interception, ListenAddr, Settings, SidecarMode};
use super::state::State;
use super::threads::placement::TOGETHER;
use super::threads::{Threads, default_workers};
use crate::admin::AdminServer;
use crate::discovery::{Discovery, Introduction, Watched};
use crate::identity::certify::Certifier;
use crate::identity::control_plane::{BoxFuture, Dial};
use crate::identity::{ControlPlane, Identity};
use crate::inbound::{Inbound, InboundParts};
use crate::net::closing::{self, Closing, ClosingSender, Phase};
use crate::net::socket::{Fixed, listen_first};
use crate::net::{AppDialer, Dialer, OriginalDestination, OwnAddresses, Redirected};
use crate::outbound::{Outbound, OutboundParts};
use crate::policy::InboundPolicy;
use crate::telemetry::trace::Tracer;
use crate::telemetry::{ProcessLabels, Telemetry, traffic};
use weft_proto::logs::LogControl;

/// A legacy sidecar serves on for this part of the drain time, so that its application can finish.
const SETTLE_DIVISOR: u32 = 4;
/// And no longer than this.
const MAX_SETTLE: Duration = Duration::from_secs(5);
/// What is left for cutting what did not end in time, and for the threads to end.
const CUT_LIMIT: Duration = Duration::from_secs(1);

/// Why a legacy sidecar fails that was told to end before it was ready. A kubelet does so after a
/// `postStart` hook that waited in vain, and starts it again only after a failure where the pod's
/// `restartPolicy` is `OnFailure`: the application would be without a sidecar for good.
const NEVER_READY: &str = "told to end before it was ready";

/// How long the last spans may take to be sent.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// How often idle connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Why a sidecar could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener could not be bound.
    #[error("cannot listen on {address} ({name}): {source}")]
    Listen {
        /// What for.
        name: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A thread, a runtime or a signal handler could not be had.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Runs a sidecar until it is told to end. Blocks.
pub fn run(settings: Settings, log: LogControl) -> Result<(), Error> {
    let telemetry = Telemetry::new(ProcessLabels {
        workload: settings.workload.as_str().into(),
        namespace: settings.namespace.as_str().into(),
    });
    let workers = settings.workers.unwrap_or_else(default_workers);
    // Where a worker may have fewer connections to an endpoint, it gets no more from the application.
    let together = TOGETHER.min(settings.limits.endpoint_connections_of(workers));
    let threads = Threads::start(workers, together, &telemetry)?;
    let (told, ended) = oneshot::channel();
    let sidecar = Sidecar::start(settings, log, telemetry, &threads)?;
    threads.control().spawn("life cycle", async move {
        let _ = told.send(sidecar.live().await);
    });
    let outcome = ended.blocking_recv();
    if let Err(stuck) = threads.join(CUT_LIMIT) {
        tracing::warn!(%stuck, "ended without waiting");
    }
    match outcome {
        Ok(result) => result.map_err(Error::Start),
        Err(_) => Err(io::Error::other("the control thread ended first").into()),
    }
}

/// What the end of a sidecar needs.
struct Sidecar {
    settings: Settings,
    discovery: Discovery,
    telemetry: Arc<Telemetry>,
    readiness: Arc<Readiness>,
    closing: Arc<ClosingSender>,
    /// Connections, both directions.
    connections: TaskTracker,
    /// The loops that accept them.
    accepting: TaskTracker,
    drain: Arc<Notify>,
}

impl Sidecar {
    fn start(
        settings: Settings,
        log: LogControl,
        telemetry: Arc<Telemetry>,
        threads: &Threads,
    ) -> Result<Self, Error> {
        // What may be asked for before anything is known: listeners.
        let inbound_sockets = InboundSockets::bind(&settings)?;
        let admin_socket = bind("admin", settings.admin_addr)?;
        let outbound_sockets = bind_outbound(&settings)?;

        // What is told of what passes; set before anything does.
        let lost = telemetry.limit("access_log");
        telemetry.watchers().log_to(log.access().clone(), lost);
        if let Some(label) = settings.header_label.clone() {
            telemetry.set_header_label(label);
        }
        let dialer = Dialer::new(settings.mark);
        if let Some(trace) = settings.trace.clone() {
            tracing::info!(collector = %trace.endpoint, "traces are exported");
            let (tracer, exporter) = Tracer::new(trace, &telemetry, dialer);
            telemetry.set_tracer(tracer);
            threads.control().spawn("trace export", exporter.run());
        }

        // Who this workload is, and what it knows.
        let apps = settings.explicit_inbound.iter();
        let apps: Vec<_> = apps.map(|one| (one.listen, one.app)).collect();
        let app_dialer = AppDialer::new(dialer, telemetry.limit("source_ports"));
        let own_addresses = OwnAddresses::new(&settings.workload_addresses, &apps);
        let control_plane = ControlPlane::new(
            settings.control_plane_addr.to_string(),
            settings.control_plane_id.clone(),
            settings.trust_bundle_file.clone(),
            Arc::new(Marked(dialer)),
        );
        let identity = Identity::new();
        let certifier = Certifier::new(
            control_plane.clone(),
            identity.clone(),
            settings.token_file.clone(),
        );
        let certify = certifier.status();
        let introduction = Introduction {
            workload: settings.workload.clone(),
            zone: settings.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (discovery, stream) = Discovery::new(introduction, identity.clone(), control_plane);
        let readiness = Arc::new(Readiness::new(
            identity.clone(),
            discovery.clone(),
            &settings.inbound_ports,
            settings.interception,
        ));

        // The two directions.
        let (closing, listening) = closing::channel();
        let closing = Arc::new(closing);
        let workers = threads.workers();
        let connections = TaskTracker::new();
        let accepting = TaskTracker::new();
        let outbound = Outbound::new(OutboundParts {
            discovery: discovery.clone(),
            identity: identity.clone(),
            telemetry: Arc::clone(&telemetry),
            dialer,
            own_addresses: own_addresses.clone(),
            workload: format!("{}/{}", settings.namespace, settings.workload).into(),
            zone: settings.zone.as_str().into(),
            workers: workers.count(),
            max_age: settings.max_connection_age,
            keep_case: settings.keep_header_case,
            floods: settings.floods,
            limits: settings.limits,
            connections: connections.clone(),
        });
        let inbound = Inbound::new(InboundParts {
            discovery: discovery.clone(),
            identity: identity.clone(),
            telemetry: Arc::clone(&telemetry),
            dialer: app_dialer.clone(),
            own_addresses: own_addresses.clone(),
            workers: workers.count(),
            max_age: settings.max_connection_age,
            keep_case: settings.keep_header_case,
            forwarded_for: settings.forwarded_for,
            floods: settings.floods,
            limits: settings.limits,
            connections: connections.clone(),
        });
        let certificates = Certificates::new(identity, certify);
        let collected = certificates.clone();
        telemetry.register_collector(Arc::new(move |exposition| collected.collect(exposition)));
        let collected = Arc::clone(&outbound);
        telemetry.register_collector(Arc::new(move |exposition| collected.collect(exposition)));

        // Accept loops.
        let refused = telemetry.limit("connections");
        let accept = |listener: &Listener| {
            let tracked = (&accepting, &connections);
            listen::run(listener, workers, &listening, tracked, &refused)
        };
        for (socket, serve) in inbound_sockets.serving(&inbound, &listening) {
            accept(&Listener {
                name: "inbound",
                socket,
                serve,
                // A new connection is refused by the kernel, and its client goes elsewhere.
                until: Phase::Draining,
                most: settings.limits.connections,
            })?;
        }
        for socket in outbound_sockets {
            accept(&Listener {
                name: "outbound",
                socket,
                serve: serve_outbound(&outbound, Redirected, listening.clone()),
                // What the application still has to finish may need others.
                until: Phase::Finishing,
                most: settings.limits.connections,
            })?;
        }

        // Idle connections, which belong to workers.
        for worker in workers.iter() {
            let (inbound, outbound) = (Arc::clone(&inbound), Arc::clone(&outbound));
            worker.spawn("sweep", async move {
                loop {
                    sleep(SWEEP_INTERVAL).await;
                    inbound.sweep();
                    outbound.sweep();
                }
            });
        }

        // The control thread's work.
        let control = threads.control();
        control.spawn("certificates", certifier.run());
        control.spawn("discovery", stream.run());
        control.spawn("balance", workers.clone().balance());
        control.spawn(
            "interception proof",
            Arc::clone(&readiness).prove_interception(),
        );
        let drain = Arc::new(Notify::new());
        let state = Arc::new(State {
            settings: settings.clone(),
            started: Instant::now(),
            certificates,
            discovery: discovery.clone(),
            readiness: Arc::clone(&readiness),
            outbound: Arc::clone(&outbound),
            telemetry: Arc::clone(&telemetry),
            closing: Arc::clone(&closing),
            log,
            dialer: app_dialer,
            own_addresses,
            drain: Arc::clone(&drain),
        });
        discovery.set_handler(Arc::clone(&state) as _);
        control.spawn("traffic", traffic::watch(Arc::clone(&telemetry)));
        let edges = Arc::clone(telemetry.edges());
        discovery.set_reporter(Arc::new(move |anew| edges.report(anew)));
        let admin = AdminServer::new(state, Arc::clone(&telemetry));
        control.spawn("admin", async move {
            match TcpListener::from_std(admin_socket) {
                Ok(listener) => admin.serve(listener).await,
                Err(error) => tracing::error!(%error, "no admin endpoint"),
            }
        });
        if settings.interception == Interception::Explicit {
            let listeners = ServiceListeners {
                mesh: discovery.mesh(),
                outbound,
                workers: workers.clone(),
                closing: listening,
                accepting: accepting.clone(),
                connections: connections.clone(),
                telemetry: Arc::clone(&telemetry),
                readiness: Arc::clone(&readiness),
                max_connections: settings.limits.connections,
            };
            control.spawn("service listeners", listeners.run());
        }
        tracing::info!(
            workload = %settings.workload,
            namespace = %settings.namespace,
            workers = workers.count(),
            "sidecar started"
        );
        Ok(Self {
            settings,
            discovery,
            telemetry,
            readiness,
            closing,
            connections,
            accepting,
            drain,
        })
    }

    /// From start to end.
    async fn live(self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (settle, is_told) = tokio::select! {
            () = self.follow_workload() => (Duration::ZERO, false),
            () = told_to_end(&mut terminate, &mut interrupt) => (self.settle(), true),
            () = self.drain.notified() => (self.settle(), true),
        };
        let is_legacy = self.settings.sidecar_mode == SidecarMode::Legacy;
        let never_ready = is_told && is_legacy && !self.readiness.missing().is_empty();
        tokio::select! {
            () = self.end(settle) => {}
            () = told_to_end(&mut terminate, &mut interrupt) => {
                tracing::warn!("told to end again: what is in flight is cut");
            }
        }
        if never_ready {
            return Err(io::Error::other(NEVER_READY));
        }
        Ok(())
    }

    /// Begins closing when the control plane says that the workload is being removed. Ends when it says
    /// that the application has ended, and this sidecar is one that nobody else ends then.
    async fn follow_workload(&self) {
        let ports = self
            .readiness
            .ports()
            .iter()
            .map(|(_, policy)| policy.clone());
        // Without declared ports, the namespace's default says so too.
        let mut policies: Vec<Watched<InboundPolicy>> = ports.collect();
        policies.push(self.discovery.inbound(0));
        let mut seen: Vec<Option<Arc<InboundPolicy>>> = vec![None; policies.len()];
        loop {
            let changes = policies
                .iter()
                .zip(&seen)
                .map(|(policy, seen)| Box::pin(policy.changed(seen.as_ref())));
            let (policy, index, _) = futures_util::future::select_all(changes).await;
            if policy.terminating {
                tracing::info!("the workload is being removed: peers are told to leave");
                self.closing.advance(Phase::Announcing);
            }
            if policy.application_ended && self.settings.sidecar_mode == SidecarMode::Legacy {
                tracing::info!("the application has ended");
                return;
            }
            seen[index] = Some(policy);
        }
    }

    /// How long everything is served on after a signal that the application heard as well.
    fn settle(&self) -> Duration {
        match self.settings.sidecar_mode {
            SidecarMode::Native => Duration::ZERO,
            SidecarMode::Legacy => (self.settings.drain_timeout / SETTLE_DIVISOR).min(MAX_SETTLE),
        }
    }

    /// Finishes what is in flight, within the drain time, of which `settle` is a part.
    async fn end(&self, settle: Duration) {
        let begun = Instant::now();
        let deadline = self.settings.drain_timeout;
        self.closing.advance(Phase::Announcing);
        if !settle.is_zero() {
            sleep(settle).await;
        }
        self.closing.advance(Phase::Draining);
        tracing::info!(connections = self.connections.len(), "draining");
        let left = deadline.saturating_sub(begun.elapsed());
        let finished = finish(&self.closing, &self.accepting, &self.connections);
        if timeout(left, finished).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "drain time is over");
        }
        self.closing.advance(Phase::Over);
        let _ = timeout(CUT_LIMIT, self.connections.wait()).await;
        if let Some(tracer) = self.telemetry.tracer() {
            // A collector that is away keeps nobody.
            let _ = timeout(FLUSH_LIMIT, tracer.flush()).await;
        }
        tracing::info!(seconds = begun.elapsed().as_secs_f64(), "drained");
    }
}

/// Waits for what is in flight, then for the last that came meanwhile: a connection that was made while
/// the one before it ended is served, not cut.
async fn finish(closing: &ClosingSender, accepting: &TaskTracker, connections: &TaskTracker) {
    connections.close();
    connections.wait().await;
    closing.advance(Phase::Finishing);
    accepting.close();
    accepting.wait().await;
    connections.wait().await;
}

/// Dials past the redirect.
struct Marked(Dialer);

impl Dial for Marked {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(self.0.dial(address))
    }
}

async fn told_to_end(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn serve_inbound(
    inbound: &Arc<Inbound>,
    original: impl OriginalDestination + Copy,
    closing: Closing,
) -> Serve {
    let inbound = Arc::clone(inbound);
    Arc::new(move |connection, seat| {
        let (inbound, closing) = (Arc::clone(&inbound), closing.clone());
        Box::pin(async move {
            let served = inbound.connection(connection, &original, &seat, closing);
            served.await;
        })
    })
}

/// `original` says what connections mean.
pub(super) fn serve_outbound(
    outbound: &Arc<Outbound>,
    original: impl OriginalDestination + Copy,
    closing: Closing,
) -> Serve {
    let outbound = Arc::clone(outbound);
    Arc::new(move |connection, seat| {
        let (outbound, closing) = (Arc::clone(&outbound), closing.clone());
        Box::pin(async move {
            let served = outbound.connection(connection, &original, &seat, closing);
            served.await;
        })
    })
}

fn bind(name: &'static str, address: ListenAddr) -> Result<std::net::TcpListener, Error> {
    let candidates: Vec<SocketAddr> = [Some(address.address()), address.fallback()]
        .into_iter()
        .flatten()
        .collect();
    listen_first(&candidates).map_err(|source| Error::Listen {
        name,
        address: address.address(),
        source,
    })
}

/// Listeners for what is sent to the application.
enum InboundSockets {
    Redirected(std::net::TcpListener),
    /// Each stands for the address that it is bound to.
    Explicit(Vec<(SocketAddr, std::net::TcpListener)>),
}

impl InboundSockets {
    fn bind(settings: &Settings) -> Result<Self, Error> {
        if settings.interception == Interception::Redirect {
            return Ok(Self::Redirected(bind("inbound", settings.inbound_addr)?));
        }
        let mut sockets = Vec::new();
        for explicit in &settings.explicit_inbound {
            let socket = bind("inbound", ListenAddr::new(explicit.listen))?;
            sockets.push((explicit.listen, socket));
        }
        Ok(Self::Explicit(sockets))
    }

    /// With what becomes of their connections.
    fn serving(
        self,
        inbound: &Arc<Inbound>,
        closing: &Closing,
    ) -> Vec<(std::net::TcpListener, Serve)> {
        match self {
            Self::Redirected(socket) => {
                vec![(socket, serve_inbound(inbound, Redirected, closing.clone()))]
            }
            Self::Explicit(sockets) => sockets
                .into_iter()
                .map(|(at, socket)| (socket, serve_inbound(inbound, Fixed(at), closing.clone())))
                .collect(),
        }
    }
}

/// One listener per address; a machine without IPv6 has no `::1`. None where nothing is redirected:
/// then services have [listeners](ServiceListeners) of their own.
fn bind_outbound(settings: &Settings) -> Result<Vec<std::net::TcpListener>, Error> {
    let mut sockets = Vec::new();
    if settings.interception == Interception::Explicit {
        return Ok(sockets);
    }
    for address in &settings.outbound_addrs {
        match listen_first(&[*address]) {
            Ok(socket) => sockets.push(socket),
            Err(error) if address.is_ipv6() && !sockets.is_empty() => {
                tracing::warn!(%address, %error, "no outbound listener for IPv6");
            }
            Err(source) => {
                return Err(Error::Listen {
                    name: "outbound",
                    address: *address,
                    source,
                });
            }
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests;
