//! The DotMac platform.

use weft_sandbox::programs::{postgres, redis};

use super::{Name, Platform};

/// Acts, as far as their checks are many.
const WELL: &str = "All is well";
const FAILS: &str = "A provider fails";
const RESET: &str = "Breakers are reset by command";
const HANGS: &str = "A provider hangs";
const ENDS: &str = "A replica ends";
const KILLED: &str = "A replica is killed";
const DATA: &str = "Database and cache are restarted";
const DOWN: &str = "The platform is down";

/// What its story tells.
pub(super) const STORY: Platform = Platform {
    name: "dotmac",
    checks: CHECKS,
    watched: &[
        (WELL, "other alerts that fire"),
        (FAILS, "alert CircuitBreakerOpen fires"),
        (FAILS, "other alerts that fire"),
        (RESET, "alert CircuitBreakerOpen fires"),
        (RESET, "other alerts that fire"),
        (HANGS, "alert CircuitBreakerOpen fires"),
        (HANGS, "alert HighErrorRate fires"),
        (HANGS, "alert HighLatency fires"),
        (HANGS, "other alerts that fire"),
        (HANGS, "the guide's queries find series"),
        (ENDS, "other alerts that fire"),
        (DOWN, "alert PlatformDown fires"),
        (DOWN, "alert HighErrorRate fires"),
        (DOWN, "other alerts that fire"),
        ("Control plane gone", "alerts that still fire"),
    ],
    with: &[
        (
            &postgres::NEEDS,
            &[
                (DATA, "connections of who is not the platform refused"),
                (DATA, "connections in its sidecar's metrics"),
                (DATA, "until a replica knows that nobody is there"),
                (DATA, "from running again to writing again"),
                (DATA, "rows of PostgreSQL that are lost"),
            ],
        ),
        (
            &redis::NEEDS,
            &[
                (DATA, "keys of Redis that are lost"),
                (
                    DATA,
                    "keys of Redis: times that the client lost its connection",
                ),
            ],
        ),
    ],
    // A replica's own calls, on a machine's loopback, would go to ports that depend on the replica.
    isolated: &[HANGS],
};

const CHECKS: &[Name] = &[
    (WELL, "not answered with 200"),
    (WELL, "requests to the platform over mutual TLS"),
    (WELL, "/health, /ready, /live, /metrics in plaintext"),
    (WELL, "anything else in plaintext refused"),
    (WELL, "calls of a service that is not named refused"),
    (WELL, "of these seen by the platform"),
    (WELL, "of one tenant, seen by the replicas"),
    (WELL, "under its name in their sidecars' metrics"),
    (FAILS, "before: requests that reached it, of 40 calls"),
    (FAILS, "after: requests that reached it, of 40 calls"),
    (FAILS, "after: answered 503 by the open breaker"),
    (FAILS, "after: the longest of these"),
    (FAILS, "from the breaker's opening to the first probe"),
    (FAILS, "requests that reached it until it closed"),
    (FAILS, "of these after which it was half open"),
    (FAILS, "failed of what another provider was asked"),
    (RESET, "requests that reached it, of three replicas"),
    (RESET, "answered 503 by open breakers"),
    (RESET, "listed as open: weft breaker list"),
    (RESET, "answered 200 once it is reset"),
    (RESET, "of these seen by the provider"),
    (RESET, "from the first failure to these, before its time"),
    (RESET, "of the other provider still not closed"),
    (RESET, "from a reset of all to an answer of the other"),
    (RESET, "not closed after a reset of all"),
    (
        HANGS,
        "before: the longest that a caller of the platform waited",
    ),
    (
        HANGS,
        "after: the longest that a caller of the platform waited",
    ),
    (HANGS, "before: the longest of the last quarter of requests"),
    (HANGS, "after: the longest of the last quarter of requests"),
    (
        HANGS,
        "before: requests that reached the provider, in percent",
    ),
    (
        HANGS,
        "after: requests that reached the provider, in percent",
    ),
    (HANGS, "after: without any answer"),
    (HANGS, "after: open breakers"),
    (HANGS, "failed of what needs no such provider"),
    (ENDS, "under way there at SIGTERM, answered by it since"),
    (ENDS, "not answered with 200"),
    (ENDS, "new ones that went there all the same"),
    (ENDS, "from SIGTERM to its end"),
    (ENDS, "from running again to serving"),
    (ENDS, "failed of all that the platform was asked"),
    (KILLED, "before: not answered with 200, of 120 requests"),
    (KILLED, "after: not answered with 200, of 120 requests"),
    (KILLED, "from running again to serving"),
    (DOWN, "until callers know that nobody is there"),
    (DOWN, "answered 503, no_endpoints, by the caller's sidecar"),
    (DOWN, "the longest of these"),
    (DOWN, "from running again to all three serving"),
    ("Control plane gone", "not answered with 200"),
    (
        "Control plane gone",
        "from its return to a current configuration",
    ),
    ("The whole story", "neither answered nor failed"),
];
