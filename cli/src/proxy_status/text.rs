//! The answer for people.

use super::status::{Proxy, Status};
use crate::explain::table::{paragraph, table};

/// A table that fits 100 columns, and the sum.
pub(super) fn of(status: &Status) -> String {
    let mut rows = vec![cells([
        "WORKLOAD",
        "SIDECAR",
        "RESOURCES",
        "UPDATED",
        "STATE",
    ])];
    for proxy in &status.proxies {
        rows.push(vec![
            format!("{}/{}", proxy.namespace, proxy.name),
            or_dash(&proxy.version),
            proxy.resources.to_string(),
            ago(proxy.updated_seconds),
            state(proxy),
        ]);
    }
    for missing in status.not_connected.iter().flatten() {
        let name = format!("{}/{}", missing.namespace, missing.name);
        rows.push(cells([&name, "-", "-", "-", "not connected"]));
    }
    finish(table(0, &rows), status)
}

/// Everything in a line each, however wide.
pub(super) fn wide(status: &Status) -> String {
    let mut rows = vec![cells([
        "WORKLOAD",
        "ACCOUNT",
        "ZONE",
        "SIDECAR",
        "REPLICA",
        "CONNECTED",
        "RESOURCES",
        "UPDATED",
        "REVISION",
        "STATE",
    ])];
    for proxy in &status.proxies {
        rows.push(vec![
            format!("{}/{}", proxy.namespace, proxy.name),
            proxy.service_account.clone(),
            or_dash(&proxy.zone),
            or_dash(&proxy.version),
            or_dash(&proxy.replica),
            proxy.connected_seconds.map_or_else(dash, age),
            proxy.resources.to_string(),
            ago(proxy.updated_seconds),
            proxy.source_revision.to_string(),
            state(proxy),
        ]);
    }
    for missing in status.not_connected.iter().flatten() {
        let name = format!("{}/{}", missing.namespace, missing.name);
        let mut row = vec![name];
        row.extend(std::iter::repeat_n(dash(), 8));
        row.push("not connected".to_owned());
        rows.push(row);
    }
    let columns = rows[0].len();
    let widths: Vec<usize> = (0..columns)
        .map(|at| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            cells.max().unwrap_or(0)
        })
        .collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    });
    finish(lines.collect(), status)
}

/// Whether it is in step; else what is wrong.
fn state(proxy: &Proxy) -> String {
    if proxy.is_in_step() {
        return "in step".to_owned();
    }
    let refused = proxy.refused.len() as u32;
    // What it refuses is named below; what else it does not have is only late.
    let late = proxy.behind.saturating_sub(refused);
    let mut words = Vec::new();
    if late > 0 {
        let since = proxy.behind_seconds.map_or_else(dash, age);
        words.push(format!("behind with {late} for {since}"));
    }
    if refused > 0 {
        words.push(format!("refuses {refused}"));
    }
    words.join(", ")
}

fn finish(mut lines: Vec<String>, status: &Status) -> String {
    let (total, replicas) = (status.proxies.len(), status.replicas.len());
    let in_step = status.proxies.iter().filter(|it| it.is_in_step()).count();
    let refusing = status.proxies.iter().filter(|it| !it.refused.is_empty());
    let refusing = refusing.count();
    let mut sum = vec![format!(
        "{total} connected: {in_step} in step, {} behind, {refusing} refusing.",
        total - in_step - refusing
    )];
    match &status.not_connected {
        Some(missing) if missing.is_empty() => {}
        Some(missing) => sum.push(format!("{} not connected.", missing.len())),
        None => sum.push("Who is not connected is not known.".to_owned()),
    }
    if replicas > 1 {
        sum.push(format!("{replicas} replicas of the control plane."));
    }
    lines.push(String::new());
    lines.extend(paragraph(0, &sum.join(" ")));
    for proxy in &status.proxies {
        for refused in &proxy.refused {
            let name = format!("{}/{}", proxy.namespace, proxy.name);
            let words = format!("{name} refuses {}: {}", refused.resource, refused.reason);
            lines.extend(paragraph(0, &words));
        }
    }
    for replica in &status.replicas {
        if let Some(why) = &replica.error {
            let at = replica.address.as_deref().unwrap_or(&replica.name);
            let words = format!("The replica at {at} did not answer: {why}");
            lines.extend(paragraph(0, &words));
        }
    }
    lines.join("\n") + "\n"
}

fn ago(seconds: Option<f64>) -> String {
    seconds.map_or_else(dash, |seconds| format!("{} ago", age(seconds)))
}

/// Two units at most: `12s`, `3m20s`, `5h12m`, `3d4h`.
pub(crate) fn age(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

fn cells<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        dash()
    } else {
        text.to_owned()
    }
}

fn dash() -> String {
    "-".to_owned()
}
