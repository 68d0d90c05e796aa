//! MariaDB with `mariadb` and `mariadb-slap`. Its server speaks first, on a port of which every sidecar
//! knows that.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use weft_sandbox::Mesh;
use weft_sandbox::process::Process;
use weft_tests::counts::wait_for;

use crate::Suite;
use crate::common::{
    CLIENT, Cx, LINE, LINES, SERVER, assert_relayed, client_and_server, host, serve, start,
    succeed, succeed_in, ten_megabytes,
};
use crate::programs::{Needs, command, find};

const PORT: u16 = 3306;
/// How long a sidecar waits for a client that is silent, where it does not know better.
const SILENCE: Duration = Duration::from_millis(100);

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs::programs(&["mariadbd", "mariadb-install-db", "mariadb", "mariadb-slap"]);
    suite.add("mariadb::mariadb_and_mariadb_slap", needs, mariadb_and_slap);
}

/// No greeting waits for a silent client; transactions, statements that are prepared, 10 MB loaded from
/// the client, many connections, one that is idle, a query that is killed. The server has counted as many
/// connections as both sidecars have relayed.
async fn mariadb_and_slap(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and_server("mariadb", [PORT]), async |mesh| {
        let server = Server::start(mesh).await?;
        let before = server.connections(mesh).await?;
        cx.measured(sql(mesh, "select version()").await?.trim());
        greetings(&cx, mesh).await?;
        transactions(mesh).await?;
        let busy = async {
            load(mesh).await?;
            many(&cx, mesh).await?;
            killed(mesh).await
        };
        tokio::try_join!(idle(&cx, mesh), busy)?;
        // The look itself is one.
        let seen = server.connections(mesh).await? - before - 1;
        assert_relayed(mesh, seen).await
    })
    .await
}

/// On this port nobody waits whether the client speaks.
async fn greetings(cx: &Cx, mesh: &Mesh) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        let mut stream = mesh.pod(CLIENT).connect(mesh.addr(SERVER, PORT)).await?;
        // Three bytes of length, one of sequence, the protocol's version.
        let mut head = [0; 5];
        stream.read_exact(&mut head).await?;
        took.push(begin.elapsed());
        assert_eq!(head[3..], [0, 10]);
    }
    took.sort();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    cx.measured(format!(
        "greeting after {median:.1?} in the median, {most:.1?} at most"
    ));
    assert!(median < SILENCE, "greetings after {took:?}");
    Ok(())
}

async fn transactions(mesh: &Mesh) -> anyhow::Result<()> {
    let said = sql(
        mesh,
        "create table things (id int primary key, name text);
         begin; insert into things values (1, 'undone'); rollback;
         begin; insert into things values (2, 'done'), (3, 'done too'); commit;
         prepare named from 'select name from things where id = ?';
         set @id = 2; execute named using @id; set @id = 1; execute named using @id;
         select count(*), sum(id) from things",
    );
    assert_eq!(said.await?, "done\n2\t5\n");
    Ok(())
}

/// 10 MB out of a file of the client's.
async fn load(mesh: &Mesh) -> anyhow::Result<()> {
    let file = mesh.dir().join("load");
    let lines = ten_megabytes();
    fs::write(&file, &lines)?;
    let statements = format!(
        "create table bulk (line varchar({LINE})); load data local infile '{}' into table bulk;
             select count(*), sum(length(line) + 1) from bulk",
        file.display()
    );
    let there = sql(mesh, &statements);
    assert_eq!(there.await?, format!("{LINES}\t{}\n", LINES * LINE));
    let back = sql(mesh, "select line from bulk order by line").await?;
    assert!(back == lines, "what came back is not what went");
    Ok(())
}

async fn many(cx: &Cx, mesh: &Mesh) -> anyhow::Result<()> {
    let (connections, inserts) = ("20", 2000);
    sql(
        mesh,
        "create table hits (id int auto_increment primary key)",
    )
    .await?;
    let mut slap = client("mariadb-slap", mesh);
    slap.args(["--create-schema=weft", "--query=insert into hits values ()"]);
    slap.arg(format!("--concurrency={connections}"));
    slap.arg(format!("--number-of-queries={inserts}"));
    let begin = Instant::now();
    succeed(mesh, slap).await?;
    cx.measured(format!(
        "mariadb-slap: {inserts} inserts over {connections} connections in {:.1?}",
        begin.elapsed()
    ));
    let seen = sql(mesh, "select count(*) from hits").await?;
    assert_eq!(seen.trim(), inserts.to_string());
    Ok(())
}

async fn idle(cx: &Cx, mesh: &Mesh) -> anyhow::Result<()> {
    let statements = format!(
        "select connection_id();\n\\! sleep {}\nselect connection_id();",
        cx.idle().as_secs()
    );
    let ids = sql(mesh, &statements);
    let ids = ids.await?;
    let ids: Vec<_> = ids.lines().collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
    Ok(())
}

/// What Ctrl-C does in `mariadb`: a second connection has the server kill the first one's query.
async fn killed(mesh: &Mesh) -> anyhow::Result<()> {
    let mut long = client("mariadb", mesh);
    long.args(["weft", "--execute", "select sleep(100), count(*) from hits"]);
    let long = start(mesh, &mesh.pod(CLIENT), "mariadb-long", long)?;
    let running = "select id from information_schema.processlist where info like 'select sleep(%'";
    let id = wait_for("the long query", Duration::from_secs(20), async || {
        let id = sql(mesh, running).await?;
        Ok((!id.is_empty()).then_some(id))
    })
    .await?;
    sql(mesh, &format!("kill query {id}")).await?;
    let status = long.wait(Duration::from_secs(20)).await?;
    status.with_context(|| format!("still running: {}", long.log_tail(5)))?;
    assert!(!sql(mesh, running).await?.contains(id.trim()), "it goes on");
    Ok(())
}

/// Runs statements in the client's pod; what they answer, without heads.
async fn sql(mesh: &Mesh, statements: &str) -> anyhow::Result<String> {
    let file = tempfile::NamedTempFile::new_in(mesh.dir())?;
    fs::write(&file, statements)?;
    let mut command = client("mariadb", mesh);
    command.args(["--skip-column-names", "--batch", "--local-infile=1", "weft"]);
    command.stdin(fs::File::open(file.path())?);
    succeed(mesh, command).await
}

fn client(program: &str, mesh: &Mesh) -> Command {
    let mut command = command(program, mesh.dir());
    command.args([
        "--no-defaults",
        "--protocol=tcp",
        "--user=weft",
        "--password=secret",
    ]);
    command.args(["--host", &host(mesh), "--port", &PORT.to_string()]);
    command
}

/// MariaDB in the server's pod.
struct Server {
    _process: Process,
}

impl Server {
    async fn start(mesh: &Mesh) -> anyhow::Result<Self> {
        let data = mesh.dir().join("mariadb");
        let mut install = command("mariadb-install-db", mesh.dir());
        // It looks for what it needs beside itself.
        if let Some(base) =
            find("mariadbd").and_then(|file| Some(file.parent()?.parent()?.to_owned()))
        {
            install.arg(format!("--basedir={}", base.display()));
        }
        install.arg("--no-defaults");
        install.arg(format!("--datadir={}", data.display()));
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        install.args(["--user=root", "--skip-name-resolve"]);
        succeed_in(&mesh.pod(SERVER), install).await?;
        let first = mesh.dir().join("first.sql");
        fs::write(
            &first,
            "create database weft;\ncreate user weft@'%' identified by 'secret';\n\
             grant all on *.* to weft@'%';\n",
        )?;
        let mut server = command("mariadbd", mesh.dir());
        // Servers may not be root unless it is said that they are meant to be.
        server.args([
            "--no-defaults",
            "--user=root",
            "--bind-address=*",
            "--skip-name-resolve",
        ]);
        server.args([
            format!("--datadir={}", data.display()),
            format!("--port={PORT}"),
            format!("--socket={}", socket(mesh)),
            format!("--pid-file={}", mesh.dir().join("mariadb.pid").display()),
            format!("--init-file={}", first.display()),
            // Greetings that nobody answers are counted as attacks.
            "--max-connect-errors=1000000".to_owned(),
            "--innodb-flush-log-at-trx-commit=0".to_owned(),
            "--innodb-log-file-size=16M".to_owned(),
        ]);
        let process = serve(mesh, "mariadbd", server, PORT).await?;
        Ok(Self { _process: process })
    }

    /// How many connections it has counted, this one too; past the mesh.
    async fn connections(&self, mesh: &Mesh) -> anyhow::Result<u64> {
        let mut look = command("mariadb", mesh.dir());
        look.args([
            "--no-defaults",
            "--user=root",
            "--batch",
            "--skip-column-names",
        ]);
        look.args(["--socket", &socket(mesh)]);
        look.args(["--execute", "show global status like 'Connections'"]);
        let said = succeed_in(&mesh.pod(SERVER), look).await?.out;
        let count = said.split_whitespace().next_back();
        Ok(count.context("no count")?.parse()?)
    }
}

fn socket(mesh: &Mesh) -> String {
    mesh.dir().join("mariadb.sock").display().to_string()
}
