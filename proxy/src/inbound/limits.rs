//! How many requests the application's ports take: the limiters behind the policies.
//!
//! A limiter lives as long as its port's policy has an equal stanza, over updates of everything else
//! in the policy, and connections come and go without it. A connection asks for its port's limiters
//! once per version of the policy; a request then takes no lock for a limit that counts all alike, and
//! one shard's lock for one that tells callers apart.
//!
//! Where a port has several limits, a request that one of them refuses costs the others nothing
//! (but where requests race for the last place; then too little is admitted, never too much).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{HeaderMap, HeaderName, HeaderValue};
use arc_swap::ArcSwapOption;
use metrics::Counter;
use parking_lot::Mutex;
use weft_proto::spiffe::SpiffeId;

use super::Port;
use crate::policy::{InboundPolicy, Rate, RateLimitKey, RateLimitOverride, RateLimitPolicy};
use crate::resilience::limiter::{KeyedLimiter, Limiter, Place};
use crate::telemetry::Telemetry;

/// Ports whose limiters are kept. Past it, those of a port without connections are forgotten; where
/// all have connections, a further port's are counted per connection.
const MAX_PORTS: usize = 1024;

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
#[derive(Default)]
struct PortLimits(Vec<Arc<Limit>>);

struct Limit {
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
    /// Of the request.
    pub(crate) headers: &'a HeaderMap,
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
        let held = ports.get(&number).cloned().unwrap_or_default();
        let same = held.0.len() == policy.rate_limits.len()
            && held
                .0
                .iter()
                .zip(&policy.rate_limits)
                .all(|(held, wanted)| held.policy == *wanted);
        if same {
            let limits = held;
            return Some(Known { policy, limits });
        }
        let limit = |wanted: &RateLimitPolicy| {
            let equal = held.0.iter().find(|held| held.policy == *wanted);
            equal.cloned().unwrap_or_else(|| {
                let crowded = self.hits.keys.clone();
                Arc::new(Limit::new(wanted.clone(), crowded, now))
            })
        };
        let limits = Arc::new(PortLimits(policy.rate_limits.iter().map(limit).collect()));
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
    fn take(&self, asker: Asker<'_>, now: Instant) -> Result<(), Duration> {
        if let [limit] = &*self.0 {
            return limit.take(asker, now);
        }
        for limit in &self.0 {
            limit.peek(asker, now)?;
        }
        self.0.iter().try_for_each(|limit| limit.take(asker, now))
    }
}

impl Limit {
    fn new(policy: RateLimitPolicy, crowded: Counter, now: Instant) -> Self {
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
            policy,
            state,
            hasher: RandomState::new(),
            crowded,
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
                let value = asker.headers.get(name).map(HeaderValue::as_bytes);
                Found::Keyed(limiter, self.hasher.hash_one(value))
            }
        }
    }
}
