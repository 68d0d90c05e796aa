//! What remains of a run that ends badly: nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use weft_sandbox::{AppSpec, Mesh, Sandbox, Workload};

/// How long the kernel may take to end what a killed process leaves.
const PATIENCE: Duration = Duration::from_secs(10);

/// Holds a mesh until killed. The first line of its output is its directory, the second the
/// network namespace of a pod; the latter is empty where there are none.
pub(crate) fn hold(sandbox: &Sandbox) -> anyhow::Result<ExitCode> {
    let marker = std::env::args().nth(2).context("no marker")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mesh = Mesh::builder("held", super::programs())
            .workload(
                Workload::new(&marker)
                    .unmeshed()
                    .port(8080, AppSpec::http()),
            )
            .start(sandbox)
            .await?;
        let namespace = if sandbox.mode().has_namespaces() {
            mesh.pod(&marker)
                .run(|| fs::read_link("/proc/thread-self/ns/net"))?
        } else {
            PathBuf::new()
        };
        println!("{}\n{}", sandbox.dir().display(), namespace.display());
        std::future::pending().await
    })
}

/// A run from outside.
struct Run {
    outer: Child,
    marker: String,
    dir: String,
    namespace: String,
}

impl Run {
    fn hold(number: u32) -> anyhow::Result<Self> {
        Self::hold_with(number, run)
    }

    fn hold_with(number: u32, run: impl Fn(&[&str]) -> Command) -> anyhow::Result<Self> {
        let marker = format!("held-{}-{number}", fastrand::u64(..));
        let mut outer = run(&["hold", &marker]).stdout(Stdio::piped()).spawn()?;
        let output = outer.stdout.take().context("its output")?;
        let mut lines = BufReader::new(output).lines();
        let mut line = || lines.next().context("one more line")?.context("its output");
        Ok(Self {
            dir: line()?,
            namespace: line()?,
            outer,
            marker,
        })
    }

    fn send(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.outer), signal)?;
        Ok(())
    }

    async fn wait_until_gone(&self) -> anyhow::Result<()> {
        let gone = async {
            loop {
                let left = self.left()?;
                if left.is_empty() {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, gone).await {
            Ok(result) => result,
            Err(_) => anyhow::bail!("left behind: {:?}", self.left()?),
        }
    }

    /// Processes that carry the marker, and threads in the pod's namespace. `/proc` shows those of
    /// the whole machine.
    fn left(&self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        for process in fs::read_dir("/proc")?.flatten() {
            let path = process.path();
            let is_process = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
            if !is_process {
                continue;
            }
            // One that ends meanwhile has no command line; a zombie neither.
            let command = fs::read(path.join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&self.marker) {
                left.push(format!("{}: runs", path.display()));
            }
            for thread in fs::read_dir(path.join("task"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let namespace = fs::read_link(thread.path().join("ns/net"));
                if namespace.is_ok_and(|namespace| namespace == Path::new(&self.namespace)) {
                    left.push(format!("{}: is in the namespace", thread.path().display()));
                }
            }
        }
        Ok(left)
    }
}

/// This program as a new run: nothing tells it that it is inside already.
pub(crate) fn run(args: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEFT_SANDBOX_") {
            command.env_remove(name);
        }
    }
    command
}

pub(crate) async fn killed(_: Sandbox) -> anyhow::Result<()> {
    let mut held = Run::hold(1)?;
    ensure!(held.left()?.len() > 2, "a run that cannot be seen");
    held.send(Signal::KILL)?;
    held.outer.wait()?;
    held.wait_until_gone().await?;
    // Its directory had nobody to remove it; the next run does.
    let next = run(&["mode"]).output()?;
    assert_eq!(next.status.code(), Some(7));
    ensure!(!Path::new(&held.dir).exists(), "{} is there", held.dir);
    Ok(())
}

pub(crate) async fn killed_on_loopback(_: Sandbox) -> anyhow::Result<()> {
    let explicit = |args: &[&str]| {
        let mut command = run(args);
        command.env("WEFT_SANDBOX_MODE", "explicit");
        command
    };
    let mut held = Run::hold_with(3, explicit)?;
    ensure!(held.left()?.len() == 2, "{:?}", held.left()?);
    held.send(Signal::KILL)?;
    held.outer.wait()?;
    held.wait_until_gone().await
}

pub(crate) async fn told(_: Sandbox) -> anyhow::Result<()> {
    let mut held = Run::hold(2)?;
    held.send(Signal::TERM)?;
    // It handles no SIGTERM, so it is killed at once.
    assert_eq!(held.outer.wait()?.code(), Some(128 + 9));
    held.wait_until_gone().await?;
    ensure!(!Path::new(&held.dir).exists(), "{} is there", held.dir);
    Ok(())
}

pub(crate) async fn ladder(_: Sandbox) -> anyhow::Result<()> {
    for (rung, words) in [
        ("user", "in an unprivileged user namespace"),
        ("root", "network namespaces as root"),
        (
            "explicit",
            "explicit listeners on loopback (WEFT_SANDBOX_MODE asks",
        ),
    ] {
        let output = run(&["mode"]).env("WEFT_SANDBOX_MODE", rung).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text.contains(words), "{rung}: {text} {output:?}");
        assert_eq!(output.status.code(), Some(7));
        let dir = text.lines().next().context("its directory")?;
        ensure!(!Path::new(dir).exists(), "{dir} is there");
    }
    let output = run(&["mode"]).env("WEFT_SANDBOX_MODE", "sudo").output()?;
    ensure!(!output.status.success(), "a mode that there is not");
    Ok(())
}
