//! The effective policy of a service port.

use serde::Serialize;

use super::{Source, Tree, resolve};
use crate::compile::{DEFAULT_CONNECT, default_retries};
use crate::index::{DEFAULT_MTLS, Model, Service, ServicePort};
use crate::policy::{LoadBalancer, Timeouts};

/// One stanza as it holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stanza {
    /// Its name in YAML; `connect` stands beside the other `timeouts`.
    pub name: &'static str,
    /// Who said it.
    pub from: Source,
    /// Who said it too, and is not heard because somebody said it closer by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instead_of: Vec<Source>,
    /// Its values; nothing where nothing holds.
    pub value: Tree,
}

/// A rule, and what it replaces.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Who said it.
    pub from: Source,
    /// What it matches: any of these.
    pub matches: Tree,
    /// The stanzas that hold instead of the port's; `instead_of` says whose would else.
    pub stanzas: Vec<RuleStanza>,
}

/// A stanza of a rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleStanza {
    /// Its name in YAML.
    pub name: String,
    /// Whose stanza it replaces.
    pub instead_of: Source,
    /// Its values.
    pub value: Tree,
}

pub(super) fn of(model: &Model, service: &Service, port: &ServicePort) -> Vec<Stanza> {
    let policy = model.policy(service, port);
    let addressed = port.port;
    let timeouts = policy.timeouts.as_deref();
    let connect = timeouts.and_then(|timeouts| timeouts.connect);
    let no_connect = timeouts.map(|timeouts| Timeouts {
        connect: None,
        ..timeouts.clone()
    });
    let split = policy.split.map(|it| resolve::split(&it, addressed));
    let limit = policy.rate_limit.map(|it| resolve::rate_limit(&it));
    let stanza = |name, value: Option<Tree>, default: Option<Tree>| {
        let mut said = model.said(service, port, name).into_iter();
        let first = said.next().filter(|_| value.is_some());
        Stanza {
            name,
            from: first.map_or(Source::MeshDefault, Source::from),
            instead_of: said.map(Source::from).collect(),
            value: value.or(default).unwrap_or(Tree::Null),
        }
    };

    let mode = policy
        .mtls
        .map(|mode| mode.max(model.minimum_mtls().unwrap_or(mode)));
    let mut mtls = stanza("mtls", mode.map(mode_tree), None);
    if mode.is_none() {
        let minimum = model.minimum_mtls();
        mtls.value = mode_tree(minimum.unwrap_or(DEFAULT_MTLS));
        mtls.from = minimum.map_or(Source::MeshDefault, |_| Source::MeshFile);
    }
    let mut connect_stanza = stanza("timeouts", connect.as_ref().map(Tree::of), None);
    connect_stanza.name = "connect";
    if connect.is_none() {
        connect_stanza.instead_of.clear();
        connect_stanza.value = Tree::of(&DEFAULT_CONNECT);
    }
    let mut authorization = stanza(
        "authorization",
        policy.authorization.as_deref().map(Tree::of),
        None,
    );
    if policy.authorization.is_none()
        && let Some(default) = model.default_authorization()
    {
        authorization.value = Tree::of(&default);
        authorization.from = Source::MeshFile;
    }
    let tree_of = |value: &_| Tree::of(value);
    vec![
        mtls,
        authorization,
        stanza("timeouts", no_connect.as_ref().map(tree_of), None),
        connect_stanza,
        stanza(
            "retries",
            policy.retries.as_deref().map(Tree::of),
            Some(Tree::of(&default_retries())),
        ),
        stanza(
            "circuitBreaker",
            policy.circuit_breaker.as_deref().map(Tree::of),
            None,
        ),
        stanza(
            "loadBalancer",
            policy.load_balancer.as_deref().map(Tree::of),
            Some(Tree::of(&LoadBalancer::default())),
        ),
        stanza("split", split.as_ref().map(Tree::of), None),
        stanza("rateLimit", limit.as_ref().map(Tree::of), None),
        stanza(
            "faultInjection",
            policy.fault_injection.as_deref().map(Tree::of),
            None,
        ),
        stanza("fallback", policy.fallback.as_deref().map(Tree::of), None),
        stanza(
            "accessLog",
            policy.access_log.as_deref().map(Tree::of),
            None,
        ),
    ]
}

pub(super) fn rules(model: &Model, service: &Service, port: &ServicePort) -> Vec<Rule> {
    let source = |stanza: &str| {
        let mut said = model.said(service, port, stanza).into_iter();
        said.next().map_or(Source::MeshDefault, Source::from)
    };
    let rules = model.policy(service, port).rules;
    let rules = rules.iter().flat_map(|rules| rules.iter());
    rules
        .map(|rule| {
            let resolved = Tree::of(&resolve::rule(rule, port.port));
            let matches = resolved.field("matches").cloned();
            let fields = match resolved {
                Tree::Map(fields) => fields,
                _ => Vec::new(),
            };
            let stanzas = fields.into_iter();
            Rule {
                name: rule.name.clone(),
                from: source("rules"),
                matches: matches.unwrap_or(Tree::Null),
                stanzas: stanzas
                    .filter(|(name, _)| name != "name" && name != "matches")
                    .map(|(name, value)| RuleStanza {
                        instead_of: source(&name),
                        name,
                        value,
                    })
                    .collect(),
            }
        })
        .collect()
}

/// A mode as the stanza that says it.
pub(super) fn mode_tree(mode: crate::policy::MtlsMode) -> Tree {
    Tree::of(&crate::policy::Mtls { mode })
}
