//! What the kernel says of a container's process: that it runs as its pod says, and nothing else.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use weft_sandbox::process::Process;

/// A process as `/proc` has it, which is the host's: ids there are others than in the sandbox.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// `/proc/ID/status`.
    status: String,
    /// What it was started with, the program's name first.
    pub(crate) command: Vec<String>,
    /// `/proc/ID/mountinfo`.
    mounts: String,
}

impl Kernel {
    /// Looks for a process that this one has started.
    pub(crate) fn of(process: &Process) -> anyhow::Result<Self> {
        let own = fs::read_link("/proc/self")?;
        let own = own.to_string_lossy().into_owned();
        let id = process.id().to_string();
        for entry in fs::read_dir("/proc")?.flatten() {
            let place = entry.path();
            // One that has ended meanwhile, or what is no process.
            let Ok(status) = fs::read_to_string(place.join("status")) else {
                continue;
            };
            let found = Self::new(status, &place);
            if found.word("PPid:") == own && found.last("NSpid:") == id {
                return Ok(found);
            }
        }
        anyhow::bail!("no process {id} in /proc")
    }

    fn new(status: String, place: &std::path::Path) -> Self {
        let command: PathBuf = place.join("cmdline");
        let command = fs::read(command).unwrap_or_default();
        let words = command
            .split(|byte| *byte == 0)
            .map(String::from_utf8_lossy);
        let mut command: Vec<_> = words.map(std::borrow::Cow::into_owned).collect();
        // The last one ends with a zero too.
        command.pop();
        let mounts = fs::read_to_string(place.join("mountinfo")).unwrap_or_default();
        Self {
            status,
            command,
            mounts,
        }
    }

    /// Real, effective, saved and file-system user, where all are the same one.
    pub(crate) fn user(&self) -> anyhow::Result<u32> {
        let line = self.line("Uid:");
        let mut ids = line.split_whitespace();
        let first = ids.next().context("no user")?;
        anyhow::ensure!(ids.all(|id| id == first), "{line}");
        Ok(first.parse()?)
    }

    /// Capabilities that it has, and those that it could come by.
    pub(crate) fn capabilities(&self) -> anyhow::Result<(u64, u64)> {
        let set = |name| u64::from_str_radix(self.word(name), 16);
        Ok((set("CapEff:")?, set("CapBnd:")?))
    }

    /// Whether nothing that it starts may have more than it has itself.
    pub(crate) fn has_no_new_privileges(&self) -> bool {
        self.word("NoNewPrivs:") == "1"
    }

    /// Whether what is at this place of its own is there, and cannot be written to.
    pub(crate) fn sees_read_only(&self, place: &str) -> bool {
        let words = self
            .mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let mut at_place = words.filter(|words| words.get(4) == Some(&place));
        // What is mounted last is on top.
        let last = at_place.next_back();
        last.is_some_and(|words| words.get(5).is_some_and(|flags| flags.starts_with("ro")))
    }

    fn line(&self, name: &str) -> &str {
        let mut lines = self.status.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
    }

    fn word(&self, name: &str) -> &str {
        self.line(name)
            .split_whitespace()
            .next()
            .unwrap_or_default()
    }

    fn last(&self, name: &str) -> &str {
        self.line(name)
            .split_whitespace()
            .last()
            .unwrap_or_default()
    }
}
