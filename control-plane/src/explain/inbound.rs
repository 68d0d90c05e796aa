//! What the sidecars of a service's workloads enforce.

use serde::Serialize;
use weft_proto::discovery::AllowList;

use super::stanzas::mode_tree;
use super::{Source, Tree, resolve};
use crate::compile::allow_list;
use crate::index::{
    DEFAULT_MTLS, EndpointName, Model, Service, ServiceEndpoint, ServicePort, Stanzas, Workload,
};
use crate::policy::Rule;

/// What holds for a port of workloads.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    /// The workloads, as `namespace/name`, or addresses without one.
    pub workloads: Vec<String>,
    /// Their port.
    pub port: u16,
    /// Whether a sidecar serves them: without one nothing is enforced.
    pub meshed: bool,
    /// Every service port that leads there, as `namespace/name:port`.
    pub services: Vec<String>,
    /// Whether several services lead there, so that all of their policies hold.
    pub overlapping: bool,
    /// The strictest mode, and who said it.
    pub mtls: Enforced,
    /// Every one must allow a request.
    pub authorization: Vec<Enforced>,
    /// Every one must admit a request.
    pub rate_limits: Vec<Enforced>,
    /// For each request the one that logs most has a line about it.
    pub access_logs: Vec<Enforced>,
}

/// A stanza that a server's sidecar enforces.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Enforced {
    /// Who said it.
    pub from: Vec<Source>,
    /// The rule that it holds for; all requests where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Its values.
    pub value: Tree,
}

type Leading<'a> = (&'a Service, &'a ServicePort);

pub(super) fn of(model: &Model, service: &Service, port: &ServicePort) -> Vec<Inbound> {
    let mut alike: Vec<Inbound> = Vec::new();
    for endpoint in &service.endpoints {
        let inbound = match endpoint {
            ServiceEndpoint::Address(endpoint) => {
                match port.target_of(&EndpointName::Address(endpoint.ip)) {
                    Some(target) => unmeshed(endpoint.ip.to_string(), target),
                    None => continue,
                }
            }
            ServiceEndpoint::Workload(name) => {
                let namespace = &service.name.namespace;
                let Some(workload) = model.workload(namespace, name) else {
                    continue;
                };
                let Some(target) = port.target_of(&EndpointName::Workload(name.clone())) else {
                    continue;
                };
                if workload.meshed {
                    meshed(model, workload, target)
                } else {
                    unmeshed(workload.name.to_string(), target)
                }
            }
        };
        let same = alike.iter_mut().find(|known| {
            let workloads = inbound.workloads.clone();
            Inbound {
                workloads,
                ..(**known).clone()
            } == inbound
        });
        match same {
            Some(known) => known.workloads.extend(inbound.workloads),
            None => alike.push(inbound),
        }
    }
    alike
}

fn unmeshed(name: String, port: u16) -> Inbound {
    Inbound {
        workloads: vec![name],
        port,
        meshed: false,
        services: Vec::new(),
        overlapping: false,
        mtls: Enforced {
            from: Vec::new(),
            rule: None,
            value: Tree::Null,
        },
        authorization: Vec::new(),
        rate_limits: Vec::new(),
        access_logs: Vec::new(),
    }
}

fn meshed(model: &Model, workload: &Workload, port: u16) -> Inbound {
    let leading: Vec<Leading<'_>> = model.backed_by_workload(workload, port).collect();
    let named = |(service, port): &Leading<'_>| format!("{}:{}", service.name, port.port);
    let overlapping = leading
        .iter()
        .any(|(service, _)| service.name != leading[0].0.name);
    Inbound {
        workloads: vec![workload.name.to_string()],
        port,
        meshed: true,
        services: leading.iter().map(named).collect(),
        overlapping,
        mtls: mtls(model, workload, port, &leading),
        authorization: authorization(model, &workload.name.namespace, &leading),
        rate_limits: rate_limits(model, &leading),
        access_logs: access_logs(model, &leading),
    }
}

fn mtls(model: &Model, workload: &Workload, port: u16, leading: &[Leading<'_>]) -> Enforced {
    let mode = model.inbound_mtls(workload, port);
    let namespace = &workload.name.namespace;
    let mut from = Vec::new();
    let mut add = |source: Source| {
        if !from.contains(&source) {
            from.push(source);
        }
    };
    for (service, port) in leading {
        if model.own_policy(service, port).mtls == Some(mode) {
            let said = model.said_of_own(service, port, "mtls");
            if let Some(said) = said.into_iter().next() {
                add(said.into());
            }
        }
    }
    if model.namespace_policy(namespace).mtls == Some(mode)
        && let Some(said) = model.said_of_namespace(namespace, "mtls")
    {
        add(said.into());
    }
    if model.minimum_mtls() == Some(mode) {
        add(Source::MeshFile);
    }
    if from.is_empty() && mode == DEFAULT_MTLS {
        from.push(Source::MeshDefault);
    }
    Enforced {
        from,
        rule: None,
        value: mode_tree(mode),
    }
}

/// In the order of the compiler's lists: one for each that is another list.
fn authorization(model: &Model, namespace: &str, leading: &[Leading<'_>]) -> Vec<Enforced> {
    let mut lists: Vec<(AllowList, Enforced)> = Vec::new();
    let mut add = |policy: &crate::policy::Authorization, source: Option<Source>| {
        let list = allow_list(policy, namespace, model.trust_domain());
        match lists.iter_mut().find(|(known, _)| *known == list) {
            Some((_, enforced)) => enforced.from.extend(source),
            None => lists.push((
                list,
                Enforced {
                    from: source.into_iter().collect(),
                    rule: None,
                    value: Tree::of(policy),
                },
            )),
        }
    };
    for (service, port) in leading {
        if let Some(policy) = model.own_policy(service, port).authorization {
            let said = model.said_of_own(service, port, "authorization");
            add(&policy, said.into_iter().next().map(Source::from));
        }
    }
    if lists.is_empty() {
        lists.extend(unsaid(model, namespace).map(|enforced| (AllowList::default(), enforced)));
    }
    lists
        .into_iter()
        .map(|(_, mut enforced)| {
            enforced.from.dedup();
            enforced
        })
        .collect()
}

/// What holds where no service's policy says who may call: the namespace's, else the mesh's default.
fn unsaid(model: &Model, namespace: &str) -> Option<Enforced> {
    let enforced = |from: Option<Source>, value| Enforced {
        from: from.into_iter().collect(),
        rule: None,
        value,
    };
    if let Some(policy) = model.namespace_policy(namespace).authorization {
        let said = model.said_of_namespace(namespace, "authorization");
        return Some(enforced(said.map(Source::from), Tree::of(&*policy)));
    }
    let default = model.default_authorization()?;
    Some(enforced(Some(Source::MeshFile), Tree::of(&default)))
}

fn rate_limits(model: &Model, leading: &[Leading<'_>]) -> Vec<Enforced> {
    with_rules(model, leading, "rateLimit", |policy, rule| {
        let limit = match rule {
            Some(rule) => rule.rate_limit.as_ref(),
            None => policy.rate_limit.as_deref(),
        };
        limit.map(|limit| Tree::of(&resolve::rate_limit(limit)))
    })
}

fn access_logs(model: &Model, leading: &[Leading<'_>]) -> Vec<Enforced> {
    with_rules(model, leading, "accessLog", |policy, rule| {
        let log = match rule {
            Some(rule) => rule.access_log.as_ref(),
            None => policy.access_log.as_deref(),
        };
        log.map(Tree::of)
    })
}

/// A stanza of every service that leads to a port: those of its rules, then its own; equal ones once.
fn with_rules(
    model: &Model,
    leading: &[Leading<'_>],
    stanza: &'static str,
    said: impl Fn(&Stanzas, Option<&Rule>) -> Option<Tree>,
) -> Vec<Enforced> {
    let mut all: Vec<Enforced> = Vec::new();
    for (service, port) in leading {
        let policy = model.policy(service, port);
        let rules = policy.rules.iter().flat_map(|rules| rules.iter());
        let of_rules =
            rules.filter_map(|rule| Some(("rules", Some(&rule.name), said(&policy, Some(rule))?)));
        let own = said(&policy, None).map(|value| (stanza, None, value));
        for (stanza, rule, value) in of_rules.chain(own) {
            let from = model.said(service, port, stanza).into_iter();
            let enforced = Enforced {
                from: from.take(1).map(Source::from).collect(),
                rule: rule.cloned(),
                value,
            };
            if !all.contains(&enforced) {
                all.push(enforced);
            }
        }
    }
    all
}
