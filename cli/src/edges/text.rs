//! The answer for people.

use super::seen::{Edge, Seen, is_plain};
use crate::explain::table::{GAP, WIDTH, paragraph, rows};
use crate::paint::Paint;
use crate::proxy_status::text::age;

/// A table that fits 100 columns, and the sum.
pub(super) fn of(seen: &Seen, paint: Paint) -> String {
    let head = [
        "FROM",
        "TO",
        "PORT",
        "TLS",
        "CONNECTIONS",
        "REQUESTS",
        "LAST",
    ];
    let mut cells = vec![Vec::from(head.map(str::to_owned))];
    cells.extend(seen.edges.iter().map(row));
    let mut lines = Vec::new();
    if !seen.edges.is_empty() {
        let mut painted = rows(0, widest(&cells), &cells).into_iter();
        lines.extend(painted.next().into_iter().flatten());
        for (edge, row) in seen.edges.iter().zip(painted) {
            let row = row.iter();
            lines.extend(row.map(|line| match &*edge.tls {
                tls if is_plain(tls) => paint.bad(line),
                "refused" => paint.doubtful(line),
                _ => line.clone(),
            }));
        }
        lines.push(String::new());
    }
    lines.extend(paragraph(0, &sum(seen)));
    for replica in &seen.replicas {
        if let Some(why) = &replica.error {
            let words = format!("The replica at {} did not answer: {why}", replica.place());
            lines.extend(paragraph(0, &words));
        }
    }
    lines.join("\n") + "\n"
}

/// What the two columns of names may be wide, so that all others fit.
fn widest(cells: &[Vec<String>]) -> usize {
    let width = |column: usize| {
        let cells = cells.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0) + GAP
    };
    let others: usize = (2..cells[0].len()).map(width).sum();
    let room = WIDTH.saturating_sub(others).max(2 * (GAP + 1));
    // What the shorter one leaves is the longer one's.
    let shorter = width(0).min(width(1)).min(room / 2);
    room - shorter - GAP
}

fn row(edge: &Edge) -> Vec<String> {
    vec![
        edge.from.words(),
        format!("{}/{}", edge.to.namespace, edge.to.name),
        edge.port.to_string(),
        edge.tls.clone(),
        edge.connections.to_string(),
        edge.requests.to_string(),
        format!("{} ago", age(edge.last_seconds as f64)),
    ]
}

fn sum(seen: &Seen) -> String {
    let plain = seen.edges.iter().filter(|edge| is_plain(&edge.tls)).count();
    let edges = match seen.edges.len() {
        0 => "No edges".to_owned(),
        1 => "1 edge".to_owned(),
        many => format!("{many} edges"),
    };
    let sidecars = match seen.sidecars {
        1 => "1 sidecar".to_owned(),
        many => format!("{many} sidecars"),
    };
    let mut sum = vec![format!("{edges} by {sidecars}, {plain} in plaintext.")];
    if seen.forgotten > 0 {
        sum.push(format!(
            "{} were forgotten: a sidecar remembers 128 in plaintext and 128 others.",
            seen.forgotten
        ));
    }
    if seen.left_out > 0 {
        sum.push(format!("{} found no room.", seen.left_out));
    }
    sum.join(" ")
}
