//! Traffic for people: tables that fit 100 columns.

use super::ask::Answers;
use super::quantile::Quantile;
use super::sums::{About, Line, Stat, TcpLine};
use super::{Side, View};
use crate::demo::text::share;
use crate::explain::table::{GAP, WIDTH, paragraph, rows};
use crate::order::Told;
use crate::paint::Paint;
use crate::proxy_status::text::age;

/// Below this share of successes a line is red; below all it is yellow.
const BAD_PERCENT: f64 = 99.0;
const KILO: f64 = 1e3;
/// Marks a line that the other side than usual tells.
const OTHER_SIDE: &str = "*";

/// Both tables, whom they are of, and who is missing.
pub(super) fn of(stat: &Stat, answers: &Answers, paint: Paint) -> String {
    let mut lines = tables(stat, paint);
    lines.extend(paragraph(0, &sum(stat)));
    lines.extend(problems(&answers.told));
    lines.join("\n") + "\n"
}

/// Who did not answer, and why.
pub(super) fn problems(told: &Told) -> Vec<String> {
    let problems = told.problems();
    problems.iter().flat_map(|it| paragraph(0, it)).collect()
}

/// Requests, and below them connections of bytes; each only where there are any.
pub(super) fn tables(stat: &Stat, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    if !stat.requests.is_empty() {
        let mut head = names(stat.view);
        head.extend([
            "REQUESTS", "SUCCESS", "RPS", "P50", "P95", "P99", "RETRIES", "MTLS",
        ]);
        let cells = stat.requests.iter().map(|line| row(stat.view, line));
        let colours = stat.requests.iter().map(|line| match line.success_percent {
            Some(percent) if percent < BAD_PERCENT => Paint::bad,
            Some(percent) if percent < 100.0 => Paint::doubtful,
            _ => plain,
        });
        lines.extend(table(stat.view, &head, cells.collect(), colours, paint));
        lines.push(String::new());
    }
    if !stat.tcp.is_empty() {
        let mut head = names(stat.view);
        head.extend([
            "OPEN",
            "ENDED",
            "NOT OK",
            "FROM CLIENTS",
            "TO CLIENTS",
            "MTLS",
        ]);
        let cells = stat.tcp.iter().map(|line| tcp_row(stat.view, line));
        let colours = stat.tcp.iter().map(|line| match not_ok(line) {
            0 => plain,
            _ => Paint::doubtful,
        });
        lines.extend(table(stat.view, &head, cells.collect(), colours, paint));
        lines.push(String::new());
    }
    let mut sides = stat.requests.iter().map(|it| it.side);
    let mut tcp_sides = stat.tcp.iter().map(|it| it.side);
    let is_other = |side| side != stat.view.side().as_str();
    if sides.any(is_other) || tcp_sides.any(is_other) {
        let side = match stat.view.side() {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        lines.push(format!(
            "{OTHER_SIDE} told by the {}'s side.",
            side.as_str()
        ));
    }
    lines
}

/// What the tables are of.
pub(super) fn sum(stat: &Stat) -> String {
    let time = age(stat.seconds.round());
    let sidecars = match stat.sidecars {
        1 => "1 sidecar".to_owned(),
        many => format!("{many} sidecars"),
    };
    if stat.requests.is_empty() && stat.tcp.is_empty() {
        return format!("{sidecars} counted nothing in the last {time}.");
    }
    format!("What {sidecars} counted in the last {time}.")
}

fn names(view: View) -> Vec<&'static str> {
    match view {
        View::Services => vec!["SERVICE"],
        View::Workloads => vec!["WORKLOAD"],
        View::Routes => vec!["SERVICE", "ROUTE"],
        View::Backends => vec!["SERVICE", "BACKEND"],
        View::Pairs => vec!["FROM", "SERVICE"],
    }
}

/// Names get what room the numbers leave.
fn table(
    view: View,
    head: &[&str],
    cells: Vec<Vec<String>>,
    colours: impl Iterator<Item = fn(Paint, &str) -> String>,
    paint: Paint,
) -> Vec<String> {
    let mut all = vec![head.iter().map(|&word| word.to_owned()).collect()];
    all.extend(cells);
    let mut painted = rows(0, widest(&all, names(view).len()), &all).into_iter();
    let mut lines: Vec<String> = painted.next().into_iter().flatten().collect();
    for (colour, row) in colours.zip(painted) {
        lines.extend(row.iter().map(|line| colour(paint, line)));
    }
    lines
}

fn plain(_: Paint, line: &str) -> String {
    line.to_owned()
}

/// What names may be wide, so that all columns fit: what shorter ones leave is the longer one's.
fn widest(cells: &[Vec<String>], names: usize) -> usize {
    let width = |column: usize| {
        let cells = cells.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let numbers: usize = (names..cells[0].len())
        .map(|column| width(column) + GAP)
        .sum();
    let room = WIDTH.saturating_sub(numbers + GAP * (names - 1));
    let widths: Vec<usize> = (0..names).map(width).collect();
    let fits = |cap: &usize| widths.iter().map(|width| width.min(cap)).sum::<usize>() <= room;
    (1..=WIDTH).rev().find(fits).unwrap_or(1)
}

fn row(view: View, line: &Line) -> Vec<String> {
    let mut cells = words(view, &line.about, line.side);
    cells.extend([
        line.requests.to_string(),
        line.success_percent.map_or_else(dash, share),
        rate(line.per_second),
        line.p50.map_or_else(dash, millis),
        line.p95.map_or_else(dash, millis),
        line.p99.map_or_else(dash, millis),
        line.retries.to_string(),
        line.mtls_percent.map_or_else(dash, share),
    ]);
    cells
}

fn tcp_row(view: View, line: &TcpLine) -> Vec<String> {
    let mut cells = words(view, &line.about, line.side);
    cells.extend([
        line.open.to_string(),
        line.ended.to_string(),
        not_ok(line).to_string(),
        bytes(line.read),
        bytes(line.written),
        line.mtls_percent.map_or_else(dash, share),
    ]);
    cells
}

/// Names; the last one is marked where the other side than usual tells the line.
fn words(view: View, about: &About, side: &str) -> Vec<String> {
    let About {
        from,
        service,
        route,
        backend,
        workload,
    } = about;
    let names = [from, service, route, backend, workload]
        .into_iter()
        .flatten();
    let or_dash = |name: &String| {
        if name.is_empty() {
            dash()
        } else {
            name.clone()
        }
    };
    let mut names: Vec<String> = names.map(or_dash).collect();
    if side != view.side().as_str()
        && let Some(last) = names.last_mut()
    {
        last.push_str(OTHER_SIDE);
    }
    names
}

fn not_ok(line: &TcpLine) -> u64 {
    let bad = line.outcomes.iter().filter(|(outcome, _)| *outcome != "ok");
    bad.map(|(_, count)| count).sum()
}

/// Per second: `0.02`, `12.3`, `1234`.
fn rate(per_second: f64) -> String {
    match per_second {
        ..9.995 => format!("{per_second:.2}"),
        ..99.95 => format!("{per_second:.1}"),
        _ => format!("{per_second:.0}"),
    }
}

/// Three significant digits: `0.62ms`, `12.3ms`, `340ms`, `1.20s`.
fn millis(quantile: Quantile) -> String {
    let millis = quantile.millis;
    let text = match millis {
        ..9.995 => format!("{millis:.2}ms"),
        ..99.95 => format!("{millis:.1}ms"),
        ..999.5 => format!("{millis:.0}ms"),
        _ => format!("{:.2}s", millis / KILO),
    };
    match quantile.up_to_millis {
        Some(_) => text,
        None => format!(">{text}"),
    }
}

/// `512 B`, `1.5 kB`, `2.0 GB`: powers of 1,000.
fn bytes(count: u64) -> String {
    let mut number = count as f64;
    if number < KILO {
        return format!("{count} B");
    }
    let mut units = ["kB", "MB", "GB", "TB"].into_iter();
    let mut unit = "kB";
    // What would be rounded to 1,000 is one of the next.
    while number >= KILO - 0.05 {
        let Some(next) = units.next() else {
            break;
        };
        (number, unit) = (number / KILO, next);
    }
    format!("{number:.1} {unit}")
}

fn dash() -> String {
    "-".to_owned()
}
