//! Whether Strict is safe: who came in plaintext where that is let in, and for how long somebody looked.
//!
//! It is a matter of a migration and not of health: at worst a warning.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::line::{Check, Line, counted};
use super::time::span;
use crate::edges::seen::{Caller, Seen, Target, is_plain};
use crate::proxy_status::ask::AskError;

const STRICT: Check = Check("callers", "strict");
/// Who has not watched for so long has not seen everybody.
const SHORTEST: Duration = Duration::from_secs(10 * 60);
const HINT: &str = "weft edges --plaintext has more; docs/strict.md says what to do";

/// A line for each namespace in which something is Permissive.
pub(super) fn check(answer: &Result<Seen, AskError>, window: Duration) -> Vec<Line> {
    let seen = match answer {
        Ok(seen) => seen,
        Err(error) => {
            return vec![STRICT.skipped(
                format!("the control plane could not be asked who calls: {error}"),
                "",
            )];
        }
    };
    let mut namespaces: BTreeMap<&str, Vec<&Target>> = BTreeMap::new();
    for target in &seen.permissive {
        let targets = namespaces.entry(&target.namespace).or_default();
        targets.push(target);
    }
    if namespaces.is_empty() {
        return vec![STRICT.ok("nothing with a sidecar is Permissive")];
    }
    let judge = |(namespace, targets): (&&str, &Vec<&Target>)| {
        judge(namespace, targets, seen, window.as_secs())
    };
    namespaces.iter().map(judge).collect()
}

fn judge(namespace: &str, targets: &[&Target], seen: &Seen, window: u64) -> Line {
    let recent = |caller: &&Caller| caller.last_seconds <= window;
    let mut plain: Vec<(&Target, &Caller)> = Vec::new();
    let mut meshed: Vec<&str> = Vec::new();
    for target in targets {
        for caller in target.callers.iter().filter(recent) {
            if is_plain(&caller.tls) {
                plain.push((target, caller));
            } else {
                meshed.push(&caller.from.name);
            }
        }
    }
    if !plain.is_empty() {
        plain.sort_by_key(|(_, caller)| caller.last_seconds);
        let callers: BTreeSet<_> = plain.iter().map(|(_, it)| &it.from.name).collect();
        let count = counted(callers.len(), "caller comes", "callers come");
        return STRICT
            .warning(
                format!("{namespace}: Strict is not safe yet: {count} in plaintext"),
                HINT,
            )
            .listing(
                plain
                    .into_iter()
                    .map(|(target, caller)| words(target, caller)),
            );
    }
    let too_early = |why: String| {
        let what = format!("{namespace}: too early to say whether Strict is safe: {why}");
        STRICT.skipped(what, "")
    };
    if let Some(silent) = seen.replicas.iter().find(|it| it.error.is_some()) {
        return too_early(format!("the replica at {} did not answer", silent.place()));
    }
    let silent: u64 = targets.iter().map(|target| target.silent).sum();
    if silent > 0 {
        let names = targets.iter().flat_map(|target| {
            let names = target.silent_names.iter();
            names.map(|name| format!("{}/{name}", target.namespace))
        });
        let count = counted(silent as usize, "sidecar has", "sidecars have");
        let mut names: Vec<_> = names.collect();
        names.sort();
        names.dedup();
        return too_early(format!("{count} not said who calls")).listing(names);
    }
    let watched = targets.iter().map(|target| target.watched_seconds).min();
    let watched = watched.unwrap_or_default();
    let wanted = window.min(SHORTEST.as_secs());
    if watched < wanted {
        return too_early(format!(
            "sidecars have been watching for {}, and {} are wanted",
            span(watched as i64),
            span(wanted as i64)
        ));
    }
    meshed.sort_unstable();
    meshed.dedup();
    let who = match meshed.len() {
        0 => "nobody called".to_owned(),
        many => format!("{}, all by mesh TLS,", counted(many, "caller", "callers")),
    };
    let length = span(watched.min(window) as i64);
    STRICT.ok(format!(
        "{namespace}: Strict is safe: {who} in the last {length}"
    ))
}

fn words(target: &Target, caller: &Caller) -> String {
    let to = target.service.as_deref().unwrap_or("behind no service");
    let tls = match &*caller.tls {
        "app-tls" => " with TLS of its own",
        _ => "",
    };
    format!(
        "{to}: {}{tls}, last seen {} ago",
        caller.from.words(),
        span(caller.last_seconds as i64)
    )
}
