//! The threads of a sidecar: N data workers and one control thread.
//!
//! Each is an OS thread with a current-thread runtime of its own; what a worker serves and pools stays
//! on it. Between workers only immutable snapshots and atomics are shared. The control thread has admin,
//! identity and discovery: a slow scrape delays no traffic.
//!
//! Start-up: [`Threads::start`] (all threads idle) → identity and discovery on
//! [`Threads::control`] → accept loops, one set per worker, on [`Threads::workers`] → admin says
//! ready. A connection goes to the worker with the fewest ([`Workers::assign`]); once it turns out to be
//! HTTP, [`placement`] says who serves it ([`Workers::place`]), and it may move, before anything of it
//! belongs to a worker ([`moving`]). [`Workers::balance`] sees to workers that have too much to do.
//!
//! Shutdown: stop accepting and drain (the life cycle's work, through the closing phases) →
//! [`Threads::join`]: workers end first, whatever is still on them is dropped; then the control
//! thread, so that the end can still be scraped. A thread that is stuck past the deadline is named
//! and left behind: the process exits without it.

pub mod moving;
pub mod placement;
mod quota;
#[cfg(test)]
mod tests;
mod usage;

use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use metrics::Counter;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use self::placement::Load;
use self::usage::{Clock, Meter};
use crate::telemetry::Telemetry;
use crate::worker::Leavers;

pub use quota::default_workers;

/// What the control thread gets to end in, even when stuck workers have used the time up.
pub const CONTROL_GRACE: Duration = Duration::from_secs(1);

/// How often it is looked what the workers have to do.
const BALANCE_INTERVAL: Duration = Duration::from_secs(1);

/// All threads of a sidecar. Dropped without [`Threads::join`], they are told to end.
pub struct Threads {
    workers: Workers,
    control: ControlHandle,
    /// Workers first.
    running: Vec<Running>,
}

/// The data workers. Cheap to clone.
#[derive(Clone)]
pub struct Workers {
    handles: Arc<[WorkerHandle]>,
    /// How many HTTP connections a worker gets before the next one gets any.
    together: usize,
}

/// One data worker. Cheap to clone.
#[derive(Clone)]
pub struct WorkerHandle {
    id: usize,
    duty: Arc<Duty>,
    runtime: RuntimeHandle,
}

/// What one worker has to do.
struct Duty {
    connections: AtomicUsize,
    /// Those of HTTP that were placed.
    http: AtomicUsize,
    /// The share of the time that it executed, lately.
    share: Share,
    leavers: Arc<Leavers>,
    /// Its thread's, where the kernel has it.
    clock: OnceLock<Clock>,
}

/// A share of the time, which any thread may read; none until it is known.
struct Share(AtomicU32);

/// The control thread. Cheap to clone.
#[derive(Clone)]
pub struct ControlHandle(RuntimeHandle);

/// One connection of a worker: counted until it is dropped.
pub struct ConnectionCount(Arc<Duty>);

/// One HTTP connection of a worker: counted until it is dropped.
pub struct HttpCount(Arc<Duty>);

/// Threads that did not end in time, by name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("threads that did not end in time: {}", .0.join(", "))]
pub struct Stuck(pub Vec<String>);

#[derive(Clone)]
struct RuntimeHandle {
    handle: Handle,
    telemetry: Arc<Telemetry>,
}

struct Running {
    name: String,
    stop: CancellationToken,
    /// Disconnected when the thread has ended, whether it wanted to or panicked.
    ended: mpsc::Receiver<()>,
}

impl Threads {
    /// Starts `workers` data workers (at least one) and the control thread. Each worker gets `together`
    /// HTTP connections (at least one) before the next gets any. When one cannot be started, those
    /// that were are told to end.
    pub fn start(workers: usize, together: usize, telemetry: &Arc<Telemetry>) -> io::Result<Self> {
        let mut running = Vec::new();
        let mut handles = Vec::new();
        let started = (0..workers.max(1)).try_for_each(|id| {
            let duty = Arc::new(Duty::new(telemetry.sent_away()));
            let own = Arc::clone(&duty);
            let enter = move || own.enter(id);
            let (runtime, thread) = start_thread(format!("weft-worker-{id}"), enter, telemetry)?;
            running.push(thread);
            handles.push(WorkerHandle { id, duty, runtime });
            Ok(())
        });
        let control = started.and_then(|()| start_thread("weft-control".into(), || {}, telemetry));
        match control {
            Ok((control, thread)) => {
                running.push(thread);
                Ok(Self {
                    workers: Workers {
                        handles: handles.into(),
                        together: together.max(1),
                    },
                    control: ControlHandle(control),
                    running,
                })
            }
            Err(error) => {
                for thread in running {
                    thread.stop.cancel();
                }
                Err(error)
            }
        }
    }

    /// The data workers.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The control thread.
    pub fn control(&self) -> &ControlHandle {
        &self.control
    }

    /// Ends all threads, workers first, and waits at most `deadline`, or [`CONTROL_GRACE`] longer
    /// where workers used it up. Blocks: call it from none of these threads.
    pub fn join(mut self, deadline: Duration) -> Result<(), Stuck> {
        let until = Instant::now() + deadline;
        let running = std::mem::take(&mut self.running);
        let (control, workers) = running.split_last().expect("there is a control thread");
        let mut stuck = Vec::new();
        for thread in workers {
            thread.stop.cancel();
        }
        for thread in workers {
            stuck.extend(thread.wait(until));
        }
        control.stop.cancel();
        stuck.extend(control.wait(until.max(Instant::now() + CONTROL_GRACE)));
        if stuck.is_empty() {
            Ok(())
        } else {
            Err(Stuck(stuck))
        }
    }
}

impl Workers {
    /// In order of their numbers. Never empty.
    pub fn iter(&self) -> impl Iterator<Item = &WorkerHandle> {
        self.handles.iter()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// The worker with the fewest connections; of equals the first.
    pub fn least_loaded(&self) -> &WorkerHandle {
        self.handles
            .iter()
            .min_by_key(|worker| worker.connections())
            .expect("there is a worker")
    }

    /// Gives a connection to the worker with the fewest, and counts it at once, so that the next
    /// accept sees it even if the worker has not yet taken it over.
    pub fn assign(&self) -> (&WorkerHandle, ConnectionCount) {
        let worker = self.least_loaded();
        (worker, worker.count_connection())
    }

    /// Gives an HTTP connection to a worker, and counts it at once.
    pub fn place(&self) -> (&WorkerHandle, HttpCount) {
        let worker = &self.handles[placement::place(&self.loads(), self.together)];
        worker.duty.http.fetch_add(1, Ordering::Relaxed);
        (worker, HttpCount(Arc::clone(&worker.duty)))
    }

    /// Looks, for ever, what each worker has to do, and has HTTP connections made anew where one has
    /// too much. Where there is only one it ends at once.
    pub async fn balance(self) {
        if self.count() < 2 {
            return;
        }
        let mut meters: Vec<Meter> = self.iter().map(|_| Meter::new()).collect();
        loop {
            for (worker, meter) in self.iter().zip(&mut meters) {
                worker.duty.look(meter, Instant::now());
            }
            self.relieve();
            tokio::time::sleep(BALANCE_INTERVAL).await;
        }
    }

    fn relieve(&self) {
        let relief = placement::relief(&self.loads());
        if let Some((worker, connections)) = relief {
            tracing::debug!(
                worker,
                connections,
                "too much to do: connections are made anew"
            );
        }
        for worker in self.iter() {
            let leavers = match relief {
                Some((busiest, connections)) if busiest == worker.id => connections,
                _ => 0,
            };
            worker.duty.leavers.set(leavers);
        }
    }

    fn loads(&self) -> Vec<Load> {
        self.iter().map(|worker| worker.duty.load()).collect()
    }
}

impl WorkerHandle {
    /// From 0.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Connections that are counted now.
    pub fn connections(&self) -> usize {
        self.duty.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection until the answer is dropped.
    pub fn count_connection(&self) -> ConnectionCount {
        self.duty.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionCount(Arc::clone(&self.duty))
    }

    /// Runs `task` on this worker, from whatever thread. A panic in it is counted and logged with
    /// `what`. After the worker's end the task is dropped without having run.
    pub fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(what, task);
    }
}

impl Duty {
    fn new(sent_away: &Counter) -> Self {
        Self {
            connections: AtomicUsize::new(0),
            http: AtomicUsize::new(0),
            share: Share::default(),
            leavers: Arc::new(Leavers::new(sent_away.clone())),
            clock: OnceLock::new(),
        }
    }

    /// To be called first on the worker's thread.
    fn enter(&self, id: usize) {
        crate::worker::enter(id, Arc::clone(&self.leavers));
        match Clock::of_this_thread() {
            Ok(clock) => {
                let _ = self.clock.set(clock);
                // It has done nothing yet.
                self.share.set(Some(0.0));
            }
            Err(error) => tracing::debug!(%error, "connections are spread evenly over workers"),
        }
    }

    fn look(&self, meter: &mut Meter, now: Instant) {
        if let Some(clock) = self.clock.get()
            && let Some(share) = meter.share(clock, now)
        {
            self.share.set(Some(share));
        }
    }

    fn load(&self) -> Load {
        Load {
            connections: self.http.load(Ordering::Relaxed),
            share: self.share.value(),
        }
    }
}

impl Share {
    const UNKNOWN: u32 = u32::MAX;

    fn set(&self, share: Option<f64>) {
        let bits = share.map_or(Self::UNKNOWN, |share| (share as f32).to_bits());
        self.0.store(bits, Ordering::Relaxed);
    }

    fn value(&self) -> Option<f64> {
        let bits = self.0.load(Ordering::Relaxed);
        (bits != Self::UNKNOWN).then(|| f32::from_bits(bits).into())
    }
}

impl Default for Share {
    fn default() -> Self {
        Self(AtomicU32::new(Self::UNKNOWN))
    }
}

impl ControlHandle {
    /// Runs `task` on the control thread, from whatever thread. A panic in it is counted and logged
    /// with `what`. After the thread's end the task is dropped without having run.
    pub fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(what, task);
    }
}

impl RuntimeHandle {
    fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(self.telemetry.supervise(what, task));
    }
}

impl Running {
    /// The name, when the thread has not ended by then.
    fn wait(&self, until: Instant) -> Option<String> {
        let left = until.saturating_duration_since(Instant::now());
        match self.ended.recv_timeout(left) {
            Err(mpsc::RecvTimeoutError::Timeout) => Some(self.name.clone()),
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => None,
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in &self.running {
            thread.stop.cancel();
        }
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for HttpCount {
    fn drop(&mut self) {
        self.0.http.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts a thread that calls `enter` first.
fn start_thread(
    name: String,
    enter: impl FnOnce() + Send + 'static,
    telemetry: &Arc<Telemetry>,
) -> io::Result<(RuntimeHandle, Running)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = RuntimeHandle {
        handle: runtime.handle().clone(),
        telemetry: Arc::clone(telemetry),
    };
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let (alive, ended) = mpsc::channel();
    thread::Builder::new().name(name.clone()).spawn(move || {
        let _alive: mpsc::Sender<()> = alive;
        enter();
        // Runs whatever is spawned. What is left then is dropped with the runtime, on this thread.
        runtime.block_on(stopped);
        drop(runtime);
    })?;
    Ok((handle, Running { name, stop, ended }))
}
