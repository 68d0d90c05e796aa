//! A runtime on threads of its own, for what a mesh asks an API server while its caller waits.

use std::io;
use std::sync::mpsc::channel;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// What one wait may take: an API server that says nothing is an error and no hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends without waiting when it is dropped.
#[derive(Debug)]
pub(super) struct Background {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Background {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("cluster")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Runs `work` there and waits for it, on whatever thread and in whatever runtime the caller is.
    ///
    /// # Errors
    /// Those of `work`; or that it took longer than a minute.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (done, result) = channel();
        self.handle.spawn(async move {
            let result = match tokio::time::timeout(PATIENCE, work).await {
                Ok(result) => result,
                Err(_) => Err(anyhow::anyhow!("not done after {PATIENCE:?}")),
            };
            // Nobody waits any more: the result is not wanted.
            let _ = done.send(result);
        });
        match result.recv() {
            Ok(result) => result,
            Err(_) => anyhow::bail!("the task panicked or was ended"),
        }
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
