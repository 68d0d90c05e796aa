//! The sidecars of this replica, for whoever asks.

use std::time::SystemTime;

use weft_proto::replica::{ProxiesResponse, Proxy, RefusedResource};

use super::wire::MAX_WORKLOADS;
use crate::serve::admin::describe;
use crate::serve::counts::{client, is_confirmed, refusal};
use crate::serve::memo::Memo;
use crate::serve::streams::{Standing, Streams};

/// Refusals that are told of a sidecar.
const MAX_REFUSED: usize = 3;

/// Everybody who is connected here, as of now.
pub(super) fn list(replica: &str, memo: &Memo, streams: &Streams) -> ProxiesResponse {
    let standing = streams.standing();
    let some = standing.iter().take(MAX_WORKLOADS);
    ProxiesResponse {
        replica: replica.to_owned(),
        model_revision: memo.model().revision(),
        proxies: some.map(|one| proxy(memo, one)).collect(),
    }
}

fn proxy(memo: &Memo, one: &Standing) -> Proxy {
    let who = &*one.introduction;
    let client = client(who);
    let mut behind = 0;
    let mut behind_since: Option<SystemTime> = None;
    let mut refused = Vec::new();
    for (key, held) in one.held.iter() {
        let (newest, _) = memo.resource(&client, key);
        if is_confirmed(held, &newest) {
            continue;
        }
        behind += 1;
        let since = newest.created_at.max(held.since);
        behind_since = Some(behind_since.map_or(since, |known| known.min(since)));
        if let Some(reason) = refusal(held, &newest) {
            let (resource, reason) = (describe(key), reason.to_owned());
            refused.push(RefusedResource { resource, reason });
        }
    }
    refused.sort_by(|a, b| a.resource.cmp(&b.resource));
    refused.truncate(MAX_REFUSED);
    let in_force = one.held.values().filter_map(|held| held.in_force.as_ref());
    let newest = in_force.max_by_key(|version| version.source_revision);
    Proxy {
        namespace: who.workload.namespace.clone(),
        workload: who.workload.name.clone(),
        service_account: who.service_account.clone(),
        zone: who.zone.clone(),
        version: who.proxy_version.clone(),
        since: Some(one.since.into()),
        resources: one.held.len() as u32,
        behind,
        behind_since: behind_since.map(Into::into),
        source_revision: newest.map_or(0, |version| version.source_revision),
        updated_at: newest.and_then(|version| version.created_at),
        refused,
    }
}
