//! Which weights are wanted, whether they may be, and which users move.
//!
//! Backends lie on a line in their order, each as long as its share, and a user is a fixed point on it. So
//! raising the last one moves users to it and none away; other changes may move users back, or from a
//! backend to another of which neither was meant. That is counted here, exactly, and said.

use serde::Serialize;

use super::model::Canary;

/// The largest weight of a backend.
pub(super) const MAX_WEIGHT: u32 = 1_000_000;
/// Of the total where everything had been sent nowhere else yet.
const DEFAULT_TOTAL: u32 = 100;
/// A share of users that is worth a word, in percent: what rounding makes is none.
const WORTH: f64 = 0.005;

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Weights of some backends.
    Set(Vec<(String, u32)>),
    /// Everything to one; to the last one if none is named.
    Promote(Option<String>),
    /// Everything to the first one.
    Abort,
}

/// What is to be written, and what comes of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) before: Vec<u32>,
    /// In the same order.
    pub(super) after: Vec<u32>,
    pub(super) moves: Vec<Move>,
    pub(super) warnings: Vec<String>,
}

/// Users that go from one side to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Move {
    pub(super) from: String,
    pub(super) to: String,
    /// Of all users, in percent.
    pub(super) percent: f64,
}

impl Plan {
    /// What comes of what is wanted, or why it may not be. `force` sends traffic also to where nothing takes
    /// it.
    pub(super) fn of(canary: &Canary, wanted: &Wanted, force: bool) -> Result<Self, String> {
        if !canary.routes.is_empty() {
            return Err(format!(
                "{} {} the weights of {}: a route that is attached to a service decides in place of \
                 split.backends; change them there",
                canary.routes.join(", "),
                if canary.routes.len() == 1 {
                    "holds"
                } else {
                    "hold"
                },
                canary.service,
            ));
        }
        let before = canary.weights();
        let after = weights(canary, wanted)?;
        if after.iter().all(|weight| *weight == 0) {
            return Err(
                "no backend would have a weight, and every request would fail: give one a weight above 0"
                    .to_owned(),
            );
        }
        if let Some(mirror) = &canary.mirror {
            let mut sides = canary.backends.iter().zip(&after);
            if sides.any(|(side, weight)| side.name == *mirror && *weight > 0) {
                return Err(format!(
                    "{mirror} gets copies and may not get requests too: take split.mirror out first"
                ));
            }
        }
        let mut warnings = Vec::new();
        for ((side, was), is) in canary.backends.iter().zip(&before).zip(&after) {
            let nobody = side.ready().is_some_and(|(ready, _)| ready == 0);
            if !nobody || is <= was {
                continue;
            }
            let what = format!("{} has no endpoint that takes traffic", side.name);
            if canary.when_empty == "NextBackend" {
                warnings.push(format!(
                    "{what}: the next backend gets it until there is one"
                ));
            } else if force {
                warnings.push(format!("{what}: its requests fail until there is one"));
            } else {
                return Err(format!(
                    "{what}: its requests would fail; wait until there is one, or say --force"
                ));
            }
        }
        let names: Vec<&str> = canary.backends.iter().map(|side| &*side.name).collect();
        let mut moves = Vec::new();
        if canary.sticky.is_some() {
            let all = movements(&before, &after);
            let is_set = matches!(wanted, Wanted::Set(_));
            warnings.extend(
                is_set
                    .then(|| warn(&all, &before, &after, &names))
                    .into_iter()
                    .flatten(),
            );
            moves.extend(all.into_iter().map(|(from, to, percent)| Move {
                from: names[from].to_owned(),
                to: names[to].to_owned(),
                percent,
            }));
        }
        Ok(Self {
            before,
            after,
            moves,
            warnings,
        })
    }

    /// Whether there is anything to write.
    pub(super) fn changes(&self) -> bool {
        self.before != self.after
    }
}

fn weights(canary: &Canary, wanted: &Wanted) -> Result<Vec<u32>, String> {
    let position = |name: &str| {
        let at = canary.backends.iter().position(|side| side.name == name);
        at.ok_or_else(|| {
            let known: Vec<&str> = canary.backends.iter().map(|side| &*side.name).collect();
            format!(
                "{name} is no backend of the policy {}, which has {}",
                canary.policy,
                known.join(", ")
            )
        })
    };
    let mut weights = canary.weights();
    let whole = match wanted {
        Wanted::Set(some) => {
            let mut named = Vec::new();
            for (name, weight) in some {
                let at = position(name)?;
                if named.contains(&at) {
                    return Err(format!("{name} is there twice"));
                }
                named.push(at);
                weights[at] = *weight;
            }
            return Ok(weights);
        }
        Wanted::Promote(Some(name)) => position(name)?,
        Wanted::Promote(None) => weights.len().saturating_sub(1),
        Wanted::Abort => 0,
    };
    // The total stays what it was, so that weights mean the same as before: percent, as a rule.
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    let total = u32::try_from(total).unwrap_or(MAX_WEIGHT).min(MAX_WEIGHT);
    let total = if total == 0 { DEFAULT_TOTAL } else { total };
    for (at, weight) in weights.iter_mut().enumerate() {
        *weight = if at == whole { total } else { 0 };
    }
    Ok(weights)
}

/// Which share of users, in percent, goes from which side to which other.
pub(super) fn movements(before: &[u32], after: &[u32]) -> Vec<(usize, usize, f64)> {
    let total = |weights: &[u32]| weights.iter().copied().map(u128::from).sum::<u128>();
    let (of_before, of_after) = (total(before), total(after));
    // Both lines are as long as the product of the totals, so that every end is a whole number.
    let ends = |weights: &[u32], scale: u128| {
        let mut end = 0;
        let ends = weights.iter().map(|weight| {
            let begin = end;
            end += u128::from(*weight) * scale;
            (begin, end)
        });
        ends.collect::<Vec<_>>()
    };
    let was = ends(before, of_after);
    let is = ends(after, of_before);
    let length = of_before * of_after;
    let mut movements = Vec::new();
    for (from, (begin, end)) in was.iter().enumerate() {
        for (to, (begins, ends)) in is.iter().enumerate() {
            let common = end.min(ends).saturating_sub(*begin.max(begins));
            if from != to && common > 0 {
                movements.push((from, to, common as f64 * 100.0 / length as f64));
            }
        }
    }
    movements
}

/// What is strange about these movements.
fn warn(
    movements: &[(usize, usize, f64)],
    before: &[u32],
    after: &[u32],
    names: &[&str],
) -> Vec<String> {
    let mut warnings = Vec::new();
    let back = movements
        .iter()
        .filter(|(from, to, percent)| to < from && *percent >= WORTH);
    for (from, to, percent) in back {
        warnings.push(format!(
            "{percent:.2} % of all users go back from {} to {}",
            names[*from], names[*to]
        ));
    }
    let share = |weights: &[u32], at: usize| {
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        f64::from(weights[at]) * 100.0 / total.max(1) as f64
    };
    let gained = (0..before.len()).map(|at| (share(after, at) - share(before, at)).max(0.0));
    let needed: f64 = gained.sum();
    let moved: f64 = movements.iter().map(|(_, _, percent)| percent).sum();
    if moved > needed + WORTH {
        warnings.push(format!(
            "{moved:.2} % of all users change sides where {needed:.2} % would do: only what the last backend \
             gains moves nobody else"
        ));
    }
    warnings
}
