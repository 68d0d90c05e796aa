//! Tables and JSON.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::options::{Options, Peer};
use super::run::{Point, Value, Values};

/// For people. Ratios are medians of ratios within a round, to what is named first of Weft's.
pub(super) fn text(options: &Options, points: &[(usize, Point)], values: &Values) -> String {
    let base = base(options);
    let mut text = format!(
        "\nMedians of {} rounds of {:.1} s; in brackets the least and the most. Processor time is both \
         sidecars'.\nLatency counts from when a request was due. x: the median of the ratios to {} in the \
         same round.\n",
        options.rounds,
        options.time.as_secs_f64(),
        base.name(),
    );
    for (at, point) in points {
        let _ = writeln!(
            text,
            "\n{}\n  {:<14} {:>24} {:>6} {:>19} {:>6} {:>7} {:>7} {:>8} {:>11}",
            point.name,
            "peer",
            "requests/s",
            "x",
            "CPU us/request",
            "x",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "RSS MiB",
        );
        for peer in &options.peers {
            let Some(rounds) = values.get(&(*at, *peer)) else {
                continue;
            };
            let to_base = |of: fn(&Value) -> f64| {
                let others = values.get(&(*at, base)).into_iter().flatten();
                let ratios = rounds
                    .iter()
                    .zip(others)
                    .map(|(one, other)| of(one) / of(other));
                let ratio = Spread::of(ratios).median;
                if ratio.is_finite() {
                    format!("{ratio:.2}")
                } else {
                    "-".to_owned()
                }
            };
            let spread = |of: fn(&Value) -> f64| Spread::of(rounds.iter().map(of));
            let _ = writeln!(
                text,
                "  {:<14} {:>24} {:>6} {:>19} {:>6} {:>7.0} {:>7.0} {:>8.0} {:>5.1} {:>5.1}",
                peer.name(),
                spread(|it| it.per_second).show(0),
                to_base(|it| it.per_second),
                spread(|it| it.cpu_micros).show(1),
                to_base(|it| it.cpu_micros),
                spread(|it| it.p50).median,
                spread(|it| it.p99).median,
                spread(|it| it.p999).median,
                spread(|it| it.resident[0]).median,
                spread(|it| it.resident[1]).median,
            );
        }
    }
    text
}

/// Everything that was measured.
pub(super) fn json(options: &Options, points: &[(usize, Point)], values: &Values) -> Json {
    let of_point = |(at, point): &(usize, Point)| {
        let peers = options.peers.iter().filter_map(|peer| {
            let rounds = values.get(&(*at, *peer))?;
            let rounds: Vec<Json> = rounds.iter().map(of_round).collect();
            Some((peer.name().to_owned(), Json::from(rounds)))
        });
        json!({"name": point.name, "peers": peers.collect::<serde_json::Map<_, _>>()})
    };
    json!({
        "rounds": options.rounds,
        "seconds": options.time.as_secs_f64(),
        "points": points.iter().map(of_point).collect::<Vec<_>>(),
    })
}

fn of_round(value: &Value) -> Json {
    json!({
        "requestsPerSecond": value.per_second,
        "cpuMicrosPerRequest": value.cpu_micros,
        "latencyMicros": {
            "p50": value.p50, "p90": value.p90, "p99": value.p99, "p999": value.p999,
        },
        "residentMiB": {"client": value.resident[0], "server": value.resident[1]},
    })
}

/// What others are compared with.
fn base(options: &Options) -> Peer {
    let mut weft = options.peers.iter().filter(|peer| peer.is_weft());
    let first = weft.next().or(options.peers.first());
    first.copied().unwrap_or(Peer::Direct)
}

/// Values of several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    /// Not numbers where there are none.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = values.collect();
        all.sort_by(f64::total_cmp);
        let at = |index: usize| all.get(index).copied().unwrap_or(f64::NAN);
        let middle = all.len() / 2;
        let median = if all.len().is_multiple_of(2) {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        } else {
            at(middle)
        };
        Self {
            least: at(0),
            median,
            most: at(all.len().wrapping_sub(1)),
        }
    }

    fn show(self, digits: usize) -> String {
        let Self {
            least,
            median,
            most,
        } = self;
        format!("{median:.digits$} [{least:.digits$} {most:.digits$}]")
    }
}
