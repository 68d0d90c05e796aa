//! PostgreSQL with `psql` and `pgbench`. Its clients speak first, and what they say is no HTTP.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use weft_sandbox::process::Process;
use weft_sandbox::{Mesh, Pod};
use weft_tests::counts::wait_for;

use crate::Suite;
use crate::common::{
    CLIENT, Cx, LINE, LINES, SERVER, assert_relayed, client_and_server, host, run, serve, start,
    succeed, succeed_in, ten_megabytes,
};
use crate::programs::{Needs, command};

const PORT: u16 = 5432;
/// The server refuses to be root, also where root is the only user there is.
const AS_SOMEBODY: [&str; 4] = ["--user", "--map-user=1000", "--map-group=1000", "--ipc"];
/// Somebody else, where users are real ones.
const NOBODY: u32 = 65534;

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs::programs(&[
        "postgres",
        "initdb",
        "pg_isready",
        "psql",
        "pgbench",
        "unshare",
        "setpriv",
    ]);
    suite.add("postgres::psql_and_pgbench", needs, psql_and_pgbench);
}

/// Transactions, statements that are prepared, 10 MB in and out, many connections, one that is idle, a
/// query that is cancelled over a connection of its own, and PostgreSQL's own TLS. The server's log has as
/// many connections as both sidecars have relayed.
async fn psql_and_pgbench(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and_server("postgres", [PORT]), async |mesh| {
        let server = Server::start(mesh).await?;
        let version = psql(mesh, "select version()").await?;
        cx.measured(version.trim());
        transactions(mesh).await?;
        let busy = async {
            copies(mesh).await?;
            many(&cx, mesh).await?;
            cancelled(mesh).await
        };
        tokio::try_join!(idle(&cx, mesh), busy)?;
        let own_tls = psql_with(
            mesh,
            "require",
            "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()",
        );
        assert_eq!(own_tls.await?, "t|TLSv1.3\n");
        assert_relayed(mesh, server.connections()?).await
    })
    .await
}

async fn transactions(mesh: &Mesh) -> anyhow::Result<()> {
    let said = psql(
        mesh,
        "create table things (id int primary key, name text);
         begin; insert into things values (1, 'undone'); rollback;
         begin; insert into things values (2, 'done'), (3, 'done too'); commit;
         prepare named (int) as select name from things where id = $1;
         execute named (2); execute named (1);
         select count(*), sum(id) from things",
    );
    let said = said.await?;
    let lines: Vec<_> = said.lines().filter(|line| !is_tag(line)).collect();
    assert_eq!(lines, ["done", "2|5"], "{said}");
    Ok(())
}

/// 10 MB into a table and out of it.
async fn copies(mesh: &Mesh) -> anyhow::Result<()> {
    let (from, to) = (mesh.dir().join("copy-in"), mesh.dir().join("copy-out"));
    let lines = ten_megabytes();
    fs::write(&from, &lines)?;
    psql(mesh, "create table lines (line text)").await?;
    psql(mesh, &format!("\\copy lines from '{}'", from.display())).await?;
    let there = psql(mesh, "select count(*), sum(length(line) + 1) from lines").await?;
    assert_eq!(there, format!("{LINES}|{}\n", LINES * LINE));
    let out = format!(
        "\\copy (select line from lines order by line) to '{}'",
        to.display()
    );
    psql(mesh, &out).await?;
    assert!(
        fs::read_to_string(to)? == lines,
        "what came back is not what went"
    );
    Ok(())
}

/// 20 connections at once with prepared statements, and 100 connections of one transaction each. Without
/// the vacuum before them (`-n`), which would empty the table that is counted.
async fn many(cx: &Cx, mesh: &Mesh) -> anyhow::Result<()> {
    succeed(mesh, pgbench(mesh, &["--initialize", "--quiet"])).await?;
    let mut all = 0;
    for args in [
        &["-n", "-c", "20", "-j", "2", "-T", "3", "-M", "prepared"][..],
        &["-n", "-c", "4", "-t", "25", "--connect"],
    ] {
        let said = succeed(mesh, pgbench(mesh, args)).await?;
        let done = number_after(&said, "number of transactions actually processed: ")?;
        let failed = number_after(&said, "number of failed transactions: ")?;
        assert_eq!(failed, 0, "{said}");
        assert!(done >= 100, "{said}");
        cx.measured(format!("pgbench {args:?}: {done} transactions, 0 failed"));
        all += done;
    }
    let seen = psql(mesh, "select count(*) from pgbench_history").await?;
    assert_eq!(
        seen.trim(),
        all.to_string(),
        "transactions that the server has"
    );
    Ok(())
}

/// The same session before and after a time in which nothing was said.
async fn idle(cx: &Cx, mesh: &Mesh) -> anyhow::Result<()> {
    let statements = format!(
        "select pg_backend_pid();\n\\! sleep {}\nselect pg_backend_pid()",
        cx.idle().as_secs()
    );
    let pids = psql(mesh, &statements);
    let pids = pids.await?;
    let pids: Vec<_> = pids.lines().collect();
    assert!(pids.len() == 2 && pids[0] == pids[1], "{pids:?}");
    Ok(())
}

/// What Ctrl-C does in `psql`: a second connection asks the server to cancel what the first one does.
async fn cancelled(mesh: &Mesh) -> anyhow::Result<()> {
    let mut long = psql_command(mesh, "disable");
    long.args(["-c", "select pg_sleep(100), 'never seen'"]);
    let long = start(mesh, &mesh.pod(CLIENT), "psql-long", long)?;
    wait_for("the long query", Duration::from_secs(20), async || {
        let running = "select count(*) from pg_stat_activity
                       where wait_event = 'PgSleep' and state = 'active'";
        Ok((psql(mesh, running).await?.trim() == "1").then_some(()))
    })
    .await?;
    let id = i32::try_from(long.id()).ok().and_then(Pid::from_raw);
    rustix::process::kill_process(id.context("no process")?, Signal::INT)?;
    let status = long.wait(Duration::from_secs(20)).await?;
    let said = long.log_tail(5);
    assert_eq!(status.context("still running")?.code(), Some(1), "{said}");
    assert!(
        said.contains("canceling statement due to user request"),
        "{said}"
    );
    Ok(())
}

/// Runs statements or commands of `psql`, which stops at the first error; what it printed.
async fn psql(mesh: &Mesh, statements: &str) -> anyhow::Result<String> {
    psql_with(mesh, "disable", statements).await
}

async fn psql_with(mesh: &Mesh, tls: &str, statements: &str) -> anyhow::Result<String> {
    // A file: backslash commands stand between statements only there.
    let file = tempfile::NamedTempFile::new_in(mesh.dir())?;
    fs::write(&file, statements)?;
    let mut command = psql_command(mesh, tls);
    command.arg("-f").arg(file.path());
    let said = run(mesh, command).await?;
    anyhow::ensure!(said.code == Some(0), "{statements}: {said:?}");
    Ok(said.out)
}

fn psql_command(mesh: &Mesh, tls: &str) -> Command {
    let mut command = command("psql", mesh.dir());
    command.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet"]);
    command.args(["-v", "ON_ERROR_STOP=1"]);
    let at = format!(
        "host={} port={PORT} user=weft dbname=postgres sslmode={tls}",
        host(mesh)
    );
    command.arg(at);
    command
}

fn pgbench(mesh: &Mesh, args: &[&str]) -> Command {
    let mut command = command("pgbench", mesh.dir());
    command.args(["-h", &host(mesh), "-U", "weft"]);
    command
        .env("PGSSLMODE", "disable")
        .args(args)
        .arg("postgres");
    command
}

fn is_tag(line: &str) -> bool {
    line.is_empty() || line.chars().all(|c| c.is_ascii_uppercase() || c == ' ')
}

fn number_after(text: &str, before: &str) -> anyhow::Result<u64> {
    let (_, after) = text.split_once(before).with_context(|| text.to_owned())?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

/// PostgreSQL in the server's pod.
struct Server {
    process: Process,
    /// As its log has them: how often the pod's own address has connected.
    connections: String,
}

impl Server {
    async fn start(mesh: &Mesh) -> anyhow::Result<Self> {
        let pod = mesh.pod(SERVER);
        let user = User::find(&pod, mesh.dir()).await?;
        let data = mesh.dir().join("postgres");
        fs::create_dir(&data)?;
        user.own(&data)?;
        let mut initdb = user.command("initdb", mesh.dir());
        initdb.arg("-D").arg(&data);
        initdb.args([
            "-U",
            "weft",
            "-A",
            "trust",
            "--no-sync",
            "--locale=C",
            "-E",
            "UTF8",
        ]);
        succeed_in(&pod, initdb).await?;
        let certificate = rcgen::generate_simple_self_signed(["db".to_owned()])?;
        let own_files = [
            ("server.crt", certificate.cert.pem()),
            ("server.key", certificate.signing_key.serialize_pem()),
            ("pg_hba.conf", "host all all all trust\n".to_owned()),
        ];
        for (name, content) in own_files {
            let file = data.join(name);
            fs::write(&file, content)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            user.own(&file)?;
        }
        let mut postgres = user.command("postgres", mesh.dir());
        postgres.arg("-D").arg(&data);
        for setting in [
            "listen_addresses=*",
            "unix_socket_directories=",
            "max_connections=60",
            "fsync=off",
            "ssl=on",
            "log_connections=on",
            "shared_buffers=32MB",
        ] {
            postgres.args(["-c", setting]);
        }
        let process = serve(mesh, "postgres", postgres, PORT).await?;
        // It listens a moment before it lets anybody in.
        wait_for("postgres", Duration::from_secs(30), async || {
            let mut ask = command("pg_isready", mesh.dir());
            ask.args(["-h", "127.0.0.1", "-U", "weft", "-d", "postgres"]);
            Ok(pod.output(ask).await?.status.success().then_some(()))
        })
        .await?;
        Ok(Self {
            process,
            connections: format!("connection received: host={} ", pod.v4()),
        })
    }

    /// How many connections its log has of the sidecar.
    fn connections(&self) -> anyhow::Result<u64> {
        let log = fs::read_to_string(self.process.log_file())?;
        Ok(log.matches(&self.connections).count() as u64)
    }
}

/// Who the server is.
#[derive(Clone, Copy)]
enum User {
    /// This process's user, under another number.
    Mapped,
    /// Another one.
    Nobody,
}

impl User {
    /// Whether user namespaces can be had decides.
    async fn find(pod: &Pod, dir: &Path) -> anyhow::Result<Self> {
        let mut trial = command("unshare", dir);
        trial.args(AS_SOMEBODY).arg("true");
        if pod.output(trial).await?.status.success() {
            return Ok(Self::Mapped);
        }
        let mut trial = command("unshare", dir);
        trial.args(as_nobody()).arg("true");
        let output = pod.output(trial).await?;
        anyhow::ensure!(
            output.status.success(),
            "the server runs as somebody who is not root, whom this machine does not have: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        // On the way to its files.
        for above in dir
            .ancestors()
            .take_while(|above| *above != std::env::temp_dir())
        {
            fs::set_permissions(above, fs::Permissions::from_mode(0o711))?;
        }
        Ok(Self::Nobody)
    }

    fn command(self, program: &str, dir: &Path) -> Command {
        let mut command = match self {
            Self::Mapped => {
                let mut command = command("unshare", dir);
                command.args(AS_SOMEBODY);
                command
            }
            Self::Nobody => {
                let mut command = command("unshare", dir);
                command.args(as_nobody());
                command
            }
        };
        command.arg(program);
        command
    }

    fn own(self, path: &Path) -> anyhow::Result<()> {
        if let Self::Nobody = self {
            chown(path, Some(NOBODY), Some(NOBODY))?;
        }
        Ok(())
    }
}

/// Becomes it in an IPC namespace of its own: a server that is killed leaves shared memory behind.
fn as_nobody() -> [String; 5] {
    [
        "--ipc".to_owned(),
        "setpriv".to_owned(),
        format!("--reuid={NOBODY}"),
        format!("--regid={NOBODY}"),
        "--clear-groups".to_owned(),
    ]
}
