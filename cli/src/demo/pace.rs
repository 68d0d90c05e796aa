//! How fast a platform's story is played.
//!
//! Guides speak of 30 s, 60 s and 5 minutes; nobody watches a story that long. So every duration is
//! divided by one factor, those of the policies too, and what is asserted is the same by the same
//! factor. Policies are read into their types, divided and written again: what is no duration stays,
//! and so do counts, percentages and rates.
//!
//! One rate does not: the floor of a budget of retries. Traffic and what a failure hits of it are as
//! many requests as ever, so a budget pays for as many retries in its shorter interval as the guide's
//! does in the whole one: its `minRetriesPerSecond` grow by what its `interval` was divided by.
//!
//! A duration below what the policy's schema allows is that bound, and the time for a handshake stays
//! above what a busy machine takes for one ([`LEAST_CONNECT`]). No duration grows by being divided.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use weft_control_plane::policy::{
    PolicyDuration, Retries, Rule, Split, Timeouts, TrafficPolicy, TrafficPolicySpec,
};
use weft_control_plane::source::files::documents;
use weft_proto::names;

/// What platforms' stories are divided by unless told otherwise.
const QUICK: u32 = 10;
/// The least that policies' schema allows, by field; [`PolicyDuration`]s are whole milliseconds.
const LEAST_WINDOW: Duration = Duration::from_secs(1);
const LEAST_OPEN: Duration = Duration::from_millis(100);
const LEAST: Duration = Duration::from_millis(1);
/// Mesh TLS with a peer takes tens of milliseconds in a debug build on a machine with other things to
/// do; below this a story would show the machine instead of the policy.
const LEAST_CONNECT: Duration = Duration::from_millis(250);
/// The most retries per second that policies' schema allows for a budget's floor.
const MOST_RETRIES: u32 = 100_000;
/// The kind whose `timeouts` are durations too.
const HTTP_ROUTE: &str = "HTTPRoute";

/// What durations are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    factor: u32,
}

impl Pace {
    /// Durations as they are written.
    pub(super) const REAL: Self = Self { factor: 1 };
    /// A tenth of them.
    pub(super) const QUICK: Self = Self { factor: QUICK };

    /// What durations are divided by; 1 where they are played as they are.
    pub(super) fn factor(self) -> u32 {
        self.factor
    }

    /// How long something takes here that takes `written` in the guide.
    pub(super) fn of(self, written: Duration) -> Duration {
        written / self.factor
    }

    /// A file of manifests with its durations divided: those of TrafficPolicies, and the timeouts of
    /// HTTPRoutes. Other documents stay as they are.
    ///
    /// # Errors
    /// When a document cannot be read as what it says it is.
    pub(super) fn manifest(self, text: &str) -> anyhow::Result<String> {
        if self == Self::REAL {
            return Ok(text.to_owned());
        }
        let parts: anyhow::Result<Vec<String>> =
            documents(text).map(|text| self.document(&text)).collect();
        Ok(parts?.join("---\n"))
    }

    fn document(self, text: &str) -> anyhow::Result<String> {
        let mut value: Value = serde_saphyr::from_str(text).context("reading a manifest")?;
        let kind = value["kind"].as_str().unwrap_or_default().to_owned();
        if kind == names::TRAFFIC_POLICY_KIND {
            let mut policy: TrafficPolicy =
                serde_saphyr::from_str(text).context("reading a TrafficPolicy")?;
            self.spec(&mut policy.spec);
            value["spec"] = without_nulls(serde_json::to_value(&policy.spec)?);
        } else if kind == HTTP_ROUTE {
            self.route(&mut value)?;
        }
        Ok(serde_saphyr::to_string(&value)?)
    }

    fn spec(self, spec: &mut TrafficPolicySpec) {
        // By name, so that a stanza with durations that comes later is thought of here.
        let TrafficPolicySpec {
            target_refs: _,
            mtls: _,
            authorization: _,
            timeouts,
            retries,
            circuit_breaker,
            load_balancer,
            split,
            rules,
            rate_limit: _,
            fault_injection,
            fallback: _,
            access_log: _,
        } = spec;
        self.stanzas(timeouts, retries, split);
        for rule in rules.iter_mut().flatten() {
            self.rule(rule);
        }
        if let Some(breaker) = circuit_breaker {
            self.divide(&mut breaker.open_duration, LEAST_OPEN);
            self.divide(&mut breaker.max_open_duration, LEAST_OPEN);
            if let Some(rate) = &mut breaker.error_rate {
                self.divide(&mut rate.window, LEAST_WINDOW);
            }
        }
        if let Some(slow_start) = load_balancer.as_mut().and_then(|it| it.slow_start.as_mut()) {
            self.divide(slow_start, LEAST_WINDOW);
        }
        if let Some(delay) = fault_injection.as_mut().and_then(|it| it.delay.as_mut()) {
            self.divide(&mut delay.duration, LEAST);
        }
    }

    fn rule(self, rule: &mut Rule) {
        self.stanzas(&mut rule.timeouts, &mut rule.retries, &mut rule.split);
        let delay = rule
            .fault_injection
            .as_mut()
            .and_then(|it| it.delay.as_mut());
        if let Some(delay) = delay {
            self.divide(&mut delay.duration, LEAST);
        }
    }

    /// Those that policies and rules have.
    fn stanzas(
        self,
        timeouts: &mut Option<Timeouts>,
        retries: &mut Option<Retries>,
        split: &mut Option<Split>,
    ) {
        if let Some(timeouts) = timeouts {
            self.timeouts(timeouts);
        }
        if let Some(retries) = retries {
            self.retries(retries);
        }
        if let Some(split) = split {
            self.split(split);
        }
    }

    fn timeouts(self, timeouts: &mut Timeouts) {
        let Timeouts {
            request,
            per_try,
            connect,
            idle,
            stream,
        } = timeouts;
        let limits = [&mut *request, &mut *per_try, idle, stream];
        for limit in limits.into_iter().flatten() {
            self.divide(limit, LEAST);
        }
        if let Some(connect) = connect {
            // A handshake may not take longer than a try, nor that longer than a request.
            let bound = [*per_try, *request].into_iter().flatten();
            let bound = bound.filter(|it| !it.is_zero()).min();
            let least = bound.map_or(LEAST_CONNECT, |bound| bound.get().min(LEAST_CONNECT));
            self.divide(connect, least);
        }
    }

    fn retries(self, retries: &mut Retries) {
        self.divide(&mut retries.backoff.base, LEAST);
        self.divide(&mut retries.backoff.max, LEAST);
        let budget = &mut retries.budget;
        let written = budget.interval;
        self.divide(&mut budget.interval, LEAST_WINDOW);
        budget.min_retries_per_second =
            same_count(budget.min_retries_per_second, written, budget.interval);
    }

    fn split(self, split: &mut Split) {
        if let Some(ttl) = split.sticky.as_mut().and_then(|it| it.ttl.as_mut()) {
            self.divide(ttl, LEAST);
        }
    }

    /// Divides, down to `least` where it is longer than that. Nothing stays nothing, which switches a
    /// limit off.
    fn divide(self, duration: &mut PolicyDuration, least: Duration) {
        if duration.is_zero() {
            return;
        }
        let least = least.min(duration.get());
        let divided = self.of(duration.get()).max(least);
        *duration = PolicyDuration::from_millis(divided.as_millis() as u64);
    }

    /// `spec.rules[].timeouts` of a Gateway API route.
    fn route(self, route: &mut Value) -> anyhow::Result<()> {
        let rules = route["spec"]["rules"].as_array_mut();
        for rule in rules.into_iter().flatten() {
            let timeouts = rule.get_mut("timeouts").and_then(Value::as_object_mut);
            for (_, limit) in timeouts.into_iter().flatten() {
                let mut duration: PolicyDuration =
                    serde_json::from_value(limit.take()).context("reading a route's timeout")?;
                self.divide(&mut duration, LEAST);
                *limit = serde_json::to_value(duration)?;
            }
        }
        Ok(())
    }
}

/// A rate for `divided` that comes to as many as `rate` does in `written`; at most what policies' schema
/// allows.
fn same_count(rate: u32, written: PolicyDuration, divided: PolicyDuration) -> u32 {
    let [written, divided] = [written, divided].map(|it| it.get().as_millis());
    let grown = u128::from(rate) * written / divided.max(1);
    // Bounded, so it fits; what is above the bound already is for the schema to refuse.
    grown.min(u128::from(MOST_RETRIES.max(rate))) as u32
}

/// A field that is `null` is one that was left out; people read what is written here.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, field)| !field.is_null())
            .map(|(name, field)| (name, without_nulls(field)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(entries) => entries.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"# Comments go.
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: credit, namespace: shop, labels: {app: credit}}
spec:
  targetRefs: [{kind: Service, name: credit}]
  timeouts: {request: 15s, perTry: 5s, connect: 1s, idle: 0s}
  retries:
    attempts: 3
    backoff: {base: 25ms, max: 2s}
    budget: {percent: 50, interval: 1m, minRetriesPerSecond: 7}
  circuitBreaker:
    errorRate: {thresholdPercent: 50, minRequests: 10, window: 5s}
    openDuration: 30s
    maxOpenDuration: 30s
  fallback:
    response: {status: 503, contentType: application/json, body: '{"success":false}'}
  rules:
  - name: report
    matches: [{path: {type: PathPrefix, value: /report}}]
    timeouts: {request: 1m}
    faultInjection: {delay: {duration: 2s, percent: 10}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: credit, namespace: shop}
spec:
  rules:
  - timeouts: {request: 30s, backendRequest: 10s}
---
kind: ConfigMap
data: {wait: 30s}
"#;

    fn divided() -> Vec<Value> {
        let text = Pace::QUICK.manifest(POLICY).expect("a manifest");
        serde_saphyr::from_multiple(&text).expect("documents")
    }

    #[test]
    fn every_duration_is_divided_and_nothing_else() {
        let documents = divided();
        let [policy, route, other] = &documents[..] else {
            panic!("three documents: {documents:#?}");
        };
        let spec = &policy["spec"];
        let text = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str);
        let durations = [
            ("/timeouts/request", "1s500ms"),
            ("/timeouts/perTry", "500ms"),
            ("/timeouts/connect", "250ms"),
            ("/timeouts/idle", "0s"),
            ("/retries/backoff/base", "2ms"),
            ("/retries/backoff/max", "200ms"),
            ("/retries/budget/interval", "6s"),
            ("/circuitBreaker/errorRate/window", "1s"),
            ("/circuitBreaker/openDuration", "3s"),
            ("/circuitBreaker/maxOpenDuration", "3s"),
            ("/rules/0/timeouts/request", "6s"),
            ("/rules/0/faultInjection/delay/duration", "200ms"),
        ];
        for (pointer, expected) in durations {
            assert_eq!(text(pointer), Some(expected), "{pointer}");
        }
        assert_eq!(spec["retries"]["attempts"], 3);
        assert_eq!(spec["retries"]["budget"]["percent"], 50);
        assert_eq!(spec["circuitBreaker"]["errorRate"]["minRequests"], 10);
        assert_eq!(
            text("/fallback/response/body"),
            Some(r#"{"success":false}"#)
        );
        assert_eq!(policy["metadata"]["labels"]["app"], "credit");
        let timeouts = &route["spec"]["rules"][0]["timeouts"];
        assert_eq!(timeouts["request"], "3s");
        assert_eq!(timeouts["backendRequest"], "1s");
        assert_eq!(other["data"]["wait"], "30s");
    }

    #[test]
    fn at_the_real_pace_the_text_stays() {
        let text = Pace::REAL.manifest(POLICY).expect("a manifest");
        assert_eq!(text, POLICY);
        let minute = Duration::from_secs(60);
        assert_eq!(Pace::REAL.of(minute), minute);
        assert_eq!(Pace::QUICK.of(minute), Duration::from_secs(6));
    }

    #[test]
    fn what_is_short_already_does_not_grow() {
        for (before, least, after) in [
            (400, LEAST_WINDOW, 400),
            (2_000, LEAST_WINDOW, 1_000),
            (30_000, LEAST_WINDOW, 3_000),
            (0, LEAST_WINDOW, 0),
            (5, LEAST, 1),
        ] {
            let mut duration = PolicyDuration::from_millis(before);
            Pace::QUICK.divide(&mut duration, least);
            assert_eq!(duration, PolicyDuration::from_millis(after), "{before} ms");
        }
    }

    #[test]
    fn budgets_pay_for_as_many_retries_per_interval() {
        let budget = &divided()[0]["spec"]["retries"]["budget"];
        assert_eq!(budget["interval"], "6s");
        assert_eq!(budget["minRetriesPerSecond"], 70);
        // An interval that stops at its bound counts by what it was divided by.
        for (rate, written, divided, expected) in [
            (10, 10_000, 1_000, 100),
            (10, 5_000, 1_000, 50),
            (10, 1_000, 1_000, 10),
            (0, 10_000, 1_000, 0),
            (MOST_RETRIES, 10_000, 1_000, MOST_RETRIES),
        ] {
            let [before, after] = [written, divided].map(PolicyDuration::from_millis);
            assert_eq!(same_count(rate, before, after), expected, "{written} ms");
        }
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        let text = POLICY.replace("attempts: 3", "attempts: many");
        let error = Pace::QUICK.manifest(&text).expect_err("refused");
        assert!(format!("{error:#}").contains("reading a TrafficPolicy"));
    }
}
