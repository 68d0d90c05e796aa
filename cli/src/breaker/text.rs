//! Breakers for people.

use super::listing::{Breaker, Listing};
use super::{Action, breakers};
use crate::explain::table::{GAP, WIDTH, paragraph, rows};
use crate::order::Told;
use crate::paint::Paint;
use crate::proxy_status::text::age;

/// A table that fits 100 columns, and the sum.
pub(super) fn list(listing: &Listing, answers: &Told, paint: Paint) -> String {
    let head = [
        "WORKLOAD", "BACKEND", "ENDPOINT", "FAILURES", "FOR", "STATE",
    ];
    let mut cells = vec![Vec::from(head.map(str::to_owned))];
    cells.extend(listing.breakers.iter().map(row));
    let mut lines = Vec::new();
    if !listing.breakers.is_empty() {
        let mut painted = rows(0, widest(&cells), &cells).into_iter();
        lines.extend(painted.next().into_iter().flatten());
        for (breaker, row) in listing.breakers.iter().zip(painted) {
            lines.extend(row.iter().map(|line| match &*breaker.state.state {
                "open" | "forced_open" => paint.bad(line),
                "half_open" | "forced_closed" => paint.doubtful(line),
                _ => line.clone(),
            }));
        }
        lines.push(String::new());
    }
    lines.extend(paragraph(0, &sum(listing)));
    for problem in answers.problems() {
        lines.extend(paragraph(0, &problem));
    }
    lines.join("\n") + "\n"
}

/// What was done, and by how many sidecars. `which` is of what, with a space before it, or nothing.
pub(super) fn changed(action: Action, which: &str, answers: &Told) -> String {
    let (count, sidecars) = breakers(answers);
    let all = answers.done().count();
    let verb = match action {
        Action::Reset => "Reset",
        Action::Open => "Opened",
        Action::Close => "Closed",
    };
    let done = if count == 0 {
        let all = many(all, "sidecar", "sidecars");
        format!("None of {all} has a breaker{which}; a sidecar has one once it was called through.")
    } else {
        let count = many(count as usize, "breaker", "breakers");
        let rest = match all - sidecars {
            0 => String::new(),
            1 => "; 1 other has none".to_owned(),
            rest => format!("; {rest} others have none"),
        };
        let sidecars = many(sidecars, "sidecar", "sidecars");
        format!("{verb} {count}{which} in {sidecars}{rest}.")
    };
    let mut lines = paragraph(0, &done);
    for problem in answers.problems() {
        lines.extend(paragraph(0, &problem));
    }
    lines.join("\n") + "\n"
}

/// What names may be wide, so that all columns fit.
fn widest(cells: &[Vec<String>]) -> usize {
    let width = |column: usize| {
        let cells = cells.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
    let room = WIDTH.saturating_sub(GAP * (widths.len() - 1));
    let fits = |cap: &usize| widths.iter().map(|width| width.min(cap)).sum::<usize>() <= room;
    // The last column is what is left, and needs as much as the others.
    (1..=WIDTH).rev().find(fits).unwrap_or(1)
}

fn row(breaker: &Breaker) -> Vec<String> {
    let state = &breaker.state;
    let words = match (&*state.state, state.open_for_seconds) {
        ("open", Some(left)) => format!("open, {} more", age(left.ceil())),
        (word, _) => word.to_owned(),
    };
    vec![
        breaker.workload.clone(),
        breaker.backend.clone(),
        state.endpoint.clone().unwrap_or_else(|| "all".to_owned()),
        state.consecutive_failures.to_string(),
        age(state.for_seconds),
        words,
    ]
}

fn sum(listing: &Listing) -> String {
    let is_closed = |breaker: &&Breaker| breaker.state.state == "closed";
    let closed = listing.breakers.iter().filter(is_closed).count();
    let sidecars = many(listing.sidecars, "sidecar", "sidecars");
    match listing.breakers.len() {
        0 => format!("No breakers in {sidecars}."),
        all => format!(
            "{} in {sidecars}, {} not closed.",
            many(all, "breaker", "breakers"),
            all - closed
        ),
    }
}

fn many(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}
