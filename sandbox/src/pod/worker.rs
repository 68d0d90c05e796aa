//! A thread that made a network namespace and stays in it.

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
    namespace: Arc<OwnedFd>,
}

impl Worker {
    /// Starts a thread in a new network namespace.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        // Unbounded in name only: every sender waits for its answer.
        let (jobs, inbox) = channel::<Job>();
        let (ready, made) = channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if ready.send(net::unshare_net()).is_err() {
                    return;
                }
                for job in inbox {
                    job();
                }
            })?;
        let namespace = made
            .recv()
            .map_err(|_| io::Error::other("the thread of a new namespace has panicked"))??;
        Ok(Self {
            name: name.to_owned(),
            jobs,
            namespace: Arc::new(namespace),
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
        let namespace = Arc::clone(&self.namespace);
        std::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("who made a namespace may enter it");
                work()
            })
            .expect("the machine has threads to spare")
    }

    /// A handle to the namespace.
    pub(crate) fn namespace(&self) -> io::Result<OwnedFd> {
        self.namespace.try_clone()
    }
}
