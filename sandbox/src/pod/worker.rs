//! A thread that made a network namespace and stays in it; or one that stays where it is.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::net;

type Job = Box<dyn FnOnce() + Send>;

/// The thread. It ends when the worker is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    name: String,
    jobs: Sender<Job>,
    /// `None` where there are no namespaces.
    namespace: Option<Arc<OwnedFd>>,
}

impl Worker {
    /// Starts a thread in a new network namespace.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        Self::begin(name, || net::unshare_net().map(Some))
    }

    /// Starts a thread in the caller's network namespace.
    pub(crate) fn start_here(name: &str) -> io::Result<Self> {
        Self::begin(name, || Ok(None))
    }

    fn begin(
        name: &str,
        enter: impl FnOnce() -> io::Result<Option<OwnedFd>> + Send + 'static,
    ) -> io::Result<Self> {
        // Unbounded in name only: every sender waits for its answer.
        let (jobs, inbox) = channel::<Job>();
        let (ready, made) = channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if ready.send(enter()).is_err() {
                    return;
                }
                for job in inbox {
                    job();
                }
            })?;
        let namespace = made
            .recv()
            .map_err(|_| io::Error::other("the thread of a new pod has panicked"))??;
        Ok(Self {
            name: name.to_owned(),
            jobs,
            namespace: namespace.map(Arc::new),
        })
    }

    /// Runs `work` on the thread and waits.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, result) = channel();
        let job = move || {
            // A panic belongs to whoever asked, not to the thread that others use too.
            let _ = answer.send(catch_unwind(AssertUnwindSafe(work)));
        };
        self.jobs
            .send(Box::new(job))
            .expect("the thread lives as long as its worker");
        match result.recv().expect("every job answers") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Runs `work` on a new thread in the same namespace.
    pub(crate) fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = self.namespace.clone();
        std::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || {
                if let Some(namespace) = namespace {
                    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                        .expect("who made a namespace may enter it");
                }
                work()
            })
            .expect("the machine has threads to spare")
    }

    /// A handle to the namespace.
    pub(crate) fn namespace(&self) -> io::Result<OwnedFd> {
        match &self.namespace {
            Some(namespace) => namespace.try_clone(),
            None => Err(io::Error::other("this thread has no namespace of its own")),
        }
    }
}
