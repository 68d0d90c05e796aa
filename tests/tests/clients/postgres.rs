//! PostgreSQL with `psql` and `pgbench`. Its clients speak first, and what they say is no HTTP.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use weft_sandbox::Mesh;
use weft_sandbox::programs::postgres::{NEEDS, PORT, Postgres, Settings};
use weft_tests::counts::wait_for;

use crate::Suite;
use crate::common::{
    CLIENT, Cx, LINE, LINES, SERVER, assert_relayed, client_and_server, host, run, start, succeed,
    ten_megabytes,
};
use crate::programs::{Needs, command};

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs::programs(&NEEDS);
    suite.add("postgres::psql_and_pgbench", needs, psql_and_pgbench);
}

/// Transactions, statements that are prepared, 10 MB in and out, many connections, one that is idle, a
/// query that is cancelled over a connection of its own, and PostgreSQL's own TLS. The server's log has as
/// many connections as both sidecars have relayed.
async fn psql_and_pgbench(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and_server("postgres", [PORT]), async |mesh| {
        let server = serve(mesh).await?;
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
        let relayed = server.connections_from(mesh.pod(SERVER).v4().into());
        assert_relayed(mesh, relayed).await
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

/// PostgreSQL in the server's pod, with a certificate of its own.
async fn serve(mesh: &Mesh) -> anyhow::Result<Postgres> {
    let certificate = rcgen::generate_simple_self_signed(["db".to_owned()])?;
    Settings::new()
        .setting("ssl=on")
        .file("server.crt", certificate.cert.pem())
        .file("server.key", certificate.signing_key.serialize_pem())
        .start(&mesh.pod(SERVER), mesh.dir())
        .await
}
