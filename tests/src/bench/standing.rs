//! What is not measured by a load: memory, the size of the program.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::options::Peer;
use super::pairs::{Pair, Pairs};
use super::protocol::Protocol;
use super::slice::Value;
use super::usage::{CLIENT_CORE, pin_thread};
use super::wire::{self, Held};

/// How many connections are held at a time.
const CROWD: usize = 1_000;
/// Memory is measured so often, at most: what was opened stays open until the end, as memory that was
/// given back within a process would be used again.
const MAX_CROWDS: u16 = 3;
/// Until what is done behind a new connection is done.
const SETTLE: Duration = Duration::from_millis(1_500);
/// Until a server answers.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many services are known, and what memory is told of then.
const KNOWN: [(usize, &str); 3] = [
    (10, "clientMiB10"),
    (100, "clientMiB100"),
    (1_000, "clientMiB1000"),
];
/// Of a crowd: the client's end of each, the server's, and some.
const DESCRIPTORS: u64 = 4 * CROWD as u64 * MAX_CROWDS as u64 + 1_000;

/// What idle connections cost the sidecars of `pair`, which nothing has loaded yet.
pub(super) async fn memory(pair: &Pair, rounds: u16) -> anyhow::Result<Vec<Value>> {
    raise_descriptors()?;
    let [tcp, http1] = [Protocol::Tcp, Protocol::Http1].map(|protocol| pair.to(protocol));
    let sidecars = pair.sidecars.clone();
    let resident = move || -> std::io::Result<Vec<f64>> {
        sidecars.iter().map(|it| it.resident_mib()).collect()
    };
    pair.client
        .run_future(move || async move {
            pin_thread(CLIENT_CORE)?;
            let mut values = Vec::new();
            let mut crowds = Vec::new();
            let idle = resident()?;
            wire::until_answered(tcp, Protocol::Tcp, PATIENCE).await?;
            wire::until_answered(http1, Protocol::Http1, PATIENCE).await?;
            for _ in 0..rounds.min(MAX_CROWDS) {
                let mut seen = vec![resident()?];
                for (to, protocol) in [(tcp, Protocol::Tcp), (http1, Protocol::Http1)] {
                    crowds.push(Held::open(to, protocol, CROWD).await?);
                    tokio::time::sleep(SETTLE).await;
                    seen.push(resident()?);
                }
                crowds.iter().try_for_each(Held::all_open)?;
                values.push(of(&idle, &seen));
            }
            anyhow::Ok(values)
        })
        .await
}

fn of(idle: &[f64], seen: &[Vec<f64>]) -> Value {
    let mut value = Value::default();
    let [begin, tcp, http1] = seen else {
        return value;
    };
    let keys = [
        [
            "clientIdleMiB",
            "clientMiBPer1000Tcp",
            "clientMiBPer1000Http1",
        ],
        [
            "serverIdleMiB",
            "serverMiBPer1000Tcp",
            "serverMiBPer1000Http1",
        ],
    ];
    for (at, [idle_key, tcp_key, http1_key]) in keys.into_iter().enumerate().take(idle.len()) {
        value.of.insert(idle_key, idle[at]);
        value.of.insert(tcp_key, tcp[at] - begin[at]);
        value.of.insert(http1_key, http1[at] - tcp[at]);
    }
    value
}

/// The sidecar's program: what is left of it without names for debuggers.
pub(super) fn binary(program: &Path) -> anyhow::Result<Value> {
    let named = || program.display().to_string();
    let file = std::fs::read(program).with_context(named)?;
    let bytes = loaded_end(&file).with_context(|| format!("{} is no ELF64", named()))?;
    Ok(Value {
        of: [("MiB", bytes as f64 / f64::from(1 << 20))].into(),
        ..Value::default()
    })
}

/// Where the last segment of an ELF64 file, little-endian as all that Weft is built for, ends that is loaded
/// when it runs: what follows is for debuggers, and `strip` removes it. See elf(5).
fn loaded_end(file: &[u8]) -> Option<u64> {
    const LOADED: u64 = 1;
    let number = |at: u64, length: usize| {
        let at = usize::try_from(at).ok()?;
        let bytes = file.get(at..at.checked_add(length)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |all, byte| all << 8 | u64::from(*byte)),
        )
    };
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (headers, length, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    (0..count)
        .map(|header| headers + header * length)
        .filter(|at| number(*at, 4) == Some(LOADED))
        .map(|at| number(at + 8, 8)?.checked_add(number(at + 32, 8)?))
        .max()?
}

fn raise_descriptors() -> anyhow::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= DESCRIPTORS) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(DESCRIPTORS),
        maximum,
    };
    setrlimit(Resource::Nofile, raised)
        .with_context(|| format!("{DESCRIPTORS} open files must be allowed"))
}

/// What a client's sidecar uses more for each service that it knows, of these many.
pub(super) async fn services(pairs: &Pairs) -> anyhow::Result<Value> {
    let pair = pairs.of(Peer::Weft).context("no pair of Weft's own")?;
    let client = pair.sidecars.first().context("no sidecar")?;
    let mut value = Value::default();
    let mut known = 0;
    for (count, key) in KNOWN {
        pairs.know(known..count).await?;
        known = count;
        tokio::time::sleep(SETTLE).await;
        value.of.insert(key, client.resident_mib()?);
    }
    let [(least, few), .., (most, many)] = KNOWN;
    let more = (value.get(many) - value.get(few)) * 1024.0;
    value
        .of
        .insert("kibPerService", more / (most - least) as f64);
    Ok(value)
}
