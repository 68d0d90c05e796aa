//! Rounds.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use weft_sandbox::Sandbox;

use super::options::{Options, Peer};
use super::pairs::{Pair, Pairs};
use super::protocol::Protocol;
use super::report;
use super::usage::{CLIENT_CORE, pin_thread, processor_time};
use super::wire::{self, Shape};

/// Loaded before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// Cores that the pods need.
const CORES: usize = 2;

/// A kind of load and its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
}

const POINTS: [Point; 6] = [
    http1("http1-1k-c1", 1, 1 << 10, None),
    http1("http1-1k-c8", 8, 1 << 10, None),
    http1("http1-1k-c64", 64, 1 << 10, None),
    http1("http1-64k-c8", 8, 64 << 10, None),
    http1("http1-1k-1000rps", 8, 1 << 10, Some(1_000)),
    http1("http1-64k-500rps", 8, 64 << 10, Some(500)),
];

const fn http1(name: &'static str, connections: usize, size: usize, rate: Option<u32>) -> Point {
    Point {
        name,
        shape: Shape {
            connections,
            size,
            rate,
        },
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) per_second: f64,
    /// Of both sidecars.
    pub(super) cpu_micros: f64,
    /// Of a latency, in microseconds.
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    /// Of the sidecars after it, in MiB: the client's and the server's.
    pub(super) resident: [f64; 2],
}

/// By point, in the order of [`POINTS`], and peer: one value per round.
pub(super) type Values = BTreeMap<(usize, Peer), Vec<Value>>;

/// Measures what `options` ask for and prints it.
pub fn run(options: &Options, sandbox: &Sandbox) -> anyhow::Result<()> {
    let points: Vec<(usize, Point)> = POINTS
        .into_iter()
        .enumerate()
        .filter(|(_, point)| {
            let mut wanted = options.scenarios.iter();
            options.scenarios.is_empty() || wanted.any(|part| point.name.contains(&**part))
        })
        .collect();
    anyhow::ensure!(!points.is_empty(), "there is no such scenario");
    let cores = std::thread::available_parallelism()?.get();
    anyhow::ensure!(cores >= CORES, "{CORES} cores are needed, here is {cores}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let values = runtime.block_on(async {
        let pairs = Pairs::start(sandbox, options).await?;
        rounds(options, &points, &pairs.all).await
    })?;
    print!("{}", report::text(options, &points, &values));
    if let Some(file) = &options.json {
        let json = report::json(options, &points, &values);
        std::fs::write(file, format!("{json:#}\n"))
            .with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

async fn rounds(
    options: &Options,
    points: &[(usize, Point)],
    pairs: &[Pair],
) -> anyhow::Result<Values> {
    let mut values = Values::new();
    let mut random = fastrand::Rng::new();
    let all = usize::from(options.rounds) * points.len() * pairs.len();
    let mut done = 0;
    for round in 1..=options.rounds {
        for (at, point) in points {
            let mut order: Vec<&Pair> = pairs.iter().collect();
            random.shuffle(&mut order);
            for pair in order {
                let (name, peer) = (point.name, pair.peer.name());
                let value = measure(pair, point.shape, options.time)
                    .await
                    .with_context(|| format!("round {round}, {name}, {peer}"))?;
                done += 1;
                eprintln!(
                    "[{done:>3}/{all}] round {round}  {name:<18} {peer:<14} {:>9.0}/s {:>7.1} us CPU",
                    value.per_second, value.cpu_micros
                );
                values.entry((*at, pair.peer)).or_default().push(value);
            }
        }
    }
    Ok(values)
}

async fn measure(pair: &Pair, shape: Shape, time: Duration) -> anyhow::Result<Value> {
    let (to, sidecars) = (pair.to(Protocol::Http1), pair.sidecars.clone());
    let (measured, used) = pair
        .client
        .run_future(move || async move {
            pin_thread(CLIENT_CORE)?;
            let marks = Rc::new(RefCell::new(Vec::new()));
            let mark = || marks.borrow_mut().push(processor_time(&sidecars));
            let measured = wire::load(to, shape, WARM_UP, time, mark).await?;
            let mut marks = marks
                .borrow_mut()
                .drain(..)
                .collect::<Result<Vec<_>, _>>()?;
            let (end, begin) = (marks.pop(), marks.pop());
            let used = end
                .context("no mark")?
                .saturating_sub(begin.context("no mark")?);
            anyhow::Ok((measured, used))
        })
        .await?;
    let mut memory = [0.0; 2];
    for (mib, sidecar) in memory.iter_mut().zip(&pair.sidecars) {
        *mib = sidecar.resident()? as f64 / f64::from(1 << 20);
    }
    let latency = |quantile| measured.latency.value_at_quantile(quantile) as f64;
    Ok(Value {
        per_second: measured.requests as f64 / measured.seconds,
        cpu_micros: used.as_secs_f64() * 1e6 / measured.requests as f64,
        p50: latency(0.5),
        p90: latency(0.9),
        p99: latency(0.99),
        p999: latency(0.999),
        resident: memory,
    })
}
