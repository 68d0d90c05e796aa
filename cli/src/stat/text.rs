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
        let with_side = stat
            .requests
            .iter()
            .any(|it| is_other_side(stat.view, it.side));
        let mut head = names(stat.view);
        head.extend([
            "REQUESTS", "SUCCESS", "RPS", "P50", "P95", "P99", "RETRIES", "MTLS",
        ]);
        head.extend(with_side.then_some("SIDE"));
        let cells = stat
            .requests
            .iter()
            .map(|line| row(line, with_side))
            .collect();
        let colours = stat.requests.iter().map(|line| match line.success_percent {
            Some(percent) if percent < BAD_PERCENT => Paint::bad,
            Some(percent) if percent < 100.0 => Paint::doubtful,
            _ => plain,
        });
        lines.extend(table(&head, cells, colours, names(stat.view).len(), paint));
        lines.push(String::new());
    }
    if !stat.tcp.is_empty() {
        let with_side = stat.tcp.iter().any(|it| is_other_side(stat.view, it.side));
        let mut head = names(stat.view);
        head.extend([
            "OPEN",
            "ENDED",
            "NOT OK",
            "FROM CLIENTS",
            "TO CLIENTS",
            "MTLS",
        ]);
        head.extend(with_side.then_some("SIDE"));
        let cells = stat
            .tcp
            .iter()
            .map(|line| tcp_row(line, with_side))
            .collect();
        let colours = stat.tcp.iter().map(|line| match not_ok(line) {
            0 => plain,
            _ => Paint::doubtful,
        });
        lines.extend(table(&head, cells, colours, names(stat.view).len(), paint));
        lines.push(String::new());
    }
    lines
}

/// What the tables are of.
fn sum(stat: &Stat) -> String {
    let sidecars = match stat.sidecars {
        1 => "1 sidecar".to_owned(),
        many => format!("{many} sidecars"),
    };
    let what = if stat.requests.is_empty() && stat.tcp.is_empty() {
        "Nothing passed"
    } else {
        "What passed"
    };
    let time = age(stat.seconds.round());
    format!("{what} {sidecars} in the last {time}.")
}

fn names(view: View) -> Vec<&'static str> {
    match view {
        View::Services => vec!["SERVICE"],
        View::Workloads => vec!["WORKLOAD"],
        View::Routes => vec!["SERVICE", "ROUTE"],
        View::Pairs => vec!["FROM", "SERVICE"],
    }
}

/// Names get what room the numbers leave.
fn table(
    head: &[&str],
    cells: Vec<Vec<String>>,
    colours: impl Iterator<Item = fn(Paint, &str) -> String>,
    names: usize,
    paint: Paint,
) -> Vec<String> {
    let mut all = vec![head.iter().map(|&word| word.to_owned()).collect()];
    all.extend(cells);
    let mut painted = rows(0, widest(&all, names), &all).into_iter();
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

fn row(line: &Line, with_side: bool) -> Vec<String> {
    let mut cells = words(&line.about);
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
    cells.extend(with_side.then(|| line.side.to_owned()));
    cells
}

fn tcp_row(line: &TcpLine, with_side: bool) -> Vec<String> {
    let mut cells = words(&line.about);
    cells.extend([
        line.open.to_string(),
        line.ended.to_string(),
        not_ok(line).to_string(),
        bytes(line.read),
        bytes(line.written),
        line.mtls_percent.map_or_else(dash, share),
    ]);
    cells.extend(with_side.then(|| line.side.to_owned()));
    cells
}

fn words(about: &About) -> Vec<String> {
    let About {
        from,
        service,
        route,
        workload,
    } = about;
    let names = [from, service, route, workload].into_iter().flatten();
    let names = names.map(|name| {
        if name.is_empty() {
            dash()
        } else {
            name.clone()
        }
    });
    names.collect()
}

fn is_other_side(view: View, side: &str) -> bool {
    let side = [Side::Client, Side::Server]
        .into_iter()
        .find(|it| it.as_str() == side);
    side != Some(view.side())
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
