//! The sidecars of all replicas, as the status has them. Ages are in seconds, so that nobody has to
//! compare clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use serde_json::{Value, json};
use weft_proto::replica::{ProxiesResponse, Proxy};

use crate::index::Model;
use crate::serve::replicas::Asked;

/// A sidecar and the replica that it is connected to.
pub(super) struct Connected<'a> {
    replica: &'a str,
    proxy: &'a Proxy,
}

/// Every workload once: where its stream moves from one replica to another, the newest.
pub(super) fn newest(asked: &[Asked<ProxiesResponse>]) -> Vec<Connected<'_>> {
    let mut all: BTreeMap<(&str, &str), Connected<'_>> = BTreeMap::new();
    for answer in asked.iter().filter_map(|asked| asked.answer.as_ref().ok()) {
        for proxy in &answer.proxies {
            let name = (&*proxy.namespace, &*proxy.workload);
            let is_older = all
                .get(&name)
                .is_some_and(|known| time(proxy.since) < time(known.proxy.since));
            if !is_older {
                let replica = &*answer.replica;
                all.insert(name, Connected { replica, proxy });
            }
        }
    }
    all.into_values().collect()
}

/// Workloads that are to have a sidecar, which is connected to no replica. Where a replica did not
/// answer, nobody knows.
pub(super) fn not_connected(
    model: &Model,
    asked: &[Asked<ProxiesResponse>],
    proxies: &[Connected<'_>],
) -> Value {
    if asked.is_empty() || asked.iter().any(|asked| asked.answer.is_err()) {
        return Value::Null;
    }
    let connected: BTreeSet<(&str, &str)> = proxies
        .iter()
        .map(|it| (&*it.proxy.namespace, &*it.proxy.workload))
        .collect();
    model
        .workloads()
        .filter(|workload| workload.meshed && !workload.draining)
        .map(|workload| &workload.name)
        .filter(|name| !connected.contains(&(&*name.namespace, &*name.name)))
        .map(|name| json!({"namespace": name.namespace, "name": name.name}))
        .collect()
}

/// A replica, and whether it answered.
pub(super) fn replica(asked: &Asked<ProxiesResponse>) -> Value {
    let answer = asked.answer.as_ref();
    json!({
        "name": answer.map(|answer| &*answer.replica).unwrap_or_default(),
        "address": asked.address.map(|address| address.to_string()),
        "modelRevision": answer.ok().map(|answer| answer.model_revision),
        "error": answer.err(),
    })
}

impl Connected<'_> {
    /// As the status has it.
    pub(super) fn describe(&self, now: SystemTime) -> Value {
        let Self { replica, proxy } = self;
        let refused = proxy.refused.iter().map(|refused| {
            json!({
                "resource": refused.resource,
                "reason": refused.reason,
            })
        });
        let age = |at: Option<Timestamp>| time(at).map(|at| seconds(now, at));
        json!({
            "replica": replica,
            "namespace": proxy.namespace,
            "name": proxy.workload,
            "serviceAccount": proxy.service_account,
            "zone": proxy.zone,
            "proxyVersion": proxy.version,
            "connectedSeconds": age(proxy.since),
            "resources": proxy.resources,
            "behind": proxy.behind,
            "behindSeconds": age(proxy.behind_since),
            "sourceRevision": proxy.source_revision,
            "updatedSeconds": age(proxy.updated_at),
            "refused": refused.collect::<Value>(),
        })
    }
}

fn time(at: Option<Timestamp>) -> Option<SystemTime> {
    at.and_then(|at| at.try_into().ok())
}

/// To the millisecond; 0 where the other clock is ahead.
fn seconds(now: SystemTime, at: SystemTime) -> f64 {
    let age: Duration = now.duration_since(at).unwrap_or_default();
    age.as_millis() as f64 / 1000.0
}
