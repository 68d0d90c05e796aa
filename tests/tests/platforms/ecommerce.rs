//! The e-commerce system.

use weft_sandbox::programs::{postgres, redis};

use super::Platform;

/// Redis is looked at while the database is away: both are asked for.
const DATABASE_AND_CACHE: [&str; postgres::NEEDS.len() + redis::NEEDS.len()] = {
    let [a, b, c, d, e, f] = postgres::NEEDS;
    let [g, h, i] = redis::NEEDS;
    [a, b, c, d, e, f, g, h, i]
};

/// What its story tells.
pub(super) const STORY: Platform = Platform {
    name: "ecommerce",
    checks: &[
        ("All is well", "not answered with 200"),
        ("All is well", "probes of /health answered with 200"),
        ("All is well", "other calls of strangers refused"),
        (
            "All is well",
            "calls of a service that is not named refused",
        ),
        ("All is well", "of these seen by user-service"),
        ("Canary 90/10", "v2's share, as pods count"),
        ("Canary 90/10", "not answered with 200"),
        ("A bad canary", "before: failed of what callers asked users"),
        (
            "A bad canary",
            "from weight 0 on disk to the last request that v2 got",
        ),
        ("A bad canary", "after: came to v2"),
        ("A bad canary", "after: failed of what callers asked users"),
        ("A bad canary", "failed of what others were asked"),
        (
            "Blue and green",
            "before: customers' requests that came to green, untested",
        ),
        (
            "Blue and green",
            "after: customers' requests that came to green, untested",
        ),
        ("Blue and green", "testers' requests that came to green"),
        ("Blue and green", "testers' requests that came to blue"),
        ("Blue and green", "switch: until blue got its last request"),
        (
            "Blue and green",
            "rollback: until green got its last request",
        ),
        ("Blue and green", "not answered with 200"),
        ("At the ingress", "paths that lead to their service"),
        ("At the ingress", "other paths refused with 403"),
        ("At the ingress", "of these seen by a service"),
        (
            "At the ingress",
            "before: of the flood of 600 came to the gateway",
        ),
        (
            "At the ingress",
            "after: of the flood of 600 came to the gateway",
        ),
        ("At the ingress", "after: refused with 429"),
        ("At the ingress", "after: told when by Retry-After"),
        ("At the ingress", "another client: not answered with 200"),
        ("At the ingress", "services: not answered with 200"),
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
        ("A slow dependency", "after: without any answer"),
        ("A slow dependency", "from healed to serving"),
        ("A slow dependency", "failed of what others were asked"),
        ("A pod is killed", "before: not answered with 200"),
        ("A pod is killed", "after: not answered with 200"),
        ("A pod is killed", "from running again to serving"),
        ("A pod is killed", "failed of what others were asked"),
        ("Control plane gone", "not answered with 200"),
        ("The whole story", "neither answered nor failed"),
    ],
    watched: &[
        ("All is well", "other alerts that fire"),
        ("A bad canary", "alert HighErrorRate fires"),
        ("A bad canary", "alert VersionFails fires"),
        ("A bad canary", "other alerts that fire"),
        ("A bad canary", "the guide's queries find series"),
        ("A slow dependency", "alert HighLatency fires"),
        ("A slow dependency", "alert CallersWait fires"),
        ("A slow dependency", "alert CallersSeeErrors fires"),
        ("A slow dependency", "other alerts that fire"),
        ("Control plane gone", "alerts that still fire"),
    ],
    with: &[
        (
            &postgres::NEEDS,
            &[
                (
                    "A pool of connections",
                    "connections of cart-service refused",
                ),
                (
                    "A pool of connections",
                    "before: sessions that the database counts, of 25",
                ),
                (
                    "A pool of connections",
                    "after: sessions that the database counts, of 25",
                ),
                (
                    "A pool of connections",
                    "after: connections that got no place",
                ),
                (
                    "A pool of connections",
                    "after: the longest that one of these waited",
                ),
                (
                    "A pool of connections",
                    "after: from one given back to the next one there",
                ),
                (
                    "The database is restarted",
                    "the longest try to connect while it is away",
                ),
                (
                    "The database is restarted",
                    "from running again to its client's connection",
                ),
                ("The database is restarted", "before: connections lost"),
                ("The database is restarted", "afterwards: connections lost"),
                (
                    "The database is restarted",
                    "confirmed rows that are missing",
                ),
                (
                    "The database is restarted",
                    "events that did not come exactly once",
                ),
                ("The database is restarted", "to Kafka: connections lost"),
                ("The database is restarted", "not answered with 200"),
            ],
        ),
        (
            &DATABASE_AND_CACHE,
            &[
                ("The database is restarted", "to Redis: connections lost"),
                (
                    "The database is restarted",
                    "carts that were kept meanwhile",
                ),
            ],
        ),
    ],
    isolated: &[],
};
