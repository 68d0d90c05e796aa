//! Sidecars that are not Weft's: what one needs, and how it starts.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use weft_proxy::interception::{self, Ruleset};
use weft_sandbox::Pod;
use weft_sandbox::process::{Process, Program};

use super::identity::Identity;
use crate::bench::usage::{self, pin_thread};

/// Lines of its log that an error shows.
const TAIL: usize = 20;

/// A pair of sidecars to be.
pub(super) struct Setup {
    /// The client's, the server's.
    pub(super) sidecars: Vec<Sidecar>,
    /// Who the client is.
    pub(super) client: Identity,
    pub(super) server: Identity,
    /// Where SPIFFE ids are checked: a port of the service behind which the client's sidecar expects
    /// somebody else than it will find there.
    pub(super) impostor: Option<u16>,
}

/// One of them.
pub(super) struct Sidecar {
    pub(super) program: Program,
    /// What of its pod's connections comes to it.
    pub(super) rules: Ruleset,
}

impl Sidecar {
    /// Starts it in `pod` and on `core`, from its first thread on.
    pub(super) fn start(
        &self,
        pod: &Pod,
        core: usize,
        log: &Path,
    ) -> anyhow::Result<(Process, usage::Process)> {
        let rules = self.rules.clone();
        pod.run(move || interception::apply(&rules))
            .context("redirecting connections")?;
        // What a thread starts is where it is itself, and this one is of nobody but the pod.
        pod.run(move || pin_thread(core))
            .context("pinning the pod")?;
        let process = pod.start(pod.name(), self.program.command(), log)?;
        let found = usage::Process::find(process.id())?;
        Ok((process, found))
    }
}

/// What a process that was started has said, for an error.
pub(super) fn last_words(processes: &[Process]) -> String {
    // It may be about to say it.
    std::thread::sleep(Duration::from_millis(100));
    let tail = |process: &Process| format!("{}:\n{}\n", process.name(), process.log_tail(TAIL));
    processes.iter().map(tail).collect()
}
