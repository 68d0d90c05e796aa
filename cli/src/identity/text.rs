//! The answer for people.

use super::status::{Certificate, Rotation, Status};
use crate::check_cluster::time::span;
use crate::explain::table::table;

/// Digits of a fingerprint that are shown: enough to tell certificates apart.
const DIGITS: usize = 16;

/// Certificates, and how far a rotation is.
pub(super) fn of(status: &Status, now: u64) -> String {
    let head = ["CERTIFICATE", "STATE", "FINGERPRINT", "EXPIRES", "ROTATES"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(status.certificates.iter().map(|it| row(it, now)));
    let mut lines = table(0, &rows);
    lines.push(String::new());
    match &status.rotation {
        None => lines.push("no rotation is under way".to_owned()),
        Some(rotation) => lines.extend(progress(rotation, now)),
    }
    if let Some(problem) = &status.problem {
        lines.push(String::new());
        lines.push(format!("WRONG: {problem}"));
    }
    lines.join("\n") + "\n"
}

/// How far a rotation is, in lines.
pub(super) fn progress(rotation: &Rotation, now: u64) -> Vec<String> {
    let Rotation {
        kind,
        phase,
        next,
        waiting_for,
        ..
    } = rotation;
    let since = span(seconds(now.saturating_sub(rotation.since)));
    let what = match next.as_str() {
        "sign" => "the new one signs",
        _ => "the old one is forgotten",
    };
    let mut lines = vec![
        format!("a rotation of the {kind} is in phase {phase}, since {since}"),
        format!(
            "next: {what}, {} at the latest",
            until(rotation.at_the_latest, now)
        ),
    ];
    if waiting_for.bundle {
        lines.push("waiting for the bundle to be where sidecars boot from".to_owned());
    }
    if !waiting_for.replicas.is_empty() {
        let all = waiting_for.replicas.join(", ");
        lines.push(format!("waiting for replicas: {all}"));
    }
    if waiting_for.sidecars > 0 {
        let names = &waiting_for.sidecar_names;
        let more = (waiting_for.sidecars as usize).saturating_sub(names.len());
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        lines.push(format!("waiting for sidecars: {}{more}", names.join(", ")));
    }
    if lines.len() == 2 {
        lines.push("everybody has followed; waiting for time to pass".to_owned());
    }
    lines
}

fn row(certificate: &Certificate, now: u64) -> Vec<String> {
    let rotates = certificate
        .rotates_at
        .map_or_else(|| "-".to_owned(), |at| until(at, now));
    vec![
        certificate.kind.clone(),
        certificate.state.clone(),
        certificate.fingerprint.chars().take(DIGITS).collect(),
        until(certificate.not_after, now),
        rotates,
    ]
}

/// How far away a moment is.
fn until(at: u64, now: u64) -> String {
    match at.checked_sub(now) {
        Some(left) => format!("in {}", span(seconds(left))),
        None => format!("{} ago", span(seconds(now - at))),
    }
}

fn seconds(span: u64) -> i64 {
    i64::try_from(span).unwrap_or(i64::MAX)
}
