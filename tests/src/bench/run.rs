//! Rounds.

use std::collections::BTreeMap;

use anyhow::Context as _;
use weft_sandbox::Sandbox;

use super::options::{Options, Peer};
use super::pairs::{Pair, Pairs};
use super::point::{ADDED, POINTS, Point, What};
use super::slice::{self, Value};
use super::wire::Load;
use super::{gate, ready, report, standing, usage};

/// Cores that the pods need.
const CORES: usize = 2;

/// By point, in the order of [`POINTS`], and peer: one value per round.
pub(super) type Values = BTreeMap<(usize, Peer), Vec<Value>>;

/// Measures what `options` ask for and prints it. Whether the gates hold, where any were asked for.
pub fn run(options: &Options, sandbox: &Sandbox) -> anyhow::Result<bool> {
    let points: Vec<(usize, Point)> = POINTS
        .into_iter()
        .enumerate()
        .filter(|(_, point)| {
            let mut wanted = options.scenarios.iter();
            options.scenarios.is_empty() || wanted.any(|part| point.name.contains(&**part))
        })
        .collect();
    anyhow::ensure!(!points.is_empty(), "there is no such scenario");
    let has_base = options.base.is_none_or(|it| options.peers.contains(&it));
    anyhow::ensure!(has_base, "--base is none of --peers");
    let cores = usage::cores();
    anyhow::ensure!(cores >= CORES, "{CORES} cores are needed, here is {cores}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let values = runtime.block_on(async {
        let mut values = Values::new();
        // Sidecars that have borne a crowd keep memory, and so do those that have borne a load: neither
        // is to be seen in the other.
        if points.iter().any(|(_, point)| !point.what.is_load()) {
            let pairs = Pairs::start(sandbox, options).await?;
            once(options, &points, &pairs, &mut values).await?;
        }
        if points.iter().any(|(_, point)| point.what.is_load()) {
            let pairs = Pairs::start(sandbox, options).await?;
            rounds(options, &points, &pairs.all, &mut values).await?;
        }
        anyhow::Ok(values)
    })?;
    print!("{}", report::text(options, &points, &values));
    if let Some(file) = &options.json {
        let json = report::json(options, &points, &values);
        std::fs::write(file, format!("{json:#}\n"))
            .with_context(|| format!("writing {}", file.display()))?;
    }
    if !options.quick {
        return Ok(true);
    }
    let verdict = gate::verdict(&points, &values);
    print!("{}", verdict.text);
    Ok(verdict.holds)
}

/// What is measured without any load.
async fn once(
    options: &Options,
    points: &[(usize, Point)],
    pairs: &Pairs,
    values: &mut Values,
) -> anyhow::Result<()> {
    for (at, point) in points {
        match point.what {
            What::Memory => {
                for pair in pairs.all.iter().filter(|pair| !pair.sidecars.is_empty()) {
                    eprintln!("{} {}", point.name, pair.peer.name());
                    let measured = standing::memory(pair, options.rounds);
                    let measured = measured
                        .await
                        .with_context(|| format!("{}, {}", point.name, pair.peer.name()))?;
                    values.insert((*at, pair.peer), measured);
                }
            }
            What::Ready if options.peers.contains(&Peer::Weft) => {
                for _ in 0..options.rounds {
                    let value =
                        ready::after_start(pairs.mesh(), options.sidecar(Peer::Weft).as_deref())
                            .await
                            .context(point.name)?;
                    values.entry((*at, Peer::Weft)).or_default().push(value);
                }
            }
            What::Binary if options.peers.contains(&Peer::Weft) => {
                if let Some(program) = options.sidecar(Peer::Weft) {
                    values.insert((*at, Peer::Weft), vec![standing::binary(&program)?]);
                }
            }
            What::Services if options.peers.contains(&Peer::Weft) => {
                let value = standing::services(pairs).await.context(point.name)?;
                values.insert((*at, Peer::Weft), vec![value]);
            }
            What::Load(_) | What::Ready | What::Binary | What::Services => {}
        }
    }
    Ok(())
}

async fn rounds(
    options: &Options,
    points: &[(usize, Point)],
    pairs: &[Pair],
    values: &mut Values,
) -> anyhow::Result<()> {
    let loads: Vec<(usize, &str, Load)> = points
        .iter()
        .filter_map(|(at, point)| match point.what {
            What::Load(load) => Some((*at, point.name, load)),
            _ => None,
        })
        .collect();
    let mut random = fastrand::Rng::new();
    let all = usize::from(options.rounds) * loads.len() * pairs.len();
    let mut done = 0;
    for round in 1..=options.rounds {
        for (at, name, load) in &loads {
            let mut order: Vec<&Pair> = pairs.iter().collect();
            random.shuffle(&mut order);
            for pair in order {
                let peer = pair.peer.name();
                let value = undisturbed(options, pair, *load)
                    .await
                    .with_context(|| format!("round {round}, {name}, {peer}"))?;
                done += 1;
                eprintln!(
                    "[{done:>3}/{all}] round {round}  {name:<18} {peer:<14} {}",
                    report::line(POINTS[*at], &value)
                );
                values.entry((*at, pair.peer)).or_default().push(value);
            }
            add(values, *at, &options.peers);
        }
    }
    Ok(())
}

/// Measures until others leave the machine alone, a few times at most; of these the least disturbed.
async fn undisturbed(options: &Options, pair: &Pair, load: Load) -> anyhow::Result<Value> {
    let mut best = slice::measure(pair, load, options.time).await?;
    let mut again = 0;
    while best.disturbed() && again < options.repeats {
        again += 1;
        let next = slice::measure(pair, load, options.time).await?;
        if next.disturbance() < best.disturbance() {
            best = next;
        }
    }
    Ok(Value { again, ..best })
}

/// How much longer latencies were in the last round than without anything between.
fn add(values: &mut Values, at: usize, peers: &[Peer]) {
    let direct = values.get(&(at, Peer::Direct));
    let Some(direct) = direct.and_then(|rounds| rounds.last()).cloned() else {
        return;
    };
    for peer in peers.iter().filter(|peer| **peer != Peer::Direct) {
        let rounds = values.get_mut(&(at, *peer));
        if let Some(value) = rounds.and_then(|rounds| rounds.last_mut()) {
            for (added, latency) in ADDED {
                let longer = value.get(latency) - direct.get(latency);
                value.of.insert(added, longer);
            }
        }
    }
}
