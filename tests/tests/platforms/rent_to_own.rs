//! The rent-to-own marketplace.

use weft_sandbox::programs::{postgres, rabbitmq};

use super::Platform;

/// What its story tells.
pub(super) const STORY: Platform = Platform {
    name: "rent-to-own",
    checks: &[
        ("All is well", "not answered with 200"),
        ("All is well", "probes of /health answered with 200"),
        ("All is well", "other calls of strangers refused"),
        (
            "All is well",
            "calls of a service that is not named refused",
        ),
        ("All is well", "of these seen by credit-service"),
        ("All is well", "request ids in the lines of both sidecars"),
        (
            "A slow dependency",
            "before: the longest that a caller waited",
        ),
        (
            "A slow dependency",
            "after: the longest that a caller waited",
        ),
        (
            "A slow dependency",
            "before: the median of what callers waited",
        ),
        (
            "A slow dependency",
            "after: the median of what callers waited",
        ),
        (
            "A slow dependency",
            "before: requests that reached it, in percent",
        ),
        (
            "A slow dependency",
            "after: requests that reached it, in percent",
        ),
        ("A slow dependency", "after: neither 200 nor the fallback"),
        (
            "A slow dependency",
            "answered with the guide's JSON while open",
        ),
        (
            "A slow dependency",
            "from healed to serving, breaker closed",
        ),
        ("A slow dependency", "failed of what others were asked"),
        (
            "A dependency that is down",
            "before: calls answered with the guide's JSON",
        ),
        (
            "A dependency that is down",
            "after: calls answered with the guide's JSON",
        ),
        (
            "A dependency that is down",
            "before: tries that came to its sidecars",
        ),
        (
            "A dependency that is down",
            "after: tries that came to its sidecars",
        ),
        (
            "A dependency that is down",
            "from an open breaker to a closed one",
        ),
        (
            "A dependency that is down",
            "failed of what others were asked",
        ),
        (
            "A pod is killed",
            "before: not answered with 200, of 120 requests",
        ),
        (
            "A pod is killed",
            "after: not answered with 200, of 120 requests",
        ),
        ("Control plane gone", "not answered with 200"),
        ("The whole story", "neither answered nor failed"),
    ],
    watched: &[
        ("All is well", "other alerts that fire"),
        ("A slow dependency", "alert CircuitBreakerOpen fires"),
        ("A slow dependency", "alert HighErrorRate fires"),
        ("A slow dependency", "alert SlowResponses fires"),
        ("A slow dependency", "other alerts that fire"),
        (
            "A dependency that is down",
            "alert CircuitBreakerOpen fires",
        ),
        ("A dependency that is down", "alert HighErrorRate fires"),
        (
            "A dependency that is down",
            "the guide's queries find series",
        ),
        ("Control plane gone", "alerts that still fire"),
    ],
    with: &[
        (
            &postgres::NEEDS,
            &[
                (
                    "A database is restarted",
                    "connections of another service refused",
                ),
                ("A database is restarted", "until its client knows"),
                ("A database is restarted", "from running again to an answer"),
                ("A database is restarted", "rows that are there"),
                (
                    "A database is restarted",
                    "failed of what others were asked",
                ),
            ],
        ),
        (
            &rabbitmq::NEEDS,
            &[
                (
                    "Messages between services",
                    "connections of the gateway refused",
                ),
                ("Messages between services", "came exactly once"),
            ],
        ),
    ],
    // RabbitMQ's daemon of names has one port on a machine's loopback.
    isolated: &["Messages between services"],
};
