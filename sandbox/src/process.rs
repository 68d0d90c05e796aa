//! Child processes with their logs. A process that is dropped is killed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};

/// How often a process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);
/// How much of a log is read for its tail, in bytes.
const TAIL_BYTES: u64 = 64 * 1024;

/// A program and the arguments that it always gets, such as `weft internal proxy`.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// A program without arguments.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
        }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Several more arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The file and its arguments.
    pub(crate) fn words(&self) -> impl Iterator<Item = &OsStr> {
        let args = self.args.iter().map(OsString::as_os_str);
        std::iter::once(self.path.as_os_str()).chain(args)
    }

    /// A command to add to. Its environment is empty but for `PATH`, `TMPDIR` and `RUST_BACKTRACE`.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args).env_clear().stdin(Stdio::null());
        for name in ["PATH", "TMPDIR", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }
}

/// A child process whose output goes to a log file. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Sends the command's output to the end of `log`. What starts the command must run where the
    /// process belongs, that is on its pod's thread: see [`crate::Pod::start`].
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> io::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        command.stderr(output.try_clone()?).stdout(output);
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child: Mutex::new(command.spawn()?),
        })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, as this process sees it.
    pub fn id(&self) -> u32 {
        self.child.lock().id()
    }

    /// The file with its output.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&self) -> io::Result<Option<ExitStatus>> {
        self.child.lock().try_wait()
    }

    /// Asks it to end: SIGTERM. No error where it has ended already.
    pub fn terminate(&self) -> io::Result<()> {
        self.send(Signal::TERM)
    }

    /// Ends it at once: SIGKILL. No error where it has ended already.
    pub fn kill(&self) -> io::Result<()> {
        self.send(Signal::KILL)
    }

    /// Stops it from running until [`Self::resume`]: SIGSTOP.
    pub fn pause(&self) -> io::Result<()> {
        self.send(Signal::STOP)
    }

    /// Undoes [`Self::pause`].
    pub fn resume(&self) -> io::Result<()> {
        self.send(Signal::CONT)
    }

    /// Waits until it has ended; `None` where it still runs after `patience`.
    pub async fn wait(&self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The last lines of its log, at most `lines`.
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log, lines)
    }

    fn send(&self, signal: Signal) -> io::Result<()> {
        let mut child = self.child.lock();
        // A child that was waited for has given its id back.
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        rustix::process::kill_process(pid_of(&child), signal)?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        // Both fail only where it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The last lines of a file, at most `lines`; empty where it cannot be read.
pub fn log_tail(path: &Path, lines: usize) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};

    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A child's id in rustix's words.
pub(crate) fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Writes a file at once: whoever reads it sees the old or the new content, whole.
pub(crate) fn write_atomically(path: &Path, content: impl AsRef<[u8]>) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or(OsStr::new("file")));
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(content.as_ref())?;
    fs::rename(new, path)
}
