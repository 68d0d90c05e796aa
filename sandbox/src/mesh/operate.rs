//! One workload's sidecar and application: ending them, starting them again, and what there is before
//! the control plane knows of it.

use std::sync::Arc;

use super::member::Member;
use super::{Mesh, Workload, end, wait_for_end};
use crate::Pod;
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

    /// Kills application and sidecar, with all that they work on, and waits for their ends.
    #[track_caller]
    pub fn kill_workload(&self, workload: &str) -> impl Future<Output = anyhow::Result<()>> {
        let member = self.member(workload);
        async move {
            let (app, sidecar) = (member.app()?, member.sidecar()?);
            sidecar.kill()?;
            app.kill()?;
            wait_for_end(&sidecar).await?;
            wait_for_end(&app).await
        }
    }

    /// Starts application and sidecar, which have ended, and waits until both are ready.
    #[track_caller]
    pub fn start_workload(&self, workload: &str) -> impl Future<Output = anyhow::Result<()>> {
        let member = self.member(workload);
        async move {
            member.start_app(&self.common)?;
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

/// A workload whose application runs in a pod that the mesh says nothing about: an address outside of
/// it, or a pod that the control plane hears of late. It ends with this value, unless the mesh takes it.
#[derive(Debug)]
pub struct Unknown(Arc<Member>);

impl Unknown {
    /// Its pod.
    pub fn pod(&self) -> &Pod {
        &self.0.pod
    }

    /// Its application's control port.
    pub fn app(&self) -> Control {
        self.0.control()
    }
}

impl Drop for Unknown {
    fn drop(&mut self) {
        // Whoever took it holds it too.
        if Arc::strong_count(&self.0) == 1 {
            self.0.kill();
        }
    }
}

/// Workloads that nobody was told of.
impl Mesh {
    /// Makes a workload's pod and starts its application, without a word to the control plane and
    /// without sidecar and interception.
    pub async fn start_unknown(&self, workload: Workload) -> anyhow::Result<Unknown> {
        let unknown = Unknown(self.make_pod_of(workload)?);
        unknown.0.start_app(&self.common)?;
        self.within_patience(async {
            while unknown.app().ready().await.is_err() {
                tokio::time::sleep(super::POLL).await;
            }
            Ok(())
        })
        .await?;
        Ok(unknown)
    }

    /// Tells the control plane of it, as a workload of the mesh from now on, starts its sidecar and waits
    /// until that is ready.
    pub async fn make_known(&self, unknown: Unknown) -> anyhow::Result<()> {
        let member = &unknown.0;
        if member.spec.meshed {
            // As an init container does, before the pod is there for anybody.
            member.intercept()?;
        }
        self.enter_member(member)?;
        self.write_source()?;
        if member.spec.meshed {
            self.give_credentials(member)?;
            member.start_sidecar(&self.common)?;
        }
        self.wait_for(member).await
    }
}
