//! A split for people, in 100 columns.

use super::Changed;
use super::model::{Canary, Side, State};
use crate::explain::table::{paragraph, table};
use crate::paint::Paint;

/// Endpoints that are named; of more, the number is said.
const NAMED: usize = 3;

/// What it is.
pub(super) fn shown(canary: &Canary, paint: Paint) -> String {
    let mut lines = head(canary, paint);
    lines.push(String::new());
    lines.extend(sides(canary, None));
    lines.join("\n") + "\n"
}

/// What has become of it.
pub(super) fn changed(changed: &Changed, paint: Paint) -> String {
    let canary = &changed.canary;
    let mut lines = Vec::new();
    if changed.before == canary.weights() {
        lines.push("Nothing was to be changed.".to_owned());
    }
    lines.extend(sides(canary, Some(&changed.before)));
    lines.push(String::new());
    for one in &changed.moves {
        let (percent, from, to) = (one.percent, &one.from, &one.to);
        let what = format!("{percent:.2} % of all users go from {from} to {to}.");
        lines.extend(paragraph(0, &what));
    }
    for warning in &changed.warnings {
        let warning = paragraph(0, &format!("Warning: {warning}."));
        lines.extend(warning.iter().map(|line| paint.doubtful(line)));
    }
    match changed.everywhere {
        Some(true) => lines.extend(programmed(canary, paint)),
        Some(false) => {
            let what = "It is written, and not every sidecar is known to have it.";
            lines.push(paint.bad(what));
            lines.extend(programmed(canary, paint));
        }
        None if canary.place.is_some() => {
            let place = canary.place.as_deref().unwrap_or_default();
            lines.push(format!(
                "Written to {place}; control planes look at it several times a second."
            ));
        }
        None => lines.push("Written; nobody waited for the sidecars.".to_owned()),
    }
    lines.join("\n") + "\n"
}

fn head(canary: &Canary, paint: Paint) -> Vec<String> {
    let section = canary.section.as_ref();
    let section = section.map_or_else(String::new, |name| format!(", port {name}"));
    let place = canary.place.as_ref();
    let place = place.map_or_else(String::new, |place| format!(", {place}"));
    let mut lines = paragraph(
        0,
        &format!(
            "{}/{}{section}, by the TrafficPolicy {}{place}",
            canary.namespace, canary.service, canary.policy
        ),
    );
    lines.push(match &canary.sticky {
        Some(key) => format!("Users are kept on one side by {key}."),
        None => "Users are not kept on one side: chance decides each request.".to_owned(),
    });
    for route in &canary.routes {
        let what = format!("{route} holds the weights: those of the policy are not in force.");
        lines.extend(paragraph(0, &what).iter().map(|line| paint.doubtful(line)));
    }
    lines.extend(programmed(canary, paint));
    lines
}

fn programmed(canary: &Canary, paint: Paint) -> Vec<String> {
    if canary.place.is_some() {
        return Vec::new();
    }
    let Some(programmed) = &canary.programmed else {
        return vec!["The control plane has not said yet how many sidecars have it.".to_owned()];
    };
    let words = paragraph(0, &format!("{}.", programmed.message.trim_end_matches('.')));
    let count = canary.proxies.map(|proxies| {
        let (acknowledged, total) = (proxies.acknowledged, proxies.total);
        format!("{acknowledged} of {total} sidecars have it.")
    });
    match (programmed.state, count) {
        (State::NoSidecars, _) => {
            vec!["No connected sidecar needs it yet; whoever comes gets it.".to_owned()]
        }
        (State::Everywhere, Some(count)) => vec![count],
        (State::OnItsWay, Some(count)) => vec![paint.doubtful(&count)],
        (State::Everywhere | State::OnItsWay, None) => words,
        (State::Refused, count) => {
            let mut lines: Vec<String> = count.into_iter().collect();
            lines.extend(words.iter().map(|line| paint.bad(line)));
            lines
        }
    }
}

fn sides(canary: &Canary, before: Option<&[u32]>) -> Vec<String> {
    let mut head = vec!["BACKEND"];
    head.extend(before.map(|_| "WAS"));
    head.extend(["WEIGHT", "SHARE", "READY", "ENDPOINTS"]);
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for (at, side) in canary.backends.iter().enumerate() {
        let mut row = vec![side.name.clone()];
        row.extend(before.map(|before| before.get(at).map_or_else(String::new, u32::to_string)));
        row.push(side.weight.to_string());
        row.push(format!("{:.2} %", canary.share(side)));
        row.push(match side.ready() {
            Some((ready, all)) => format!("{ready} of {all}"),
            None => "unknown".to_owned(),
        });
        row.push(endpoints(side));
        rows.push(row);
    }
    table(0, &rows)
}

fn endpoints(side: &Side) -> String {
    let all = side.endpoints.as_deref().unwrap_or_default();
    let mut words: Vec<String> = all
        .iter()
        .take(NAMED)
        .map(|endpoint| {
            if endpoint.ready {
                endpoint.name.clone()
            } else {
                format!("{} (not ready)", endpoint.name)
            }
        })
        .collect();
    words.extend((all.len() > NAMED).then(|| format!("{} more", all.len() - NAMED)));
    words.extend(side.forced.then(|| "and by matches".to_owned()));
    words.join(", ")
}
