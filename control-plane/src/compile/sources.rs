//! Which policies a resource is made from.
//!
//! A policy is a source of a resource where one of its stanzas is in it: on the client's side what is
//! enforced there, on the server's side mTLS, authorization, rate limits and access logs. Sources of an inbound port
//! are all that had a say, also where somebody stricter decided. A policy whose stanzas somebody inner
//! replaces is no source, and neither is one that only keeps another one out of force, by being older or
//! stricter. Endpoints and the trust bundle are nobody's policy: identities follow from mTLS, which the
//! servers' sidecars enforce and count.

use std::collections::BTreeSet;

use weft_proto::discovery::outbound::Target;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{AuthorityKey, OutboundKey, ResourceKey, ServiceRef, update};

use super::authority::{self, Authority};
use super::{Client, access_log, compile, outbound, rate_limit, read_ip, read_port};
use crate::index::{Destination, Model, Name, Said, Service, ServicePort};
use crate::policy::{Fallback, Rule, Split, WhenEmpty};

/// What holds for a request or a backend, whoever matches it.
const CLIENT_STANZAS: [&str; 6] = [
    "timeouts",
    "retries",
    "circuitBreaker",
    "loadBalancer",
    "faultInjection",
    "accessLog",
];

/// The policies that [`compile`]'s answer to the same question is made from.
pub fn sources(model: &Model, client: &Client, key: &ResourceKey) -> BTreeSet<Name> {
    let mut found = Sources {
        model,
        policies: BTreeSet::new(),
    };
    match &key.kind {
        Some(Kind::Outbound(OutboundKey { ip, port })) => {
            if let (Some(ip), Some(port)) = (read_ip(ip), read_port(*port)) {
                found.of_address(client, ip, port, key);
            }
        }
        Some(Kind::Authority(AuthorityKey { authority })) => match authority::parse(authority) {
            Some(Authority::Address(ip, port)) => found.of_address(client, ip, port, key),
            Some(Authority::Host(host, port)) => {
                let service = authority::service(model, &client.namespace, host);
                let port = service.and_then(|service| service.port(port));
                if let (Some(service), Some(port)) = (service, port) {
                    found.of_service(client, service, port, key);
                }
            }
            None => {}
        },
        Some(Kind::Inbound(inbound)) => {
            if let Ok(port) = u16::try_from(inbound.port) {
                found.of_inbound(client, port);
            }
        }
        Some(Kind::Endpoints(_) | Kind::TrustBundle(_)) | None => {}
    }
    found.policies
}

struct Sources<'m> {
    model: &'m Model,
    policies: BTreeSet<Name>,
}

impl Sources<'_> {
    fn of_address(&mut self, client: &Client, ip: std::net::IpAddr, port: u16, key: &ResourceKey) {
        let model = self.model;
        match model.destination(ip) {
            Some(Destination::Service(service)) => {
                if let Some(port) = service.port(port) {
                    self.of_service(client, service, port, key);
                }
            }
            Some(Destination::Workload(workload)) => {
                let backed: Vec<_> = model.backed_by_workload(workload, port).collect();
                self.of_endpoint(&backed, &workload.name.namespace);
            }
            Some(Destination::Address(ip)) => {
                let backed: Vec<_> = model.backed_by_address(ip, port).collect();
                if let Some((service, _)) = backed.first() {
                    self.of_endpoint(&backed, &service.name.namespace);
                }
            }
            None => {}
        }
    }

    /// A service port as clients address it.
    fn of_service(
        &mut self,
        client: &Client,
        service: &Service,
        port: &ServicePort,
        key: &ResourceKey,
    ) {
        let model = self.model;
        let is_attached = !model.routes(service, port, &client.namespace).is_empty();
        let policy = model.policy(service, port);
        for stanza in CLIENT_STANZAS {
            self.first(model.said(service, port, stanza));
        }
        self.first(model.said(service, port, "fallback"));
        // Routes have matching and weights in the place of a policy's.
        let keeps_users = |split: &Split| split.sticky.is_some() || split.mirror.is_some();
        let has_more = |split: &Split| keeps_users(split) || split.when_empty != WhenEmpty::Fail;
        let splits = model.said(service, port, "split");
        if !is_attached || splits.len() > 1 || policy.split.as_deref().is_some_and(has_more) {
            self.first(splits);
        }
        if !is_attached {
            self.first(model.said(service, port, "rules"));
        }

        let is_alone = !is_attached
            && policy.split.is_none()
            && policy.rules.is_none()
            && policy.fallback.is_none_or(|it| it.backend.is_none());
        if is_alone {
            return;
        }
        let update::Resource::Outbound(outbound) = compile(model, client, key) else {
            return;
        };
        let Some(Target::Service(target)) = outbound.target else {
            return;
        };
        let backends = target.backends.into_iter().filter_map(|it| it.service);
        for backend in backends.filter(|it| Some(it) != target.service.as_ref()) {
            self.of_backend(&backend);
        }
    }

    /// An endpoint by its own address: one place, so that nothing leads elsewhere.
    fn of_endpoint(&mut self, backed: &[(&Service, &ServicePort)], namespace: &str) {
        let model = self.model;
        let Some((service, port)) = outbound::only_service(backed) else {
            for stanza in CLIENT_STANZAS {
                self.policies.extend(
                    model
                        .said_of_namespace(namespace, stanza)
                        .map(|said| said.policy),
                );
            }
            return;
        };
        for stanza in CLIENT_STANZAS {
            self.first(model.said(service, port, stanza));
        }
        let fallbacks = model.said(service, port, "fallback");
        let answers = |fallback: &Fallback| fallback.backend.is_none();
        // One to another backend hides an outer policy's, which may be an answer.
        if fallbacks.len() > 1
            || model
                .policy(service, port)
                .fallback
                .as_deref()
                .is_some_and(answers)
        {
            self.first(fallbacks);
        }
        self.first(model.said(service, port, "rules"));
    }

    /// What another service's own policy says of connections to it.
    fn of_backend(&mut self, backend: &ServiceRef) {
        let model = self.model;
        let service = model.service(&backend.namespace, &backend.name);
        let number = read_port(backend.port);
        let port = service.zip(number).and_then(|(it, port)| it.port(port));
        let (Some(service), Some(port)) = (service, port) else {
            return;
        };
        for stanza in ["circuitBreaker", "loadBalancer"] {
            self.first(model.said_of_own(service, port, stanza));
        }
        let timeouts = model.said_of_own(service, port, "timeouts");
        let own = model.own_policy(service, port).timeouts;
        // One without it hides its service's, which may have it.
        if own.is_some_and(|own| own.connect.is_some()) || timeouts.len() > 1 {
            self.first(timeouts);
        }
    }

    /// A port of the caller's own workload.
    fn of_inbound(&mut self, client: &Client, port: u16) {
        let model = self.model;
        let namespace = &client.namespace;
        let Some(workload) = model
            .workload(namespace, &client.workload)
            .filter(|workload| workload.service_account == client.service_account)
        else {
            return;
        };
        let services: Vec<_> = model.backed_by_workload(workload, port).collect();
        let of_namespace = |stanza| {
            let said = model.said_of_namespace(namespace, stanza);
            said.map(|said| said.policy)
        };

        self.policies.extend(of_namespace("mtls"));
        let mut is_listed = false;
        for (service, port) in &services {
            self.first(model.said_of_own(service, port, "mtls"));
            let lists = model.said_of_own(service, port, "authorization");
            is_listed |= !lists.is_empty();
            self.first(lists);
            self.first(model.said(service, port, "rateLimit"));
            self.first(model.said(service, port, "accessLog"));
            let lists = model.said(service, port, "rules");
            let rules = model.policy(service, port).rules;
            let acts = |rules: &[Rule]| rate_limit::has_limit(rules) || access_log::has_log(rules);
            // Rules that say nothing here hide those of an outer policy, which may.
            if rules.is_some_and(|rules| acts(&rules)) || lists.len() > 1 {
                self.first(lists);
            }
        }
        if !is_listed {
            self.policies.extend(of_namespace("authorization"));
        }
        if services.is_empty() {
            self.policies.extend(of_namespace("rateLimit"));
            self.policies.extend(of_namespace("accessLog"));
        }
    }

    /// The innermost says what holds.
    fn first(&mut self, said: Vec<Said>) {
        self.policies
            .extend(said.into_iter().next().map(|said| said.policy));
    }
}
