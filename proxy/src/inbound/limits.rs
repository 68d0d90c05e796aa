//! How many requests the application's ports take: the limiters behind the policies.
//!
//! A limiter lives as long as its port's policy has an equal stanza (of the same service and rule, where
//! it is a rule's), over updates of everything else in the policy, and connections come and go without
//! it. A connection asks for its port's limiters once per version of the policy; a request then takes no
//! lock for a limit that counts all alike, and one shard's lock for one that tells callers apart.
//!
//! Where a policy's rules have limits, the first rule that matches decides which of the policy's
//! limiters counts a request, as it decides on the client's side.
//!
//! Where a port has several limits, a request that one of them refuses costs the others nothing
//! (but where requests race for the last place; then too little is admitted, never too much).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::request::Parts;
use ::http::{HeaderName, HeaderValue};
use arc_swap::ArcSwapOption;
use metrics::Counter;
use parking_lot::Mutex;
use smallvec::SmallVec;
use weft_proto::spiffe::SpiffeId;

use super::Port;
use crate::policy::{
    InboundPolicy, Rate, RateLimitKey, RateLimitOverride, RateLimitPolicy, RuledRateLimits,
    ServiceRef,
};
use crate::resilience::limiter::{KeyedLimiter, Limiter, Place};
use crate::resilience::route;
use crate::telemetry::Telemetry;

/// Ports whose limiters are kept. Past it, those of a port without connections are forgotten; where
/// all have connections, a further port's are counted per connection.
const MAX_PORTS: usize = 1024;
/// Limits of one request that are gathered without an allocation.
const USUAL_LIMITS: usize = 4;

/// The limiters of all ports.
pub(crate) struct Limits {
    ports: Mutex<HashMap<u16, Arc<PortLimits>>>,
    hits: Hits,
}

/// What one connection knows of its port's limiters.
#[derive(Default)]
pub(crate) struct Resolved(ArcSwapOption<Known>);

struct Known {
    /// The policy that they are of.
    policy: Arc<InboundPolicy>,
    limits: Arc<PortLimits>,
}

/// The limiters of one port, in the order of its policy.
struct PortLimits {
    /// What they were made for.
    policy: Arc<InboundPolicy>,
    plain: Vec<Arc<Limit>>,
    ruled: Vec<Ruled>,
}

/// The limiters of one policy that tells requests apart by its rules.
struct Ruled {
    /// One place per rule.
    rules: Vec<Option<Arc<Limit>>>,
    otherwise: Option<Arc<Limit>>,
}

/// Limiters of the version before, each of which goes on in one place at most.
struct Before<'a> {
    held: Vec<Arc<Limit>>,
    crowded: &'a Counter,
    now: Instant,
}

/// Which of a port's requests a limiter counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope<'a> {
    /// What no rule with a limit of its own takes: all requests where the service is not named.
    Policy(Option<&'a ServiceRef>),
    Rule(&'a ServiceRef, &'a str),
}

struct Limit {
    service: Option<ServiceRef>,
    rule: Option<Box<str>>,
    policy: RateLimitPolicy,
    state: State,
    /// Keys are hashed by it: callers cannot choose what they collide with.
    hasher: RandomState,
    /// Keys that found no place.
    crowded: Counter,
}

enum State {
    Global(Limiter),
    ByIdentity {
        overrides: Vec<(RateLimitOverride, Limiter)>,
        others: KeyedLimiter,
    },
    ByHeader(HeaderName, KeyedLimiter),
}

/// What counts one request.
enum Found<'a> {
    One(&'a Limiter, Rate),
    Keyed(&'a KeyedLimiter, u64),
}

/// Counters of the bounds.
struct Hits {
    keys: Counter,
    ports: Counter,
}

/// Who asks, and for what.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    /// Proved, or nobody.
    pub(crate) caller: Option<&'a SpiffeId>,
    /// The request's.
    pub(crate) head: &'a Parts,
}

impl Limits {
    pub(crate) fn new(telemetry: &Telemetry) -> Self {
        Self {
            ports: Mutex::default(),
            hits: Hits {
                keys: telemetry.limit("rate_limit_keys"),
                ports: telemetry.limit("rate_limit_ports"),
            },
        }
    }

    /// The limiters of `port` by its policy as it is now. What is equal in the version before goes on.
    fn of(&self, port: &Port, now: Instant) -> Option<Known> {
        let mut ports = self.ports.lock();
        // Under the lock: nobody puts an older policy's limiters in a newer one's place.
        let policy = port.policy.load()?;
        let number = port.address.port();
        let held = ports.get(&number).cloned();
        let same = |held: &&Arc<PortLimits>| {
            held.policy.rate_limits == policy.rate_limits
                && held.policy.ruled_rate_limits == policy.ruled_rate_limits
        };
        if let Some(limits) = held.as_ref().filter(same) {
            let limits = Arc::clone(limits);
            return Some(Known { policy, limits });
        }
        let crowded = &self.hits.keys;
        let before = Before::new(held.as_deref(), crowded, now);
        let limits = Arc::new(PortLimits::new(&policy, before));
        if ports.len() >= MAX_PORTS && !ports.contains_key(&number) {
            self.hits.ports.increment(1);
            let unused = ports
                .iter()
                .find_map(|(number, limits)| (Arc::strong_count(limits) == 1).then_some(*number));
            let Some(unused) = unused else {
                return Some(Known { policy, limits });
            };
            ports.remove(&unused);
        }
        ports.insert(number, Arc::clone(&limits));
        Some(Known { policy, limits })
    }
}

impl Resolved {
    /// Admits one request to `port`, whose policy was `policy` when the request began.
    ///
    /// # Errors
    /// It is over a rate: the time after which it would be admitted.
    pub(crate) fn take(
        &self,
        limits: &Limits,
        port: &Port,
        policy: &Arc<InboundPolicy>,
        asker: Asker<'_>,
        now: Instant,
    ) -> Result<(), Duration> {
        if let Some(known) = &*self.0.load()
            && Arc::ptr_eq(&known.policy, policy)
        {
            return known.limits.take(asker, now);
        }
        let Some(known) = limits.of(port, now) else {
            return Ok(());
        };
        let known = Arc::new(known);
        self.0.store(Some(Arc::clone(&known)));
        known.limits.take(asker, now)
    }
}

impl PortLimits {
    /// The limiters of a policy; what is equal in the version before goes on.
    fn new(policy: &Arc<InboundPolicy>, mut before: Before<'_>) -> Self {
        let ruled = policy.ruled_rate_limits.iter();
        let ruled = ruled.map(|limits| Ruled::new(limits, &mut before));
        let ruled = ruled.collect();
        let plain = policy.rate_limits.iter();
        let plain = plain.map(|wanted| before.limit(Scope::Policy(None), wanted));
        Self {
            policy: Arc::clone(policy),
            plain: plain.collect(),
            ruled,
        }
    }

    fn take(&self, asker: Asker<'_>, now: Instant) -> Result<(), Duration> {
        let limits: SmallVec<[&Limit; USUAL_LIMITS]> = self.counting(asker.head).collect();
        if let [limit] = &*limits {
            return limit.take(asker, now);
        }
        for limit in &limits {
            limit.peek(asker, now)?;
        }
        limits.iter().try_for_each(|limit| limit.take(asker, now))
    }

    /// The limits that are for a request.
    fn counting<'a>(&'a self, head: &'a Parts) -> impl Iterator<Item = &'a Limit> {
        let plain = self.plain.iter().map(|limit| &**limit);
        let policies = self.policy.ruled_rate_limits.iter();
        let ruled = self.ruled.iter().zip(policies);
        plain.chain(ruled.filter_map(|(limits, policy)| limits.counting(policy, head)))
    }

    fn all(&self) -> Vec<Arc<Limit>> {
        let ruled = self.ruled.iter();
        let ruled = ruled.flat_map(|it| it.rules.iter().chain([&it.otherwise]).flatten());
        self.plain.iter().chain(ruled).cloned().collect()
    }
}

impl Ruled {
    fn new(limits: &RuledRateLimits, before: &mut Before<'_>) -> Self {
        let service = &limits.service;
        let rules = limits.rules.iter().map(|rule| {
            let scope = Scope::Rule(service, &rule.name);
            let own = rule.limit.as_ref();
            own.map(|wanted| before.limit(scope, wanted))
        });
        let rules = rules.collect();
        let otherwise = limits.otherwise.as_ref();
        Self {
            rules,
            otherwise: otherwise.map(|wanted| before.limit(Scope::Policy(Some(service)), wanted)),
        }
    }

    /// The limit of the first rule that matches, or what holds otherwise.
    fn counting(&self, policy: &RuledRateLimits, head: &Parts) -> Option<&Limit> {
        let (path, query) = (head.uri.path(), head.uri.query());
        let rule = policy.rules.iter().position(|rule| {
            route::matches_any(&rule.matches, &head.method, path, query, &head.headers)
        });
        let own = rule.and_then(|at| self.rules[at].as_deref());
        own.or(self.otherwise.as_deref())
    }
}

impl<'a> Before<'a> {
    fn new(held: Option<&PortLimits>, crowded: &'a Counter, now: Instant) -> Self {
        Self {
            held: held.map_or_else(Vec::new, PortLimits::all),
            crowded,
            now,
        }
    }

    /// The limiter that goes on as this one, or a new one.
    fn limit(&mut self, scope: Scope<'_>, policy: &RateLimitPolicy) -> Arc<Limit> {
        if let Some(at) = self.position(scope, policy) {
            return self.held.remove(at);
        }
        let crowded = self.crowded.clone();
        Arc::new(Limit::new(scope, policy.clone(), crowded, self.now))
    }

    /// A policy's own limiter goes on too where its rules got their first limit, or lost the last.
    fn position(&self, scope: Scope<'_>, policy: &RateLimitPolicy) -> Option<usize> {
        let find = |fits: &dyn Fn(Scope<'_>) -> bool| {
            let fits = |held: &Arc<Limit>| fits(held.scope()) && held.policy == *policy;
            self.held.iter().position(fits)
        };
        find(&|held| held == scope).or_else(|| match scope {
            Scope::Policy(Some(_)) => find(&|held| held == Scope::Policy(None)),
            Scope::Policy(None) => find(&|held| matches!(held, Scope::Policy(_))),
            Scope::Rule(..) => None,
        })
    }
}

impl Limit {
    fn new(scope: Scope<'_>, policy: RateLimitPolicy, crowded: Counter, now: Instant) -> Self {
        let (service, rule) = match scope {
            Scope::Policy(service) => (service.cloned(), None),
            Scope::Rule(service, rule) => (Some(service.clone()), Some(rule.into())),
        };
        let state = match &policy.key {
            RateLimitKey::Global => State::Global(Limiter::new(now)),
            RateLimitKey::ClientIdentity(overrides) => State::ByIdentity {
                overrides: overrides
                    .iter()
                    .map(|known| (known.clone(), Limiter::new(now)))
                    .collect(),
                others: KeyedLimiter::new(now),
            },
            RateLimitKey::Header(name) => State::ByHeader(name.clone(), KeyedLimiter::new(now)),
        };
        Self {
            service,
            rule,
            policy,
            state,
            hasher: RandomState::new(),
            crowded,
        }
    }

    fn scope(&self) -> Scope<'_> {
        match (&self.service, &self.rule) {
            (Some(service), Some(rule)) => Scope::Rule(service, rule),
            (service, _) => Scope::Policy(service.as_ref()),
        }
    }

    fn take(&self, asker: Asker<'_>, now: Instant) -> Result<(), Duration> {
        match self.find(asker) {
            Found::One(limiter, rate) => limiter.take(now, rate),
            Found::Keyed(limiter, key) => {
                let (place, taken) = limiter.take(key, now, self.policy.rate);
                if place == Place::Crowd {
                    self.crowded.increment(1);
                }
                taken
            }
        }
    }

    fn peek(&self, asker: Asker<'_>, now: Instant) -> Result<(), Duration> {
        match self.find(asker) {
            Found::One(limiter, rate) => limiter.peek(now, rate),
            Found::Keyed(limiter, key) => limiter.peek(key, now, self.policy.rate),
        }
    }

    fn find(&self, asker: Asker<'_>) -> Found<'_> {
        match &self.state {
            State::Global(limiter) => Found::One(limiter, self.policy.rate),
            State::ByIdentity { overrides, others } => {
                let caller = asker.caller.map(SpiffeId::as_str);
                let own = overrides
                    .iter()
                    .find(|(known, _)| caller == Some(&*known.identity));
                match own {
                    Some((known, limiter)) => Found::One(limiter, known.rate),
                    None => Found::Keyed(others, self.hasher.hash_one(caller)),
                }
            }
            State::ByHeader(name, limiter) => {
                let value = asker.head.headers.get(name).map(HeaderValue::as_bytes);
                Found::Keyed(limiter, self.hasher.hash_one(value))
            }
        }
    }
}
