//! What holds for the routes of each service port, whoever said which part of it.

use super::Severity;
use super::found::{Found, Said};
use super::view::{Policy, View, place};
use crate::compile;
use crate::index::{Service, ServicePort, Stanzas};
use crate::policy::{
    Fallback, HeaderMatch, HeaderMatchType, Method, PolicyDuration, QueryParamMatch, Retries,
    RetryCondition, Rule, Split, Timeouts, TrafficPolicySpec,
};

/// Protocol words by which a port may carry streams without an end.
const STREAMING: [&str; 3] = ["grpc", "h2c", "kubernetes.io/h2c"];

pub(super) fn check(found: &mut Found, view: &View<'_>) {
    for service in view.model.services() {
        for port in &service.ports {
            let addressed = Addressed {
                view,
                service,
                port,
                policy: view.model.policy(service, port),
            };
            addressed.check(found);
        }
    }
}

/// A service port with what holds for it.
struct Addressed<'a> {
    view: &'a View<'a>,
    service: &'a Service,
    port: &'a ServicePort,
    policy: Stanzas,
}

impl Addressed<'_> {
    fn check(&self, found: &mut Found) {
        let rules = self.policy.rules.as_deref().unwrap_or_default();
        for rule in rules.iter().map(Some).chain([None]) {
            self.check_timeouts(found, rule);
            self.check_retries(found, rule);
            self.check_streams(found, rule);
            self.check_split(found, rule);
            if self.view.has_mesh {
                self.check_backends(found, rule);
            }
        }
    }

    /// Limits that another limit of the same route keeps from ever running out.
    fn check_timeouts(&self, found: &mut Found, rule: Option<&Rule>) {
        let Some(timeouts) = self.timeouts(rule) else {
            return;
        };
        let (request, per_try) = (limit(timeouts.request), limit(timeouts.per_try));
        let retries = self.retries(rule);
        let attempts = retries.map_or_else(|| Retries::default().attempts, |it| it.attempts);
        if let (Some(request), Some(per_try)) = (request, per_try)
            && per_try >= request
            && attempts > 0
            && let Some(owner) = self.owner_of_timeouts(rule)
        {
            found.add_at(
                owner,
                self.place(rule),
                Said {
                    severity: Severity::Warning,
                    check: "per-try",
                    what: format!("perTry {per_try} is no shorter than request {request}"),
                    why: format!(
                        "one slow try uses the whole request up: none of the {attempts} retries \
                         can follow it"
                    ),
                    mend: "make perTry shorter than request, or leave it out".to_owned(),
                },
            );
        }
        let bound = match (request, per_try) {
            (Some(request), Some(per_try)) => Some(request.min(per_try)),
            (request, per_try) => request.or(per_try),
        };
        for (service, port) in self.backends(rule) {
            let Some((connect, owner)) = self.connect(service, port) else {
                continue;
            };
            if let Some(bound) = bound
                && connect > bound
            {
                found.add_at(
                    owner,
                    self.place(rule),
                    Said {
                        severity: Severity::Warning,
                        check: "connect",
                        what: format!("connect {connect} can never run out within {bound}"),
                        why: format!(
                            "requests or their tries end after {bound} there, before a \
                             connection that hangs is given up"
                        ),
                        mend: format!("use at most {bound}"),
                    },
                );
            }
        }
    }

    fn check_retries(&self, found: &mut Found, rule: Option<&Rule>) {
        let Some(retries) = self.retries(rule) else {
            return;
        };
        let timeouts = self.timeouts(rule);
        let has_per_try = timeouts.is_some_and(|timeouts| limit(timeouts.per_try).is_some());
        let waits_for = retries.conditions.contains(&RetryCondition::PerTryTimeout);
        if retries.attempts == 0 || !waits_for || has_per_try {
            return;
        }
        let own = rule.is_some_and(|rule| rule.retries.is_some());
        let Some(owner) = (if own {
            self.owner_of_rules()
        } else {
            self.owner_of_retries()
        }) else {
            return;
        };
        found.add_at(
            owner,
            self.place(rule),
            Said {
                severity: Severity::Warning,
                check: "per-try-timeout",
                what: "the retry condition PerTryTimeout can never come about".to_owned(),
                why: "no timeouts.perTry holds there".to_owned(),
                mend: "set timeouts.perTry, in the policy whose timeouts hold, or leave the \
                       condition out"
                    .to_owned(),
            },
        );
    }

    /// Sides of splits, mirrors and fallbacks that lead nowhere. That a service is missing is said by the
    /// model.
    fn check_backends(&self, found: &mut Found, rule: Option<&Rule>) {
        if let Some((split, owner)) = self.split_and_owner(rule) {
            for (name, port) in split.named() {
                self.check_backend(found, rule, owner, name, port);
            }
        }
        if let Some((fallback, owner)) = self.fallback_and_owner(rule)
            && let Some(backend) = &fallback.backend
        {
            self.check_backend(found, rule, owner, &backend.name, backend.port);
        }
    }

    fn check_backend(
        &self,
        found: &mut Found,
        rule: Option<&Rule>,
        owner: &Policy,
        name: &str,
        port: Option<u16>,
    ) {
        let wanted = port.unwrap_or(self.port.port);
        let namespace = &self.service.name.namespace;
        let Some(service) = self.view.model.service(namespace, name) else {
            return;
        };
        if service.port(wanted).is_some() {
            return;
        }
        let known: Vec<_> = service.ports.iter().map(|it| it.port.to_string()).collect();
        found.add_at(
            owner,
            self.place(rule),
            Said {
                severity: Severity::Error,
                check: "missing-port",
                what: format!("backend {name} has no port {wanted}"),
                why: "a backend without a port of its own takes the number that the client \
                      addressed; requests that go there find no endpoint"
                    .to_owned(),
                mend: format!("set port on the backend; it has {}", known.join(", ")),
            },
        );
    }

    /// Stickiness with nothing to stick to, and copies of what is never copied.
    fn check_split(&self, found: &mut Found, rule: Option<&Rule>) {
        let Some((split, owner)) = self.split_and_owner(rule) else {
            return;
        };
        let mut routes = self.view.model.routes_of_anybody(self.service, self.port);
        if split.sticky.is_some() && split.backends.is_empty() && routes.next().is_none() {
            found.add_at(
                owner,
                self.place(rule),
                Said {
                    severity: Severity::Warning,
                    check: "sticky-without-weights",
                    what: "split.sticky has no weights to act on".to_owned(),
                    why: "without split.backends it keeps users on the sides of a route that is attached \
                          to the service, and there is none"
                        .to_owned(),
                    mend: "name the backends, or leave sticky out".to_owned(),
                },
            );
        }
        let word = protocol_word(self.port);
        let no_copies = word == "grpc" || compile::is_opaque(self.view.model, self.port);
        if split.mirror.is_some() && no_copies {
            found.add_at(
                owner,
                self.place(rule),
                Said {
                    severity: Severity::Warning,
                    check: "mirror",
                    what: format!("nothing of port {} is ever copied", self.port.port),
                    why: format!(
                        "its protocol is {word}: only plain HTTP requests are copied, no gRPC and no other \
                         bytes"
                    ),
                    mend: "leave mirror out, or correct the port's protocol".to_owned(),
                },
            );
        }
    }

    /// A whole port that may carry streams, or a rule that can only mean streams. Any other rule says
    /// by itself which requests it bounds.
    fn check_streams(&self, found: &mut Found, rule: Option<&Rule>) {
        let streams = rule.map_or_else(|| may_stream(self.port), means_streams);
        let timeouts = self.timeouts(rule).filter(|_| streams);
        let Some(request) = timeouts.and_then(|timeouts| limit(timeouts.request)) else {
            return;
        };
        let Some(owner) = self.owner_of_timeouts(rule) else {
            return;
        };
        found.add_at(
            owner,
            self.place(rule),
            Said {
                severity: Severity::Warning,
                check: "streams",
                what: format!(
                    "the request timeout of {request} holds for a stream's beginning only"
                ),
                why:
                    "it ends no stream that lasts, and cuts off one whose answer begins later than \
                      that: a watch or a subscription waits for its first message"
                        .to_owned(),
                mend:
                    "bound streams with timeouts.stream and idle, and give request in a rule for \
                       the calls that are no streams"
                        .to_owned(),
            },
        );
    }

    fn timeouts<'b>(&'b self, rule: Option<&'b Rule>) -> Option<&'b Timeouts> {
        let own = rule.and_then(|rule| rule.timeouts.as_ref());
        own.or(self.policy.timeouts.as_deref())
    }

    fn retries<'b>(&'b self, rule: Option<&'b Rule>) -> Option<&'b Retries> {
        let own = rule.and_then(|rule| rule.retries.as_ref());
        own.or(self.policy.retries.as_deref())
    }

    fn owner_of_timeouts(&self, rule: Option<&Rule>) -> Option<&Policy> {
        if rule.is_some_and(|rule| rule.timeouts.is_some()) {
            return self.owner_of_rules();
        }
        let timeouts = self.policy.timeouts.as_deref()?;
        self.view
            .owner(self.service, self.port, timeouts, timeouts_of)
    }

    fn owner_of_retries(&self) -> Option<&Policy> {
        let retries = self.policy.retries.as_deref()?;
        let (service, port) = (self.service, self.port);
        self.view
            .owner(service, port, retries, |spec| spec.retries.as_ref())
    }

    fn owner_of_rules(&self) -> Option<&Policy> {
        let rules = self.policy.rules.as_deref()?;
        let (service, port) = (self.service, self.port);
        self.view
            .owner(service, port, rules, |spec| spec.rules.as_deref())
    }

    fn split_and_owner<'b>(&'b self, rule: Option<&'b Rule>) -> Option<(&'b Split, &'b Policy)> {
        let in_force = self.policy.split.as_deref();
        self.with_owner(
            rule,
            |rule| rule.split.as_ref(),
            in_force,
            |spec| spec.split.as_ref(),
        )
    }

    fn fallback_and_owner<'b>(
        &'b self,
        rule: Option<&'b Rule>,
    ) -> Option<(&'b Fallback, &'b Policy)> {
        let in_force = self.policy.fallback.as_deref();
        self.with_owner(
            rule,
            |rule| rule.fallback.as_ref(),
            in_force,
            |spec| spec.fallback.as_ref(),
        )
    }

    /// A stanza that a rule, or else the port, brings. What a rule inherits is said once, for the port.
    fn with_owner<'b, T: PartialEq>(
        &'b self,
        rule: Option<&'b Rule>,
        of_rule: impl Fn(&'b Rule) -> Option<&'b T>,
        in_force: Option<&'b T>,
        of_spec: impl Fn(&TrafficPolicySpec) -> Option<&T>,
    ) -> Option<(&'b T, &'b Policy)> {
        if let Some(own) = rule.and_then(of_rule) {
            return Some((own, self.owner_of_rules()?));
        }
        let inherited = in_force.filter(|_| rule.is_none())?;
        let owner = self
            .view
            .owner(self.service, self.port, inherited, of_spec)?;
        Some((inherited, owner))
    }

    /// Where a route's requests go: the service port itself, else what the split names.
    fn backends<'b>(&'b self, rule: Option<&'b Rule>) -> Vec<(&'b Service, &'b ServicePort)> {
        let own = rule.and_then(|rule| rule.split.as_ref());
        let split = own.or(self.policy.split.as_deref());
        let Some(split) = split.filter(|split| !split.backends.is_empty()) else {
            return vec![(self.service, self.port)];
        };
        super::breaker::sides(self.view, self.service, self.port, split).collect()
    }

    /// The connect timeout that a policy gives a backend: its own, else the addressed service's.
    fn connect(&self, service: &Service, port: &ServicePort) -> Option<(PolicyDuration, &Policy)> {
        let own = self.view.model.own_policy(service, port).timeouts;
        if let Some(timeouts) = own.filter(|_| service.name != self.service.name)
            && let Some(connect) = timeouts.connect
        {
            let owner = self.view.owner(service, port, &*timeouts, timeouts_of)?;
            return Some((connect, owner));
        }
        let timeouts = self.policy.timeouts.as_deref()?;
        Some((timeouts.connect?, self.owner_of_timeouts(None)?))
    }

    fn place(&self, rule: Option<&Rule>) -> String {
        let place = place(self.service, self.port);
        match rule {
            None => place,
            Some(rule) => format!("{place} rule {}", rule.name),
        }
    }
}

fn timeouts_of(spec: &TrafficPolicySpec) -> Option<&Timeouts> {
    spec.timeouts.as_ref()
}

/// Zero switches a limit off.
fn limit(value: Option<PolicyDuration>) -> Option<PolicyDuration> {
    value.filter(|value| !value.is_zero())
}

fn may_stream(port: &ServicePort) -> bool {
    STREAMING.contains(&protocol_word(port).as_str())
}

/// The word that says what a port speaks: its protocol's, else what its name begins with.
fn protocol_word(port: &ServicePort) -> String {
    let said = port.app_protocol.to_ascii_lowercase();
    if said.is_empty() {
        port.name.split('-').next().unwrap_or_default().to_owned()
    } else {
        said
    }
}

/// Whether every request that a rule is for streams, by what the sidecar takes for a stream. gRPC is
/// not enough: a rule for it may mean calls with one answer.
fn means_streams(rule: &Rule) -> bool {
    let events = |header: &HeaderMatch| {
        let value = header.value.as_deref().unwrap_or_default();
        header.name.eq_ignore_ascii_case("accept")
            && matches!(
                header.kind,
                HeaderMatchType::Exact | HeaderMatchType::Prefix
            )
            && value.to_ascii_lowercase().starts_with("text/event-stream")
    };
    let upgrade = |header: &HeaderMatch| header.name.eq_ignore_ascii_case("upgrade");
    let watch = |query: &QueryParamMatch| {
        query.name == "watch" && matches!(query.value.as_str(), "true" | "1")
    };
    rule.matches.iter().all(|entry| {
        entry.method == Some(Method::Connect)
            || entry.headers.iter().any(|it| events(it) || upgrade(it))
            || entry.query_params.iter().any(watch)
    })
}
