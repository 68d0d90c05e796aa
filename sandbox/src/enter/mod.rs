//! The way into the namespaces.
//!
//! [`Sandbox::enter`] re-executes the program inside new user and process namespaces and returns
//! only in the inner process; the outer one waits, hands on SIGTERM and SIGINT, and exits with the
//! inner one's code. The inner process is the first of its process namespace: when it ends, or when
//! the outer one is killed, the kernel kills everything that was started. It stays in the host's
//! network namespace, so it may listen on the host's loopback; pods have namespaces of their own.
//!
//! The ladder, each rung tried for real (namespaces, a bridge, a veth pair and redirect rules are
//! made): unprivileged user namespace → root without one → [`Mode::Explicit`], which says why. There
//! the process stays where it is, and what a mesh starts follows it into its end by itself.
//!
//! As first process of its namespace the inner one inherits orphaned grandchildren. It does not
//! reap them, because a general `wait` would steal the status of its own children; they stay
//! zombies until the end of the run.

pub(crate) mod container;
pub(crate) mod follow;
mod ids;
mod probe;
mod rundir;

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use tokio::signal::unix::{Signal as TokioSignal, SignalKind, signal};
use tokio::time::Instant;

use crate::process;

pub use rundir::RunDir;

/// Forces a rung of the ladder: `user`, `root` or `explicit`.
pub const MODE_ENV: &str = "WEFT_SANDBOX_MODE";
/// Set in the inner process: the mode's word.
const INSIDE_ENV: &str = "WEFT_SANDBOX_INSIDE";
/// Set in the inner process: number of the descriptor that ends with the outer process.
const PARENT_ENV: &str = "WEFT_SANDBOX_PARENT_FD";
/// Set in the inner process: the run's directory.
const DIR_ENV: &str = "WEFT_SANDBOX_DIR";
/// Set in the inner process: why rungs above this one were left.
const WHY_ENV: &str = "WEFT_SANDBOX_WHY";
/// How long the inner process may take to end after a signal, before it is killed.
const SIGNAL_GRACE: Duration = Duration::from_secs(10);

/// How this machine lets the sandbox isolate pods, and why not better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Pods in network namespaces under an unprivileged user namespace.
    UserNamespaces,
    /// Pods in network namespaces, made as root.
    Root {
        /// Why no user namespace could be had.
        why: String,
    },
    /// No network namespaces here: everything is on the host's loopback, in the open.
    Explicit {
        /// What refused them.
        why: String,
    },
}

impl Mode {
    /// Whether pods get network namespaces.
    pub fn has_namespaces(&self) -> bool {
        !matches!(self, Self::Explicit { .. })
    }

    /// Whether connections are intercepted, and whether there is IPv6. Where not, meshes work, but
    /// neither of the two can be shown: the caller says so by name.
    pub fn has_interception(&self) -> bool {
        self.has_namespaces()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserNamespaces => {
                f.write_str("network namespaces in an unprivileged user namespace")
            }
            Self::Root { why } => write!(f, "network namespaces as root ({why})"),
            Self::Explicit { why } => write!(f, "explicit listeners on loopback ({why})"),
        }
    }
}

/// The proof that this process is inside; what meshes are started with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sandbox {
    mode: Mode,
    dir: Arc<RunDir>,
}

impl Sandbox {
    /// Enters the namespaces. Call it first thing in `main`, while the process has one thread: a
    /// process with several cannot change its user namespace.
    ///
    /// Does not return in the outer process, which exits with the inner one's code (128 + signal
    /// where a signal ended it).
    ///
    /// # Errors
    /// When the temporary directory cannot be written or the program cannot be re-executed, or the
    /// rung that [`MODE_ENV`] forces is refused. A refusal of namespaces otherwise is no error, but
    /// [`Mode::Explicit`].
    pub fn enter() -> anyhow::Result<Self> {
        if let Some(meant) = std::env::var_os(follow::BECOME_ENV) {
            return Err(follow::obey(&meant));
        }
        if let Ok(meant) = std::env::var(container::CONTAINER_ENV) {
            return Err(container::obey(&meant));
        }
        if let Ok(process) = std::env::var(ids::MAP_ENV) {
            ids::write_maps(&process)?;
            std::process::exit(0);
        }
        if let Ok(rung) = std::env::var(probe::PROBE_ENV) {
            probe::answer(rung.parse()?);
        }
        if let Ok(rung) = std::env::var(INSIDE_ENV) {
            return Self::arrive(rung.parse()?);
        }
        let forced = std::env::var(MODE_ENV).ok();
        let mut refusals = Vec::new();
        for rung in Rung::ladder(forced.as_deref())? {
            match probe::ask(rung)? {
                Ok(()) => match leave_for(rung, &refusals.join("; "))? {},
                Err(why) if forced.is_some() => {
                    anyhow::bail!("{MODE_ENV} asks for {rung}, which is refused: {why}")
                }
                Err(why) => refusals.push(format!("{rung}: {why}")),
            }
        }
        let why = match forced {
            Some(_) => format!("{MODE_ENV} asks for it"),
            None => refusals.join("; "),
        };
        Ok(Self {
            mode: Mode::Explicit { why },
            dir: Arc::new(RunDir::create().context("creating the run's directory")?),
        })
    }

    /// How pods are isolated.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Whether processes can run as any user, and not only as this one.
    pub fn has_users(&self) -> bool {
        ids::has_all()
    }

    /// Directory of this run; it is removed when the run ends, however it ends, at the latest by
    /// the next run.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn arrive(rung: Rung) -> anyhow::Result<Self> {
        follow_parent_into_death()?;
        let dir = PathBuf::from(std::env::var_os(DIR_ENV).context("no run directory")?);
        let mode = match rung {
            Rung::User => Mode::UserNamespaces,
            Rung::Root => Mode::Root {
                why: std::env::var(WHY_ENV).unwrap_or_default(),
            },
        };
        Ok(Self {
            mode,
            dir: Arc::new(RunDir::borrowed(dir)),
        })
    }
}

/// A way to get namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rung {
    User,
    Root,
}

impl Rung {
    /// The rungs to try, best first.
    fn ladder(forced: Option<&str>) -> anyhow::Result<Vec<Self>> {
        match forced {
            None => Ok(vec![Self::User, Self::Root]),
            Some("explicit") => Ok(Vec::new()),
            Some(word) => Ok(vec![word.parse()?]),
        }
    }

    /// Takes this process into its new user namespace (if any); its children will be in a new
    /// process namespace.
    fn climb(self) -> io::Result<()> {
        if self == Self::User {
            ids::enter_user_namespace()?;
        }
        unshare(UnshareFlags::NEWPID)
    }
}

impl FromStr for Rung {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        match word {
            "user" => Ok(Self::User),
            "root" => Ok(Self::Root),
            _ => anyhow::bail!("{MODE_ENV} is user, root or explicit, not {word:?}"),
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Root => "root",
        })
    }
}

/// Re-executes the program inside, waits for it and exits as it did. The error type's success is
/// uninhabited: whoever comes back brings an error.
fn leave_for(rung: Rung, why: &str) -> anyhow::Result<std::convert::Infallible> {
    let dir = RunDir::create().context("creating the run's directory")?;
    rung.climb()
        .with_context(|| format!("entering the namespaces ({rung})"))?;
    // Only this process holds the write end, so the pipe ends with it. The inner process opens the
    // read end anew by its number.
    let (read_end, _write_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::fcntl_setfd(&read_end, rustix::io::FdFlags::empty())?;
    // Not a thread: this process cannot make any, because they would have to be in the new process
    // namespace. A current-thread runtime handles signals without one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let mut child = own_program()
            .env(INSIDE_ENV, rung.to_string())
            .env(PARENT_ENV, read_end.as_raw_fd().to_string())
            .env(DIR_ENV, dir.path())
            .env(WHY_ENV, why)
            .spawn()
            .context("re-executing the program")?;
        signals.until_ended(&mut child).await
    })?;
    drop(dir);
    std::process::exit(exit_code(status));
}

/// This program with this process's arguments, so that its `main` comes to [`Sandbox::enter`] again.
fn own_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1));
    command
}

/// The signals that the outer process hands on or waits for.
struct Signals {
    terminate: TokioSignal,
    interrupt: TokioSignal,
    child: TokioSignal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
        })
    }

    async fn until_ended(&mut self, child: &mut Child) -> anyhow::Result<ExitStatus> {
        let mut kill_at = None;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let patience = async {
                match kill_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.child.recv() => {}
                () = patience => child.kill()?,
                _ = self.terminate.recv() => ask_to_end(child, &mut kill_at)?,
                _ = self.interrupt.recv() => ask_to_end(child, &mut kill_at)?,
            }
        }
    }
}

/// Sends SIGTERM, or kills where nobody listens: the first process of a namespace ignores every
/// signal that it does not handle.
fn ask_to_end(child: &mut Child, kill_at: &mut Option<Instant>) -> io::Result<()> {
    if kill_at.is_some() || !handles_sigterm(child.id()) {
        return child.kill();
    }
    *kill_at = Some(Instant::now() + SIGNAL_GRACE);
    rustix::process::kill_process(process::pid_of(child), Signal::TERM)?;
    Ok(())
}

fn handles_sigterm(pid: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    caught & (1 << (Signal::TERM.as_raw() - 1)) != 0
}

/// Makes the kernel kill this process when the outer one ends, and ends at once where that has
/// happened already.
fn follow_parent_into_death() -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let number = std::env::var(PARENT_ENV).context("no descriptor of the outer process")?;
    let pipe = rustix::fs::open(
        format!("/proc/self/fd/{number}"),
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    match rustix::io::read(&pipe, &mut [0_u8; 1][..]) {
        Err(rustix::io::Errno::AGAIN) => Ok(()),
        _ => std::process::exit(exit_code(ExitStatus::from_raw(Signal::KILL.as_raw()))),
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    }
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    #[expect(
        deprecated,
        reason = "unsafe for FILES only, which is never asked for here"
    )]
    rustix::thread::unshare(flags)?;
    Ok(())
}
