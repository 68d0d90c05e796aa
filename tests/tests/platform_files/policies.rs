//! The policies: accepted as a cluster would, for callers that there are, and with the guides' numbers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{PLATFORMS, Platform, list, name, said, text, weft};

/// What a guide says, where it stands in its platform's policies: the platform, the policy, the place.
fn promised() -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let fallback = json!("{\"success\":false,\"error\":\"Service temporarily unavailable\"}");
    vec![
        ("rent-to-own", "services", "timeouts/request", json!("5s")),
        ("rent-to-own", "services", "retries/attempts", json!(3)),
        (
            "rent-to-own",
            "services",
            "circuitBreaker/errorRate/thresholdPercent",
            json!(50),
        ),
        (
            "rent-to-own",
            "services",
            "circuitBreaker/openDuration",
            json!("30s"),
        ),
        (
            "rent-to-own",
            "services",
            "circuitBreaker/maxOpenDuration",
            json!("30s"),
        ),
        (
            "rent-to-own",
            "services",
            "fallback/response/status",
            json!(503),
        ),
        (
            "rent-to-own",
            "services",
            "fallback/response/body",
            fallback,
        ),
        (
            "ecommerce",
            "user-service",
            "split/backends/0/weight",
            json!(90),
        ),
        (
            "ecommerce",
            "user-service",
            "split/backends/1/weight",
            json!(10),
        ),
        (
            "ecommerce",
            "product-service",
            "split/backends/0/weight",
            json!(100),
        ),
        (
            "ecommerce",
            "product-service",
            "split/backends/1/weight",
            json!(0),
        ),
        (
            "ecommerce",
            "rate-limit",
            "rules/0/rateLimit/requestsPerSecond",
            json!(100),
        ),
        (
            "ecommerce",
            "pool",
            "circuitBreaker/limits/maxConnections",
            json!(20),
        ),
        ("ecommerce", "pool", "timeouts/connect", json!("2s")),
        ("ecommerce", "services", "timeouts/request", json!("10s")),
        (
            "venta",
            "db",
            "circuitBreaker/limits/maxConnections",
            json!(10),
        ),
        ("venta", "services", "timeouts/request", json!("10s")),
        ("venta", "nats", "timeouts/connect", json!("2s")),
        (
            "dotmac",
            "external",
            "circuitBreaker/consecutiveFailures/threshold",
            json!(5),
        ),
        (
            "dotmac",
            "external",
            "circuitBreaker/openDuration",
            json!("60s"),
        ),
        (
            "dotmac",
            "external",
            "circuitBreaker/maxOpenDuration",
            json!("60s"),
        ),
        (
            "dotmac",
            "external",
            "circuitBreaker/halfOpen/successThreshold",
            json!(3),
        ),
        ("dotmac", "external", "timeouts/request", json!("30s")),
        ("dotmac", "external", "retries/attempts", json!(0)),
        ("dotmac", "platform", "timeouts/request", json!("35s")),
    ]
}

fn policies(platform: Platform) -> Vec<Value> {
    platform.objects("policies")
}

#[test]
fn they_are_accepted() {
    for platform in PLATFORMS {
        let output = weft(
            &["check", "-f", "mesh.yaml", "-f", "policies"],
            &platform.folder(),
        );
        let both = said(&output.stdout) + &said(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{}: {both}", platform.name);
    }
}

#[test]
fn they_have_the_numbers_of_the_guides() {
    for (platform, policy, place, wanted) in promised() {
        let platform = PLATFORMS.into_iter().find(|it| it.name == platform);
        let platform = platform.expect("the platform");
        let all = policies(platform);
        let found = all.iter().find(|it| name(it) == policy);
        let found = found.unwrap_or_else(|| panic!("{}: no {policy}", platform.name));
        let value = found["spec"].pointer(&format!("/{place}"));
        assert_eq!(value, Some(&wanted), "{} {policy} {place}", platform.name);
    }
}

#[test]
fn nothing_comes_in_without_an_identity_and_every_request_is_logged() {
    for platform in PLATFORMS {
        let all = policies(platform);
        let of_namespace = all
            .iter()
            .find(|it| it["spec"]["targetRefs"][0]["kind"] == "Namespace");
        let spec = &of_namespace.expect("a policy for the namespace")["spec"];
        assert_eq!(spec["mtls"]["mode"], "Strict", "{}", platform.name);
        assert_eq!(spec["accessLog"]["mode"], "All", "{}", platform.name);
        let fields = list(&spec["accessLog"]["fields"]);
        assert!(fields.contains(&json!("requestId")), "{}", platform.name);
    }
}

/// Of a principal that nobody is, nobody would notice that it allows nothing.
#[test]
fn who_may_call_is_there() {
    for platform in PLATFORMS {
        let workloads = platform.workloads();
        let accounts: BTreeSet<_> = workloads
            .iter()
            .filter(|it| it["serviceAccount"].is_string())
            .map(|it| (text(&it["namespace"]), text(&it["serviceAccount"])))
            .collect();
        // Prometheus is nowhere among the files: whoever runs the platform has one.
        let elsewhere = [("dotmac-monitoring", "prometheus")];
        let mut checked = 0;
        for policy in policies(platform) {
            for entry in list(&policy["spec"]["authorization"]["allow"]) {
                for principal in list(&entry["principals"]) {
                    let account = &principal["serviceAccount"];
                    let namespace = account["namespace"].as_str();
                    let who = (
                        namespace.unwrap_or(platform.namespace),
                        text(&account["name"]),
                    );
                    let is_there = accounts.contains(&who) || elsewhere.contains(&who);
                    assert!(is_there, "{} {}: no {who:?}", platform.name, name(&policy));
                    checked += 1;
                }
            }
        }
        assert!(checked >= 2, "{}: only {checked}", platform.name);
    }
}

/// A default may change, and a story that plays faster divides what is written.
#[test]
fn every_duration_that_matters_is_written() {
    for platform in PLATFORMS {
        for policy in policies(platform) {
            let spec = &policy["spec"];
            let at = format!("{} {}", platform.name, name(&policy));
            let retries = &spec["retries"];
            if retries["attempts"].as_u64().is_some_and(|it| it > 0) {
                assert!(retries["backoff"]["base"].is_string(), "{at}");
                assert!(retries["backoff"]["max"].is_string(), "{at}");
                assert!(retries["budget"]["interval"].is_string(), "{at}");
            }
            let breaker = &spec["circuitBreaker"];
            if breaker["errorRate"].is_object() || breaker["consecutiveFailures"].is_object() {
                assert!(breaker["openDuration"].is_string(), "{at}");
                assert!(breaker["maxOpenDuration"].is_string(), "{at}");
            }
            if breaker["errorRate"].is_object() {
                assert!(breaker["errorRate"]["window"].is_string(), "{at}");
            }
            if spec["timeouts"].is_object() {
                assert!(spec["timeouts"]["connect"].is_string(), "{at}");
            }
        }
    }
}
