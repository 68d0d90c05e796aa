//! Redis with `redis-benchmark` and `redis-cli`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::Context as _;
use weft_sandbox::Mesh;
use weft_sandbox::programs::redis::{NEEDS, PORT, Redis};

use crate::Suite;
use crate::common::{
    CLIENT, Cx, SERVER, assert_relayed, client_and_server, host, start, succeed, succeed_in,
};
use crate::programs::{Needs, command};
use weft_tests::counts::wait_for;

/// What each test of the benchmark sends, as often as it is run.
const REQUESTS: u64 = 10_000;
/// Values that are loaded, and the length of each.
const VALUES: u64 = 1_000;
const VALUE: usize = 10_000;

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs::programs(&NEEDS);
    suite.add("redis::benchmark_and_cli", needs, benchmark_and_cli);
}

/// Requests one by one and in rows of 16, in both cases over 20 connections; transactions; 10 MB at once;
/// a subscriber that is idle before it hears something; a pop that waits. The server has counted the
/// commands, and the connections that both sidecars have relayed.
async fn benchmark_and_cli(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and_server("redis", [PORT]), async |mesh| {
        let _server = Redis::start(&mesh.pod(SERVER), mesh.dir()).await?;
        let before = info(mesh).await?;
        let busy = async {
            for row in ["1", "16"] {
                benchmark(&cx, mesh, row).await?;
            }
            transaction(mesh).await?;
            bulk(mesh).await
        };
        tokio::try_join!(waiting(&cx, mesh), busy)?;
        let after = info(mesh).await?;
        for name in ["set", "get", "lpush", "incr"] {
            let counted = calls(&after, name)? - calls(&before, name).unwrap_or(0);
            let more = match name {
                "set" => VALUES + 2,
                "get" | "lpush" => 1,
                _ => 0,
            };
            assert_eq!(counted, 2 * REQUESTS + more, "calls of {name}");
        }
        let count = |info: &Info| -> anyhow::Result<u64> {
            let count = info.get("total_connections_received");
            Ok(count.context("no count")?.parse()?)
        };
        // The look itself is one.
        assert_relayed(mesh, count(&after)? - count(&before)? - 1).await
    })
    .await
}

async fn benchmark(cx: &Cx, mesh: &Mesh, row: &str) -> anyhow::Result<()> {
    let mut benchmark = client("redis-benchmark", mesh);
    benchmark.args([
        "-n",
        &REQUESTS.to_string(),
        "-c",
        "20",
        "-P",
        row,
        "-d",
        "100",
    ]);
    benchmark.args(["-t", "set,get,lpush,incr", "--csv"]);
    let said = succeed(mesh, benchmark).await?;
    let rates: Vec<_> = said
        .lines()
        .skip(1)
        .map(|line| line.split(',').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(rates.len(), 4, "{said}");
    cx.measured(format!(
        "rows of {row}: requests per second {}",
        rates.join(", ")
    ));
    Ok(())
}

/// Over one connection, which `redis-cli` reads from its input.
async fn transaction(mesh: &Mesh) -> anyhow::Result<()> {
    let file = mesh.dir().join("commands");
    fs::write(&file, "multi\nset here 1\nset there 2\nexec\nget there\n")?;
    let mut cli = client("redis-cli", mesh);
    cli.stdin(fs::File::open(file)?);
    assert_eq!(succeed(mesh, cli).await?, "OK\nQUEUED\nQUEUED\nOK\nOK\n2\n");
    Ok(())
}

/// 10 MB in one stream of commands.
async fn bulk(mesh: &Mesh) -> anyhow::Result<()> {
    let mut commands = String::new();
    for number in 0..VALUES {
        let key = format!("bulk:{number:06}");
        let value = format!("{number:0VALUE$}");
        write!(
            commands,
            "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${VALUE}\r\n{value}\r\n",
            key.len()
        )?;
    }
    let file = mesh.dir().join("bulk");
    fs::write(&file, commands)?;
    let mut cli = client("redis-cli", mesh);
    cli.arg("--pipe").stdin(fs::File::open(file)?);
    let said = succeed(mesh, cli).await?;
    assert!(
        said.contains(&format!("errors: 0, replies: {VALUES}")),
        "{said}"
    );
    let mut cli = client("redis-cli", mesh);
    cli.args(["eval", "local n = 0 for _, k in ipairs(redis.call('keys', 'bulk:*')) do n = n + redis.call('strlen', k) end return n", "0"]);
    let stored = succeed(mesh, cli).await?;
    assert_eq!(stored.trim(), (VALUES * VALUE as u64).to_string());
    Ok(())
}

/// Two clients that wait longer than anything else does: for a message, and for an element.
async fn waiting(cx: &Cx, mesh: &Mesh) -> anyhow::Result<()> {
    let pod = mesh.pod(CLIENT);
    let mut subscribe = client("redis-cli", mesh);
    subscribe.args(["subscribe", "news"]);
    let subscriber = start(mesh, &pod, "redis-subscriber", subscribe)?;
    let mut pop = client("redis-cli", mesh);
    pop.args(["blpop", "queue", "120"]);
    let popper = start(mesh, &pod, "redis-popper", pop)?;
    tokio::time::sleep(cx.idle()).await;
    for (words, wanted) in [
        (["publish", "news", "at last"], "1\n"),
        (["lpush", "queue", "one"], "1\n"),
    ] {
        let mut cli = client("redis-cli", mesh);
        cli.args(words);
        assert_eq!(succeed(mesh, cli).await?, wanted, "{words:?}");
    }
    let patience = std::time::Duration::from_secs(10);
    wait_for("what was waited for", patience, async || {
        let heard = subscriber.log_tail(1) == "at last" && popper.log_tail(1) == "one";
        Ok(heard.then_some(()))
    })
    .await
}

type Info = BTreeMap<String, String>;

/// What the server says of itself, past the mesh.
async fn info(mesh: &Mesh) -> anyhow::Result<Info> {
    let mut cli = command("redis-cli", mesh.dir());
    cli.args(["-p", &PORT.to_string(), "info", "everything"]);
    let said = succeed_in(&mesh.pod(SERVER), cli).await?.out;
    let pairs = said.lines().filter_map(|line| line.trim().split_once(':'));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

fn calls(info: &Info, command: &str) -> anyhow::Result<u64> {
    let stat = info.get(&format!("cmdstat_{command}"));
    let stat = stat.with_context(|| format!("no calls of {command}"))?;
    let calls = stat
        .strip_prefix("calls=")
        .and_then(|rest| rest.split(',').next());
    Ok(calls.context("no count")?.parse()?)
}

fn client(program: &str, mesh: &Mesh) -> Command {
    let mut command = command(program, mesh.dir());
    command.args(["-h", &host(mesh), "-p", &PORT.to_string()]);
    command
}
