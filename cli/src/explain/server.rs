//! What the sidecars of the servers make of a caller and its request.

use http::Request;
use serde::Serialize;
use weft_control_plane::compile::{Client, compile};
use weft_control_plane::explain::{Enforced, Explained, Explainer, Inbound, find_service};
use weft_control_plane::index::Workload;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{InboundKey, ResourceKey, update};
use weft_proto::spiffe::SpiffeId;
use weft_proxy::inbound::authorize::{Decision, Wish, authorize};
use weft_proxy::policy::{AllowEntry, AllowList, InboundPolicy, MtlsMode, RateLimitRule, decode};
use weft_proxy::resilience::route;

use super::verdict::Destination;

/// Workloads that answer alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Server {
    pub(super) workloads: Vec<String>,
    /// The identity that the caller proves to them; none where it proves nothing.
    pub(super) caller: Option<String>,
    /// `allowed`, `audited`, `denied`, `mtlsRequired`, `notEnforced`, or `dependsOnCaller`.
    pub(super) verdict: &'static str,
    /// In words, one for each authorization.
    pub(super) because: Vec<String>,
    /// The limits that must admit it.
    pub(super) rate_limits: Vec<Enforced>,
}

/// Every group of workloads that the request may reach.
pub(super) fn of(
    explainer: &Explainer,
    explained: &Explained,
    destination: &Destination,
    from: Option<&Workload>,
    request: Option<&Request<()>>,
) -> anyhow::Result<Vec<Server>> {
    let mut servers: Vec<Server> = Vec::new();
    for side in &destination.ranges {
        let reached = match &destination.backend {
            Some(backend) => *backend == side.backend,
            None => side.weight > 0,
        };
        let Some((name, port)) = side.backend.split_once(':').filter(|_| reached) else {
            continue;
        };
        let (namespace, name) = name.split_once('/').unwrap_or_default();
        // A backend that is not there has no server.
        let found = find_service(explainer.model(), Some(namespace), name, Some(port));
        let Ok((service, ports)) = found else {
            continue;
        };
        for port in ports {
            let inbound = explainer
                .explain(service, port, &explained.client_namespace)
                .inbound;
            for group in inbound {
                let server = judge(explainer, &group, from, request)?;
                if !servers.contains(&server) {
                    servers.push(server);
                }
            }
        }
    }
    Ok(servers)
}

/// What one group says, of a request or of the caller alone.
pub(super) fn judge(
    explainer: &Explainer,
    group: &Inbound,
    from: Option<&Workload>,
    request: Option<&Request<()>>,
) -> anyhow::Result<Server> {
    let mut server = Server {
        workloads: group.workloads.clone(),
        caller: None,
        verdict: "notEnforced",
        because: Vec::new(),
        rate_limits: request.map_or_else(Vec::new, |_| group.rate_limits.clone()),
    };
    let Some(policy) = compiled(explainer, group)? else {
        return Ok(server);
    };
    if let Some(request) = request {
        let deciding = deciding_rules(&policy, request);
        server
            .rate_limits
            .retain(|limit| deciding.contains(&limit.rule.as_deref()));
    }
    let Some(from) = from else {
        server.verdict = match (&policy.authorization[..], policy.mtls) {
            ([], MtlsMode::Disabled | MtlsMode::Permissive) => "allowed",
            _ => "dependsOnCaller",
        };
        return Ok(server);
    };
    let model = explainer.model();
    let meshed = from.meshed && policy.mtls != MtlsMode::Disabled;
    let identity = SpiffeId::new(
        model.trust_domain(),
        &from.name.namespace,
        &from.service_account,
    );
    let caller = identity.ok().filter(|_| meshed);
    server.caller = caller.as_ref().map(ToString::to_string);
    if caller.is_none() && policy.mtls == MtlsMode::Strict {
        server.verdict = "mtlsRequired";
        return Ok(server);
    }

    let lists: Vec<AllowList> = match request {
        Some(_) => policy.authorization.clone(),
        // Of the caller alone: whether any request of its could pass.
        None => policy.authorization.iter().map(whoever_asks).collect(),
    };
    let wish = request.map_or(Wish::Bytes, |request| Wish::Request {
        method: request.method(),
        path: request.uri().path(),
    });
    server.verdict = match authorize(&lists, caller.as_ref(), wish) {
        Decision::Allow => "allowed",
        Decision::AllowAudited => "audited",
        Decision::Deny => "denied",
    };
    let written = policy.authorization.iter().zip(&group.authorization);
    for (list, (written, enforced)) in lists.iter().zip(written) {
        let alone = |entry: &AllowEntry| {
            let entries = vec![entry.clone()];
            let audit = false;
            authorize(&[AllowList { entries, audit }], caller.as_ref(), wish) == Decision::Allow
        };
        let mut allowing: Vec<_> = list.entries.iter().map(alone).enumerate().collect();
        allowing.retain(|(_, allows)| *allows);
        let named: Vec<_> = match request {
            Some(_) => allowing
                .first()
                .map(|(at, _)| format!("entry {}", at + 1))
                .into_iter()
                .collect(),
            None => allowing
                .iter()
                .map(|(at, _)| described(&written.entries[*at], at + 1))
                .collect(),
        };
        let sources: Vec<_> = enforced.from.iter().map(ToString::to_string).collect();
        let sources = sources.join(" and ");
        server.because.push(match &named[..] {
            [] if list.audit => format!("{sources} would deny it, and only audits"),
            [] => format!("denied: no entry of {sources} allows it"),
            named => format!("allowed by {} of {sources}", named.join(" and ")),
        });
    }
    Ok(server)
}

/// The rules whose limits a request meets; `None` stands for what holds without a rule.
fn deciding_rules<'p>(policy: &'p InboundPolicy, request: &Request<()>) -> Vec<Option<&'p str>> {
    let uri = request.uri();
    let matches = |rule: &&RateLimitRule| {
        let (method, headers) = (request.method(), request.headers());
        route::matches_any(&rule.matches, method, uri.path(), uri.query(), headers)
    };
    let of_rules = policy.ruled_rate_limits.iter().map(|limits| {
        let rule = limits.rules.iter().find(matches);
        rule.filter(|rule| rule.limit.is_some())
            .map(|rule| &*rule.name)
    });
    let plain = !policy.rate_limits.is_empty();
    of_rules.chain(plain.then_some(None)).collect()
}

/// An entry, with what it asks of requests.
fn described(entry: &AllowEntry, number: usize) -> String {
    let methods: Vec<_> = entry.methods.iter().map(ToString::to_string).collect();
    let paths: Vec<_> = entry.paths.iter().map(ToString::to_string).collect();
    let asks = [methods.join(" or "), paths.join(" or ")];
    let asks: Vec<_> = asks.into_iter().filter(|words| !words.is_empty()).collect();
    match &asks[..] {
        [] => format!("entry {number}"),
        asks => format!("entry {number} ({})", asks.join(" to ")),
    }
}

/// The same list without what it asks of requests.
fn whoever_asks(list: &AllowList) -> AllowList {
    let mut list = list.clone();
    for entry in &mut list.entries {
        entry.methods.clear();
        entry.paths.clear();
    }
    list
}

/// The group's policy as its sidecars understand it; `None` without a sidecar.
fn compiled(explainer: &Explainer, group: &Inbound) -> anyhow::Result<Option<InboundPolicy>> {
    let model = explainer.model();
    let workload = group.workloads.first().filter(|_| group.meshed);
    let workload = workload
        .and_then(|name| name.split_once('/'))
        .and_then(|(namespace, name)| model.workload(namespace, name));
    let Some(workload) = workload else {
        return Ok(None);
    };
    let client = Client {
        namespace: workload.name.namespace.clone(),
        service_account: workload.service_account.clone(),
        workload: workload.name.name.clone(),
        zone: workload.zone.clone(),
    };
    let kind = Some(Kind::Inbound(InboundKey {
        port: u32::from(group.port),
    }));
    match compile(model, &client, &ResourceKey { kind }) {
        update::Resource::Inbound(message) => Ok(Some(decode::inbound(&message)?)),
        _ => Ok(None),
    }
}
