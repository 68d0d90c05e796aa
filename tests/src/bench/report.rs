//! Tables and JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::options::{Options, Peer};
use super::point::{Column, Point};
use super::run::Values;
use super::slice::{MAX_FOREIGN, MAX_LATE, Value};

/// Where there is no number.
const NONE: &str = "-";
/// How many columns a line of progress has.
const IN_A_LINE: usize = 2;

/// For people. Ratios are medians of ratios within a round. Rounds that others disturbed are told of and left
/// out.
pub(super) fn text(options: &Options, points: &[(usize, Point)], values: &Values) -> String {
    let base = base(options);
    let mut text = format!(
        "\nMedians of {} rounds of {:.1} s; in brackets the least and the most. Processor time is both \
         sidecars'; own CPU the client's and the server's.\nLatency counts from when a request was due. \
         x: the median of the ratios to {} in the same round.\n!: rounds that others disturbed, however \
         often it was tried: they used more than {:.0} % of the cores, or more than {:.1} % of a rate's \
         requests were sent late.\nSuch rounds are left out, and where `direct` was disturbed what is added \
         to it; where none is left, all count. again: how often it was measured again.\n",
        options.rounds,
        options.time.as_secs_f64(),
        base.name(),
        MAX_FOREIGN * 100.0,
        MAX_LATE * 100.0,
    );
    for (at, point) in points {
        let columns = point.what.columns();
        let _ = writeln!(text, "\n{}", point.name);
        let mut rows = vec![heads(columns)];
        let of = |peer| values.get(&(*at, peer)).map_or(&[][..], Vec::as_slice);
        for peer in &options.peers {
            if !of(*peer).is_empty() {
                rows.push(row(*peer, columns, of(*peer), of(base), of(Peer::Direct)));
            }
        }
        aligned(&mut text, &rows);
    }
    text
}

fn heads(columns: &[Column]) -> Vec<String> {
    let mut heads = vec!["peer".to_owned()];
    for column in columns {
        heads.push(column.title.to_owned());
        if column.compared {
            heads.push("x".to_owned());
        }
    }
    heads.extend(["again".to_owned(), "!".to_owned()]);
    heads
}

/// Which rounds tell something: those that nobody disturbed, or all where there is none of these.
fn counted(rounds: &[Value], column: &Column, direct: &[Value]) -> Vec<bool> {
    let calm = |(at, value): (usize, &Value)| {
        let added_to = direct.get(at).filter(|_| column.is_added());
        !value.disturbed() && !added_to.is_some_and(Value::disturbed)
    };
    let calm: Vec<bool> = rounds.iter().enumerate().map(calm).collect();
    if calm.contains(&true) {
        calm
    } else {
        vec![true; rounds.len()]
    }
}

fn row(
    peer: Peer,
    columns: &[Column],
    rounds: &[Value],
    others: &[Value],
    direct: &[Value],
) -> Vec<String> {
    let mut cells = vec![peer.name().to_owned()];
    for column in columns {
        let counts = counted(rounds, column, direct);
        let of_round = rounds.iter().zip(&counts);
        let counted_values = of_round.filter(|(_, counts)| **counts);
        let spread = Spread::of(counted_values.map(|(it, _)| it.get(column.key)));
        if !column.compared {
            cells.push(number(spread.median, column.digits));
            continue;
        }
        cells.push(spread.show(column.digits));
        // What is added by less than can be told apart from nothing is no base.
        let both = counts.iter().zip(counted(others, column, direct));
        let both = both.map(|(one, other)| *one && other);
        let pairs = rounds
            .iter()
            .zip(others)
            .zip(both)
            .filter(|((_, other), both)| *both && other.get(column.key) > 0.0);
        let ratios = pairs.map(|((one, other), _)| one.get(column.key) / other.get(column.key));
        cells.push(number(Spread::of(ratios).median, 2));
    }
    let again = rounds.iter().map(|it| usize::from(it.again)).sum();
    let disturbed = rounds.iter().filter(|it| it.disturbed()).count();
    cells.extend([again, disturbed].map(|count: usize| match count {
        0 => String::new(),
        some => some.to_string(),
    }));
    cells
}

/// Columns as wide as what is in them, the first to the left.
fn aligned(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|at| rows.iter().map(|row| row[at].chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    for row in rows {
        let mut line = String::from(" ");
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if at == 0 {
                write!(line, " {cell:<width$}")
            } else {
                write!(line, "  {cell:>width$}")
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// One measurement, for those who wait.
pub(super) fn line(point: Point, value: &Value) -> String {
    let columns = point.what.columns().iter();
    let with_number = columns.filter(|column| value.get(column.key).is_finite());
    let mut line = String::new();
    for column in with_number.filter(|column| column.compared).take(IN_A_LINE) {
        let shown = number(value.get(column.key), column.digits);
        let _ = write!(line, " {shown:>9} {}", column.title);
    }
    if value.again > 0 {
        let _ = write!(line, "  (again: {})", value.again);
    }
    if value.foreign > MAX_FOREIGN {
        let _ = write!(line, "  (others {:.0} %)", value.foreign * 100.0);
    }
    if value.late > MAX_LATE {
        let _ = write!(line, "  (late {:.1} %)", value.late * 100.0);
    }
    if value.get("failed") > 0.0 {
        let _ = write!(line, "  (failed: {})", value.get("failed"));
    }
    line
}

/// Everything that was measured.
pub(super) fn json(options: &Options, points: &[(usize, Point)], values: &Values) -> Json {
    let of_point = |(at, point): &(usize, Point)| {
        let peers = options.peers.iter().filter_map(|peer| {
            let rounds = values.get(&(*at, *peer))?;
            let rounds: Vec<Json> = rounds.iter().map(of_round).collect();
            Some((peer.name().to_owned(), Json::from(rounds)))
        });
        json!({"name": point.name, "peers": peers.collect::<Map<_, _>>()})
    };
    json!({
        "rounds": options.rounds,
        "seconds": options.time.as_secs_f64(),
        "points": points.iter().map(of_point).collect::<Vec<_>>(),
    })
}

fn of_round(value: &Value) -> Json {
    let of = value
        .of
        .iter()
        .map(|(key, it)| ((*key).to_owned(), json!(it)));
    let mut of: Map<String, Json> = of.collect();
    of.insert("foreignCpuShare".to_owned(), json!(value.foreign));
    of.insert("lateShare".to_owned(), json!(value.late));
    of.insert("measuredAgain".to_owned(), json!(value.again));
    of.insert("disturbed".to_owned(), json!(value.disturbed()));
    Json::Object(of)
}

/// What others are compared with.
fn base(options: &Options) -> Peer {
    let mut weft = options.peers.iter().filter(|peer| peer.is_weft());
    let first = weft.next().or(options.peers.first());
    let first = first.copied().unwrap_or(Peer::Direct);
    options.base.unwrap_or(first)
}

fn number(value: f64, digits: usize) -> String {
    if value.is_finite() {
        format!("{value:.digits$}")
    } else {
        NONE.to_owned()
    }
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
        if !self.median.is_finite() {
            return NONE.to_owned();
        }
        let Self {
            least,
            median,
            most,
        } = self;
        format!("{median:.digits$} [{least:.digits$} {most:.digits$}]")
    }
}
