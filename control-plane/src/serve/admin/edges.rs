//! Who called whom, for whoever asks this replica; in plain values.

use serde_json::{Value, json};
use weft_proto::replica::EdgesResponse;

use crate::serve::edges::{Caller, Row, Target, tls_word};
use crate::serve::replicas::{Asked, Edges};

/// The whole answer.
pub(super) fn describe(edges: &Edges) -> Value {
    let answers = || edges.asked.iter().filter_map(|it| it.answer.as_ref().ok());
    let watchers = &edges.merged.watchers;
    let connected = watchers.iter().filter(|it| it.gone_seconds.is_none());
    json!({
        "replicas": edges.asked.iter().map(replica).collect::<Value>(),
        "sidecars": connected.count(),
        "forgotten": watchers.iter().map(|it| it.forgotten).sum::<u64>(),
        "leftOut": answers().map(|it| u64::from(it.left_out)).sum::<u64>(),
        "edges": edges.merged.rows.iter().map(row).collect::<Value>(),
        "permissive": edges.targets.iter().map(target).collect::<Value>(),
    })
}

fn replica(asked: &Asked<EdgesResponse>) -> Value {
    let answer = asked.answer.as_ref();
    json!({
        "name": answer.map(|answer| &*answer.replica).unwrap_or_default(),
        "address": asked.address.map(|address| address.to_string()),
        "error": answer.err(),
    })
}

fn row(row: &Row) -> Value {
    json!({
        "from": {"kind": row.from.kind(), "name": row.from.name()},
        "to": {"namespace": row.to.namespace, "name": row.to.name},
        "port": row.port,
        "tls": tls_word(row.tls),
        "connections": row.connections,
        "requests": row.requests,
        "lastSeconds": row.last_seconds,
    })
}

fn target(target: &Target) -> Value {
    json!({
        "namespace": target.namespace,
        "service": target.service,
        "workloads": target.workloads,
        "silent": target.silent,
        "silentNames": target.silent_names,
        "watchedSeconds": target.watched_seconds,
        "callers": target.callers.iter().map(caller).collect::<Value>(),
    })
}

fn caller(caller: &Caller) -> Value {
    json!({
        "from": {"kind": caller.from.kind(), "name": caller.from.name()},
        "tls": tls_word(caller.tls),
        "lastSeconds": caller.last_seconds,
    })
}
