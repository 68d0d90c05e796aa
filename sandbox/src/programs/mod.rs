//! Real servers in pods, with their own programs: PostgreSQL, Redis, RabbitMQ, NATS and Prometheus.
//!
//! [`find`] knows where distributions keep programs that only root is thought to start, [`missing`] says
//! which package brings what is not there, and [`command`] gives a program an environment of its own. A
//! [`Server`] is a program in a pod that can be killed and started again over the same data: its directory
//! is under the mesh's and goes with it. Each kind has a module of its own, with what clients need: the
//! machine's programs (`psql`, `redis-cli`), and small clients in Rust that dial out of a pod, so through
//! its sidecar, and say exactly what happened. No client reconnects in silence: those that do, as client
//! libraries would ([`steady`], [`nats::Subscriber`], [`amqp::Consumer`],
//! [`kafka::Consumer`]), count it: [`Counts`].
//!
//! What is started is ready when `start` returns; what does not become ready is an error with the end of
//! its log. Logs are in the mesh's `logs`, their names begin with [`LOG_PREFIX`].

pub mod amqp;
mod counts;
pub mod kafka;
pub mod nats;
pub mod postgres;
pub mod prometheus;
pub mod rabbitmq;
pub mod redis;
pub mod rules;
mod server;
pub mod steady;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::Pod;

pub use counts::Counts;
pub use server::{LOG_PREFIX, Server, log_tails};

/// Where Debian keeps servers that only root is thought to start.
const MORE_PATHS: [&str; 2] = ["/usr/sbin", "/usr/lib/rabbitmq/bin"];
/// Where it keeps the programs of PostgreSQL's server, by version.
const POSTGRESQL: &str = "/usr/lib/postgresql";
/// How often something is looked at that is waited for.
const POLL: Duration = Duration::from_millis(20);
/// What client libraries wait before they connect again: the default of NATS's and of many others.
pub const RECONNECT_PAUSE: Duration = Duration::from_secs(2);
/// Which package of Debian and Ubuntu brings a program that is not called like it.
const PACKAGES: &[(&[&str], &str)] = &[
    (
        &["postgres", "initdb", "pg_isready", "pgbench"],
        "postgresql",
    ),
    (&["psql"], "postgresql-client"),
    (&["redis-cli", "redis-benchmark"], "redis-tools"),
    (&["prometheus", "promtool"], "prometheus"),
    (&["unshare", "setpriv"], "util-linux"),
    (&["mariadbd"], "mariadb-server"),
    (&["mariadb"], "mariadb-client"),
    (&["nginx"], "nginx-light"),
    (&["h2load", "nghttp", "nghttpd"], "nghttp2-client"),
];

/// A program that this machine does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub program: String,
    /// The package of Debian and Ubuntu that brings it.
    pub package: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, package } = self;
        write!(
            f,
            "there is no {program} here: `apt-get install {package}` brings it"
        )
    }
}

/// A program's file.
pub fn find(program: &str) -> Option<PathBuf> {
    places()
        .into_iter()
        .map(|place| place.join(program))
        .find(|file| file.is_file())
}

/// Those of `programs` that this machine does not have.
pub fn missing(programs: &[&str]) -> Vec<Missing> {
    let absent = programs.iter().filter(|program| find(program).is_none());
    absent
        .map(|program| Missing {
            program: (*program).to_owned(),
            package: package(program).to_owned(),
        })
        .collect()
}

/// A command for a program of the machine, in an environment of its own: only what it needs to find
/// others, and no settings of whoever runs this. It runs in `home`: what it leaves behind, such as dumps,
/// goes with everything else.
pub fn command(program: &str, home: &Path) -> Command {
    let mut command = Command::new(find(program).unwrap_or_else(|| program.into()));
    clean(&mut command, home);
    command
}

/// Gives any command the environment that [`command`] gives.
pub fn clean(command: &mut Command, home: &Path) {
    let path = std::env::join_paths(places()).unwrap_or_default();
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", home)
        .env("TMPDIR", home)
        .env("LC_ALL", "C.UTF-8")
        .current_dir(home)
        .stdin(Stdio::null());
}

/// Runs a command in the pod to its end; what it printed.
///
/// # Errors
/// Where it cannot be started or does not succeed: what it said.
pub async fn succeed(pod: &Pod, command: Command) -> anyhow::Result<String> {
    let what = format!("{command:?}");
    let output = pod.output(command).await.with_context(|| what.clone())?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "{what} ended with {}\n{out}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(out)
}

/// Waits until `look` gives a value. What one look may take is up to it.
pub(crate) async fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(value) = look().await? {
            return Ok(value);
        }
        anyhow::ensure!(Instant::now() < end, "{what}: not within {patience:?}");
        tokio::time::sleep(POLL).await;
    }
}

fn package(program: &str) -> &str {
    let mut packages = PACKAGES.iter();
    let found = packages.find(|(programs, _)| programs.contains(&program));
    found.map_or(program, |(_, package)| package)
}

/// The newest PostgreSQL first: what else has its name on the path may be half of one.
fn places() -> Vec<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir(POSTGRESQL)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    versions.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        std::cmp::Reverse(name.parse::<f64>().map_or(0, |version| version as u64))
    });
    let mut places: Vec<PathBuf> = versions.iter().map(|path| path.join("bin")).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    places.extend(MORE_PATHS.map(PathBuf::from));
    places
}
