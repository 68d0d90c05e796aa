//! Whose connection-level policy holds for each backend.

use serde::Serialize;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{
    AuthorityKey, EndpointsKey, ResourceKey, ServiceRef, outbound, update,
};

use super::{Source, Tree};
use crate::compile::{Client, DEFAULT_CONNECT, compile};
use crate::index::{Model, Service, ServicePort};
use crate::policy::LoadBalancer;

/// A backend of a service port.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedBackend {
    /// The backend, as `namespace/name:port`.
    pub backend: String,
    /// How many endpoints clients are told of; `None` where there is no such service port.
    pub endpoints: Option<usize>,
    /// What holds for connections to it: connect, circuitBreaker and loadBalancer.
    pub stanzas: Vec<Connection>,
}

/// A stanza about connections.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Its name in YAML.
    pub name: &'static str,
    /// Who said it.
    pub from: Source,
    /// Whose it is: the backend's own, or the addressed service's.
    pub own: bool,
    /// Its values; nothing where nothing holds.
    pub value: Tree,
}

pub(super) fn of(
    model: &Model,
    service: &Service,
    port: &ServicePort,
    client_namespace: &str,
) -> Vec<ExplainedBackend> {
    let name = &service.name;
    let client = Client {
        namespace: client_namespace.to_owned(),
        service_account: String::new(),
        workload: String::new(),
        zone: String::new(),
    };
    // The compiler says which backends there are: of the split, of rules' splits, of fallbacks, of routes.
    let authority = format!("{}.{}:{}", name.name, name.namespace, port.port);
    let key = Kind::Authority(AuthorityKey { authority });
    let compiled = compile(model, &client, &ResourceKey { kind: Some(key) });
    let update::Resource::Outbound(compiled) = compiled else {
        return Vec::new();
    };
    let Some(outbound::Target::Service(target)) = compiled.target else {
        return Vec::new();
    };
    let backends = target.backends.into_iter();
    backends
        .filter_map(|backend| backend.service)
        .map(|backend| ExplainedBackend {
            backend: format!("{}/{}:{}", backend.namespace, backend.name, backend.port),
            endpoints: endpoints(model, &client, &backend),
            stanzas: stanzas(model, (service, port), &backend),
        })
        .collect()
}

fn endpoints(model: &Model, client: &Client, backend: &ServiceRef) -> Option<usize> {
    let kind = Some(Kind::Endpoints(EndpointsKey {
        service: Some(backend.clone()),
    }));
    match compile(model, client, &ResourceKey { kind }) {
        update::Resource::Endpoints(endpoints) => Some(endpoints.endpoints.len()),
        _ => None,
    }
}

/// The backend's own, else the addressed service's; one level only, as the compiler does it.
fn stanzas(
    model: &Model,
    (service, port): (&Service, &ServicePort),
    backend: &ServiceRef,
) -> Vec<Connection> {
    let number = u16::try_from(backend.port).unwrap_or(0);
    let is_addressed = service.name.namespace == backend.namespace
        && service.name.name == backend.name
        && port.port == number;
    let own_port = model
        .service(&backend.namespace, &backend.name)
        .and_then(|own| Some((own, own.port(number)?)))
        .filter(|_| !is_addressed);
    let own = own_port.map_or_else(Default::default, |(own, port)| model.own_policy(own, port));
    let addressed = model.policy(service, port);
    let connection = |name, stanza, own: Option<Tree>, addressed: Option<Tree>, default: Tree| {
        let from_own = own.is_some();
        let said = match own_port {
            Some((service, port)) if from_own => model.said_of_own(service, port, stanza),
            _ if addressed.is_some() => model.said(service, port, stanza),
            _ => Vec::new(),
        };
        let source = said.into_iter().next();
        Connection {
            name,
            from: source.map_or(Source::MeshDefault, Source::from),
            own: from_own,
            value: own.or(addressed).unwrap_or(default),
        }
    };
    let connect = |timeouts: &Option<std::sync::Arc<crate::policy::Timeouts>>| {
        let connect = timeouts.as_ref()?.connect?;
        Some(Tree::of(&connect))
    };
    vec![
        connection(
            "connect",
            "timeouts",
            connect(&own.timeouts),
            connect(&addressed.timeouts),
            Tree::of(&DEFAULT_CONNECT),
        ),
        connection(
            "circuitBreaker",
            "circuitBreaker",
            own.circuit_breaker.as_deref().map(Tree::of),
            addressed.circuit_breaker.as_deref().map(Tree::of),
            Tree::Null,
        ),
        connection(
            "loadBalancer",
            "loadBalancer",
            own.load_balancer.as_deref().map(Tree::of),
            addressed.load_balancer.as_deref().map(Tree::of),
            Tree::of(&LoadBalancer::default()),
        ),
    ]
}
