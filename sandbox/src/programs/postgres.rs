//! PostgreSQL, with `psql` and `pgbench`, and a small client that keeps a connection.
//!
//! The server refuses to be root, also where root is the only user there is: it gets a user namespace of
//! its own in which the same user has another number, or where there are none, becomes somebody else. It is
//! in a process namespace too, so that whoever kills it kills all of its processes at once.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use super::wire::Wire;
use super::{Server, command, succeed};
use crate::Pod;

/// Its port.
pub const PORT: u16 = 5432;
/// The superuser that it has, who needs no password.
pub const USER: &str = "weft";
/// The database that it has.
pub const DATABASE: &str = "postgres";
/// What it takes to start one and to ask it.
pub const NEEDS: [&str; 6] = [
    "postgres",
    "initdb",
    "pg_isready",
    "psql",
    "pgbench",
    "unshare",
];

/// The same user under another number; everything dies with the first process.
const MAPPED: [&str; 7] = [
    "--user",
    "--map-user=1000",
    "--map-group=1000",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child=KILL",
];
/// Another user; the wish to die is repeated, for it ends with a change of users (prctl(2)).
const NOBODY: [&str; 9] = [
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child=KILL",
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--pdeathsig=KILL",
];
/// The number that [`NOBODY`] has.
const NOBODY_ID: u32 = 65534;
/// What everything that is small takes; `fsync` is off, because a killed process loses nothing by it.
const SETTINGS: [&str; 6] = [
    "unix_socket_directories=",
    "max_connections=60",
    "fsync=off",
    "log_connections=on",
    "shared_buffers=32MB",
    "cluster_name=weft",
];
/// How long [`Connection`] waits for an answer by default.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// Longest message that [`Connection`] takes, in bytes.
const MAX_MESSAGE: usize = 16 << 20;
/// Version 3.0 of the protocol.
const PROTOCOL: u32 = 3 << 16;

/// A server that is to be started.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    settings: Vec<String>,
    files: Vec<(String, String)>,
}

impl Settings {
    /// Without anything of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more setting, as `max_connections=20`; the last one of a name counts.
    pub fn setting(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// One more file in the data directory, such as a certificate.
    pub fn file(mut self, name: &str, content: impl Into<String>) -> Self {
        self.files.push((name.to_owned(), content.into()));
        self
    }

    /// Makes a cluster of databases in the mesh's directory `dir`, starts it in the pod and waits until it
    /// lets clients in.
    ///
    /// # Errors
    /// Where nobody can be found to run it, or it does not become ready: what it said.
    pub async fn start(self, pod: &Pod, dir: &Path) -> anyhow::Result<Postgres> {
        let user = User::find(pod, dir).await?;
        let name = format!("postgres-{}", pod.name());
        let data = dir.join(&name);
        fs::create_dir(&data).with_context(|| format!("making {}", data.display()))?;
        user.own(&data)?;
        let mut initdb = user.command("initdb", dir);
        initdb.arg("-D").arg(&data);
        initdb.args(["-U", USER, "-A", "trust", "--no-sync", "--locale=C"]);
        initdb.args(["-E", "UTF8"]);
        succeed(pod, initdb).await?;
        let trust = (
            "pg_hba.conf".to_owned(),
            "host all all all trust\n".to_owned(),
        );
        for (name, content) in self.files.iter().chain([&trust]) {
            let file = data.join(name);
            fs::write(&file, content)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            user.own(&file)?;
        }
        let listen = match pod.place() {
            None => "*".to_owned(),
            Some(_) => pod.app_address().to_string(),
        };
        let settings = SETTINGS.map(str::to_owned).into_iter();
        let settings: Vec<String> = settings
            .chain([format!("listen_addresses={listen}")])
            .chain(self.settings)
            .collect();
        let home = dir.to_owned();
        let make = move || {
            let mut postgres = user.command("postgres", &home);
            postgres.arg("-D").arg(&data);
            for setting in &settings {
                postgres.args(["-c", setting]);
            }
            postgres
        };
        let server = Server::start(&name, pod, dir, PORT, make).await?;
        let postgres = Postgres {
            server,
            dir: dir.to_owned(),
        };
        postgres.lets_in().await?;
        Ok(postgres)
    }
}

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    dir: PathBuf,
}

impl Postgres {
    /// Starts one without settings of its own: [`Settings::start`].
    pub async fn start(pod: &Pod, dir: &Path) -> anyhow::Result<Self> {
        Settings::new().start(pod, dir).await
    }

    /// Its process, its log.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Ends all of its processes at once, SIGKILL.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.server.kill().await
    }

    /// Starts it again over its data, which it recovers, and waits until it lets clients in.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.server.start_again().await?;
        self.lets_in().await
    }

    /// Runs statements in the server's own pod, past the mesh; what they gave, as `psql` prints it bare.
    pub async fn ask(&self, statements: &str) -> anyhow::Result<String> {
        let pod = self.server.pod();
        psql(pod, &self.dir, self.server.own_address(), statements).await
    }

    /// How many connections its log has from this address, of sessions that were refused too.
    pub fn connections_from(&self, address: std::net::IpAddr) -> u64 {
        let line = format!("connection received: host={address} ");
        self.server.log().matches(&line).count() as u64
    }

    /// It listens a moment before it lets anybody in.
    async fn lets_in(&self) -> anyhow::Result<()> {
        let server = &self.server;
        let pod = server.pod();
        let at = pod.route(server.own_address())?;
        server
            .becomes("lets clients in", async || {
                let mut ask = command("pg_isready", &self.dir);
                ask.args(["-h", &at.ip().to_string(), "-p", &at.port().to_string()]);
                ask.args(["-U", USER, "-d", DATABASE]);
                Ok(pod.output(ask).await?.status.success())
            })
            .await
    }
}

/// Runs statements with `psql` in a pod, with the server at `to` as the pod sees it; what they gave, bare.
/// It stops at the first error.
///
/// # Errors
/// What `psql` says against it.
pub async fn psql(
    pod: &Pod,
    dir: &Path,
    to: SocketAddr,
    statements: &str,
) -> anyhow::Result<String> {
    let mut command = psql_command(pod, dir, to)?;
    command.args(["-c", statements]);
    succeed(pod, command).await
}

/// `psql` that is to connect without TLS of its own, prints bare values and stops at the first error.
pub fn psql_command(pod: &Pod, dir: &Path, to: SocketAddr) -> anyhow::Result<Command> {
    let to = pod.route(to)?;
    let mut command = command("psql", dir);
    command.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet"]);
    command.args(["-v", "ON_ERROR_STOP=1"]);
    command.arg(format!(
        "host={} port={} user={USER} dbname={DATABASE} sslmode=disable connect_timeout=10",
        to.ip(),
        to.port()
    ));
    Ok(command)
}

/// `pgbench` with these arguments, without TLS of its own.
pub fn pgbench_command(
    pod: &Pod,
    dir: &Path,
    to: SocketAddr,
    args: &[&str],
) -> anyhow::Result<Command> {
    let to = pod.route(to)?;
    let mut command = command("pgbench", dir);
    command.args(["-h", &to.ip().to_string(), "-p", &to.port().to_string()]);
    command.args(["-U", USER]).env("PGSSLMODE", "disable");
    command.args(args).arg(DATABASE);
    Ok(command)
}

/// A connection of a client that keeps it, as a pool of connections does. Speaks the simple query protocol
/// (PostgreSQL documentation, "Message Flow"). After an error of the connection it is of no more use.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
}

impl Connection {
    /// Connects out of the pod and agrees on the database.
    ///
    /// # Errors
    /// Where nobody answers in time, or the server refuses.
    pub async fn connect(pod: &Pod, to: SocketAddr, patience: Duration) -> anyhow::Result<Self> {
        let mut wire = Wire::connect(pod, to, patience).await?;
        let mut startup = PROTOCOL.to_be_bytes().to_vec();
        for word in ["user", USER, "database", DATABASE, ""] {
            startup.extend_from_slice(word.as_bytes());
            startup.push(0);
        }
        let length = (startup.len() + 4) as u32;
        wire.send(&[&length.to_be_bytes()[..], &startup].concat())
            .await?;
        let mut this = Self { wire };
        this.until_ready(patience).await?;
        Ok(this)
    }

    /// Runs statements; the rows that they gave, each value as text, empty where it is null.
    ///
    /// # Errors
    /// What the server says against them, or what became of the connection.
    pub async fn ask(&mut self, statements: &str) -> anyhow::Result<Vec<Vec<String>>> {
        self.ask_within(statements, ANSWER_PATIENCE).await
    }

    /// As [`Self::ask`], where the answer may take so long.
    pub async fn ask_within(
        &mut self,
        statements: &str,
        patience: Duration,
    ) -> anyhow::Result<Vec<Vec<String>>> {
        let length = (statements.len() + 5) as u32;
        let mut message = vec![b'Q'];
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(statements.as_bytes());
        message.push(0);
        self.wire.send(&message).await?;
        self.until_ready(patience).await
    }

    async fn until_ready(&mut self, patience: Duration) -> anyhow::Result<Vec<Vec<String>>> {
        let reading = self.read_answer();
        tokio::time::timeout(patience, reading)
            .await
            .with_context(|| format!("PostgreSQL has not answered within {patience:?}"))?
    }

    async fn read_answer(&mut self) -> anyhow::Result<Vec<Vec<String>>> {
        let mut rows = Vec::new();
        let mut refusal = None;
        loop {
            let kind = self.wire.byte().await?;
            let length = self.wire.u32().await?.saturating_sub(4) as usize;
            let body = self.wire.bytes(length, MAX_MESSAGE).await?;
            match kind {
                b'D' => rows.push(row(&body).context("a row that ends too soon")?),
                b'E' => {
                    let said = error_text(&body);
                    // The last that it says on a connection that is being closed, too.
                    if said.starts_with("FATAL") {
                        anyhow::bail!("PostgreSQL: {said}");
                    }
                    refusal = Some(said);
                }
                b'R' => anyhow::ensure!(body == [0; 4], "PostgreSQL asks for a password"),
                b'Z' => match refusal {
                    None => return Ok(rows),
                    Some(said) => anyhow::bail!("PostgreSQL: {said}"),
                },
                _ => {}
            }
        }
    }
}

/// The values of a row: a count, then each with its length, -1 where it is null.
fn row(mut body: &[u8]) -> Option<Vec<String>> {
    let count = u16::from_be_bytes(take(&mut body, 2)?.try_into().ok()?);
    let mut values = Vec::new();
    for _ in 0..count {
        let length = i32::from_be_bytes(take(&mut body, 4)?.try_into().ok()?);
        let value = take(&mut body, usize::try_from(length).unwrap_or(0))?;
        values.push(String::from_utf8_lossy(value).into_owned());
    }
    Some(values)
}

/// Severity and message of an error's fields, each a letter and text that ends with 0.
fn error_text(body: &[u8]) -> String {
    let field = |letter: u8| {
        body.split(|byte| *byte == 0)
            .find_map(|field| field.strip_prefix(&[letter]))
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .unwrap_or_default()
    };
    format!("{}: {}", field(b'S'), field(b'M'))
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

/// Who the server is.
#[derive(Clone, Copy, Debug)]
enum User {
    /// This process's user, who is not root.
    Own,
    /// This process's user, under another number.
    Mapped,
    /// Another one.
    Nobody,
}

impl User {
    /// Whether user namespaces can be had decides.
    async fn find(pod: &Pod, dir: &Path) -> anyhow::Result<Self> {
        if Self::Mapped.works(pod, dir).await?.is_none() {
            return Ok(Self::Mapped);
        }
        if !rustix::process::getuid().is_root() {
            return Ok(Self::Own);
        }
        if let Some(why) = Self::Nobody.works(pod, dir).await? {
            anyhow::bail!(
                "PostgreSQL runs as somebody who is not root, whom this machine does not have: {why}"
            );
        }
        // On the way to its files.
        let temporary = std::env::temp_dir();
        for above in dir.ancestors().take_while(|above| *above != temporary) {
            fs::set_permissions(above, fs::Permissions::from_mode(0o711))?;
        }
        Ok(Self::Nobody)
    }

    fn command(self, program: &str, dir: &Path) -> Command {
        let words: &[&str] = match self {
            Self::Own => return command(program, dir),
            Self::Mapped => &MAPPED,
            Self::Nobody => &NOBODY,
        };
        let mut command = command("unshare", dir);
        command.args(words).arg(program);
        command
    }

    /// Why not.
    async fn works(self, pod: &Pod, dir: &Path) -> anyhow::Result<Option<String>> {
        let output = pod.output(self.command("true", dir)).await?;
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((!output.status.success()).then_some(why))
    }

    fn own(self, path: &Path) -> anyhow::Result<()> {
        if let Self::Nobody = self {
            chown(path, Some(NOBODY_ID), Some(NOBODY_ID))?;
        }
        Ok(())
    }
}
