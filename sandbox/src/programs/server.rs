//! A program in a pod that can be killed and started again.

use std::fmt::{self, Write as _};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;

use super::until;
use crate::Pod;
use crate::process::{Process, Program, log_tail};

/// Names of servers' logs begin with it.
pub const LOG_PREFIX: &str = "real-";
/// What a server may take until it accepts connections. They come with a machine's first start.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// What the kernel may take to end a server that was killed.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// One connection to see whether a server listens.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Lines of a log that a message shows.
const TAIL_LINES: usize = 30;

/// A server of the machine in a pod. Killed when dropped.
pub struct Server {
    name: String,
    pod: Pod,
    port: u16,
    log: PathBuf,
    make: Box<dyn Fn() -> Command + Send + Sync>,
    process: Mutex<Option<Arc<Process>>>,
}

impl Server {
    /// Starts what `make` makes in the pod, with a log in the mesh's directory `dir`, and waits until it
    /// accepts connections on `port`.
    ///
    /// # Errors
    /// Where it cannot be started, ends, or does not listen in time: the end of its log.
    pub async fn start(
        name: &str,
        pod: &Pod,
        dir: &Path,
        port: u16,
        make: impl Fn() -> Command + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let logs = dir.join("logs");
        fs::create_dir_all(&logs)?;
        let this = Self {
            name: name.to_owned(),
            pod: pod.clone(),
            port,
            log: logs.join(format!("{LOG_PREFIX}{name}.log")),
            make: Box::new(make),
            process: Mutex::default(),
        };
        this.start_again().await?;
        Ok(this)
    }

    /// What it is called in messages; its log is named after it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod that it runs in.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The port that it listens on, in its pod.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file with what it says, from before a restart too.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its process.
    ///
    /// # Errors
    /// Where it was killed and not started again.
    pub fn process(&self) -> anyhow::Result<Arc<Process>> {
        let process = self.process.lock().clone();
        process.with_context(|| format!("{} does not run now", self.name))
    }

    /// Ends it at once, SIGKILL, and waits until nothing listens on its port any more. No error where it
    /// does not run.
    ///
    /// # Errors
    /// Where it is still there after 20 s.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let Some(process) = self.process.lock().take() else {
            return Ok(());
        };
        process.kill()?;
        let ended = process.wait(END_PATIENCE).await?;
        ended.with_context(|| format!("{} is killed and has not ended", self.name))?;
        until(
            &format!("nobody listens for {}", self.name),
            END_PATIENCE,
            async || Ok((!self.listens().await).then_some(())),
        )
        .await
    }

    /// Starts it over the data that it left, and waits until it accepts connections; a running one is
    /// killed first.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.kill().await?;
        let process = self
            .pod
            .start(&self.name, following(&self.pod, (self.make)()), &self.log)
            .with_context(|| format!("starting {}", self.name))?;
        *self.process.lock() = Some(Arc::new(process));
        self.becomes("accepts connections", async || Ok(self.listens().await))
            .await
    }

    /// Waits until `look` says so.
    ///
    /// # Errors
    /// Where it ends before, or time is up: the end of its log.
    pub async fn becomes(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let process = self.process()?;
        let what = format!("{} {what}", self.name);
        let waited = until(&what, START_PATIENCE, async || {
            if let Some(status) = process.ended()? {
                anyhow::bail!("{} ended with {status}", self.name);
            }
            Ok(look().await?.then_some(()))
        });
        waited.await.with_context(|| process.log_tail(TAIL_LINES))
    }

    /// Its address for who runs in the same pod.
    pub(super) fn own_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    async fn listens(&self) -> bool {
        let connecting = self.pod.connect(self.own_address());
        let connected = tokio::time::timeout(CONNECT_PATIENCE, connecting).await;
        matches!(connected, Ok(Ok(_)))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.name)
            .field("pod", &self.pod.name())
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Where no process namespace sees to it, what is started ends with this process nevertheless.
fn following(pod: &Pod, meant: Command) -> Command {
    if pod.place().is_none() {
        return meant;
    }
    let program = Program::new(meant.get_program()).args(meant.get_args());
    let mut command = pod.command(&program);
    for (name, value) in meant.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    if let Some(home) = meant.get_current_dir() {
        command.current_dir(home);
    }
    command.stdin(Stdio::null());
    command
}

/// The ends of the logs of all servers of a mesh whose directory is `dir`.
pub fn log_tails(dir: &Path) -> String {
    let files = fs::read_dir(dir.join("logs"));
    let mut text = String::new();
    for file in files.into_iter().flatten().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if name.starts_with(LOG_PREFIX) {
            let tail = log_tail(&file.path(), TAIL_LINES);
            let _ = writeln!(text, "--- {name}\n{tail}");
        }
    }
    text
}
