//! One workload's sidecar and application: ending them, starting them again.

use std::sync::Arc;

use super::{Mesh, end, wait_for_end};
use crate::app::Control;
use crate::process::Process;

/// One workload's sidecar and application.
impl Mesh {
    /// The sidecar's process.
    #[track_caller]
    pub fn sidecar(&self, workload: &str) -> anyhow::Result<Arc<Process>> {
        self.member(workload).sidecar()
    }

    /// The application's process.
    #[track_caller]
    pub fn app_process(&self, workload: &str) -> anyhow::Result<Arc<Process>> {
        self.member(workload).app()
    }

    /// The application's control port.
    #[track_caller]
    pub fn app(&self, workload: &str) -> Control {
        self.member(workload).control()
    }

    /// Asks the sidecar to end (SIGTERM) and waits for it.
    #[track_caller]
    pub fn stop_sidecar(&self, workload: &str) -> impl Future<Output = anyhow::Result<()>> {
        let member = self.member(workload);
        async move { end(&member.sidecar()?).await }
    }

    /// Kills the sidecar and waits for its end.
    #[track_caller]
    pub fn kill_sidecar(&self, workload: &str) -> impl Future<Output = anyhow::Result<()>> {
        let member = self.member(workload);
        async move {
            let process = member.sidecar()?;
            process.kill()?;
            wait_for_end(&process).await
        }
    }

    /// Starts a sidecar that has ended and waits until it is ready.
    #[track_caller]
    pub fn start_sidecar(&self, workload: &str) -> impl Future<Output = anyhow::Result<()>> {
        let member = self.member(workload);
        async move {
            member.start_sidecar(&self.common)?;
            self.wait_for(&member).await
        }
    }

    /// [`Self::stop_sidecar`], then [`Self::start_sidecar`].
    #[track_caller]
    pub fn restart_sidecar(&self, workload: &str) -> impl Future<Output = anyhow::Result<()>> {
        let member = self.member(workload);
        async move {
            end(&member.sidecar()?).await?;
            member.start_sidecar(&self.common)?;
            self.wait_for(&member).await
        }
    }

    /// Asks the application to end (SIGTERM) and waits for it.
    #[track_caller]
    pub fn stop_app(&self, workload: &str) -> impl Future<Output = anyhow::Result<()>> {
        let member = self.member(workload);
        async move { end(&member.app()?).await }
    }

    /// Kills the application and waits for its end.
    #[track_caller]
    pub fn kill_app(&self, workload: &str) -> impl Future<Output = anyhow::Result<()>> {
        let member = self.member(workload);
        async move {
            let process = member.app()?;
            process.kill()?;
            wait_for_end(&process).await
        }
    }

    /// Starts an application that has ended and waits until it is ready.
    #[track_caller]
    pub fn start_app(&self, workload: &str) -> impl Future<Output = anyhow::Result<()>> {
        let member = self.member(workload);
        async move {
            member.start_app(&self.common)?;
            self.wait_for(&member).await
        }
    }
}
