//! The threads of a sidecar: N data workers and one control thread.
//!
//! Each is an OS thread with a current-thread runtime of its own; tasks never move between them, so
//! what a worker accepts and pools stays on it. Between workers only immutable snapshots and atomics
//! are shared. The control thread has admin, identity and discovery: a slow scrape delays no traffic.
//!
//! Start-up: [`Threads::start`] (all threads idle) → identity and discovery on
//! [`Threads::control`] → accept loops, one set per worker, on [`Threads::workers`] → admin says
//! ready. A connection goes to the worker with the fewest ([`Workers::assign`]).
//!
//! Shutdown: stop accepting and drain (the life cycle's work, through the closing phases) →
//! [`Threads::join`]: workers end first, whatever is still on them is dropped; then the control
//! thread, so that the end can still be scraped. A thread that is stuck past the deadline is named
//! and left behind: the process exits without it.

mod quota;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Telemetry;

pub use quota::default_workers;

/// What the control thread gets to end in, even when stuck workers have used the time up.
pub const CONTROL_GRACE: Duration = Duration::from_secs(1);

/// All threads of a sidecar. Dropped without [`Threads::join`], they are told to end.
pub struct Threads {
    workers: Workers,
    control: ControlHandle,
    /// Workers first.
    running: Vec<Running>,
}

/// The data workers. Cheap to clone.
#[derive(Clone)]
pub struct Workers(Arc<[WorkerHandle]>);

/// One data worker. Cheap to clone.
#[derive(Clone)]
pub struct WorkerHandle {
    id: usize,
    connections: Arc<AtomicUsize>,
    runtime: RuntimeHandle,
}

/// The control thread. Cheap to clone.
#[derive(Clone)]
pub struct ControlHandle(RuntimeHandle);

/// One connection of a worker: counted until it is dropped.
#[derive(Debug)]
pub struct ConnectionCount(Arc<AtomicUsize>);

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
    /// Starts `workers` data workers (at least one) and the control thread. When one cannot be
    /// started, those that were are told to end.
    pub fn start(workers: usize, telemetry: &Arc<Telemetry>) -> io::Result<Self> {
        let mut running = Vec::new();
        let mut handles = Vec::new();
        let started = (0..workers.max(1)).try_for_each(|id| {
            let (runtime, thread) = start_thread(format!("weft-worker-{id}"), Some(id), telemetry)?;
            running.push(thread);
            handles.push(WorkerHandle {
                id,
                connections: Arc::default(),
                runtime,
            });
            Ok(())
        });
        let control = started.and_then(|()| start_thread("weft-control".into(), None, telemetry));
        match control {
            Ok((control, thread)) => {
                running.push(thread);
                Ok(Self {
                    workers: Workers(handles.into()),
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
        self.0.iter()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The worker with the fewest connections; of equals the first.
    pub fn least_loaded(&self) -> &WorkerHandle {
        self.0
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
}

impl WorkerHandle {
    /// From 0.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Connections that are counted now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection until the answer is dropped.
    pub fn count_connection(&self) -> ConnectionCount {
        self.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionCount(Arc::clone(&self.connections))
    }

    /// Runs `task` on this worker, from whatever thread. A panic in it is counted and logged with
    /// `what`. After the worker's end the task is dropped without having run.
    pub fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(what, task);
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
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn start_thread(
    name: String,
    worker: Option<usize>,
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
        if let Some(worker) = worker {
            crate::worker::enter(worker);
        }
        // Runs whatever is spawned. What is left then is dropped with the runtime, on this thread.
        runtime.block_on(stopped);
        drop(runtime);
    })?;
    Ok((handle, Running { name, stop, ended }))
}
