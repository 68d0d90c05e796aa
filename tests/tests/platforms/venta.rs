//! Venta's backend.

use weft_sandbox::programs::{nats, postgres, redis};

use super::{Name, Platform};

const WELL: &str = "All is well";
const SLOW: &str = "A slow location service";
const REDIS: &str = "Redis is restarted";
const NATS: &str = "NATS is restarted";
const VERSION: &str = "A bad version, and back";
const DATABASE: &str = "A database, its pool and its restart";
const KILLED: &str = "A gateway pod is killed";
const ROLLING: &str = "Rolling update";
const GONE: &str = "Control plane gone";
const OTHERS: &str = "failed of what others were asked";
const FAILED: &str = "not answered with 200";
const SILENT: &str = "other alerts that fire";

/// What its story tells.
pub(super) const STORY: Platform = Platform {
    name: "venta",
    checks: CHECKS,
    watched: &[
        (WELL, SILENT),
        (SLOW, "alert HighErrorRate fires"),
        (SLOW, "alert HighLatency fires"),
        (SLOW, SILENT),
        (VERSION, "alert VersionFails fires"),
        (VERSION, SILENT),
        (VERSION, "the guide's queries find series"),
        (GONE, "alerts that still fire"),
    ],
    with: &[
        (
            &redis::NEEDS,
            &[
                (REDIS, "from running again to an answer"),
                (REDIS, "requests without any answer"),
                (REDIS, "the longest that a caller waited for its answer"),
                (REDIS, "told 503 while it was away"),
                (REDIS, "kept what it knew"),
                (REDIS, "not answered with 200 when it is back"),
                (REDIS, OTHERS),
            ],
        ),
        (
            &nats::NEEDS,
            &[
                (NATS, "connections of others refused"),
                (NATS, "from running again to clients that are connected"),
                (NATS, "attempts to connect again, the most of a client"),
                (NATS, "came exactly once, to one of the two"),
                (NATS, FAILED),
            ],
        ),
        (
            &postgres::NEEDS,
            &[
                (
                    DATABASE,
                    "before: connections that it has, of 15 of one pod",
                ),
                (DATABASE, "after: connections that it has, of 15 of one pod"),
                (DATABASE, "until its client knows that it is gone"),
                (DATABASE, "a try to connect meanwhile"),
                (DATABASE, "from running again to an answer"),
                (DATABASE, "rows that are there"),
                (DATABASE, FAILED),
            ],
        ),
        (
            &REDIS_WATCHED,
            &[(REDIS, "alert RedisConnectionFailures fires")],
        ),
        (
            &NATS_WATCHED,
            &[(NATS, "alert NatsConnectionFailures fires")],
        ),
        (
            &DATABASE_WATCHED,
            &[(DATABASE, "alert DatabaseConnectionFailures fires")],
        ),
    ],
    isolated: &[],
};

const REDIS_WATCHED: [&str; 2] = [redis::NEEDS[0], "prometheus"];
const NATS_WATCHED: [&str; 2] = [nats::NEEDS[0], "prometheus"];
const DATABASE_WATCHED: [&str; 2] = ["postgres", "prometheus"];

/// Those that need nothing but the mesh.
const CHECKS: &[Name] = &[
    (WELL, FAILED),
    (WELL, "probes of /health answered with 200"),
    (WELL, "other calls of strangers refused"),
    (WELL, "calls of a service that is not named refused"),
    (WELL, "of these seen by vendor-management"),
    (WELL, "request ids in the lines of both sidecars"),
    (WELL, "WebSockets open"),
    (SLOW, "before: the longest that a caller waited"),
    (SLOW, "after: the longest that a caller waited"),
    (SLOW, "before: the median of what callers waited"),
    (SLOW, "after: the median of what callers waited"),
    (SLOW, "before: the most that waited in its pods at once"),
    (SLOW, "after: the most that waited in its pods at once"),
    (SLOW, "after: from healed to serving"),
    (SLOW, OTHERS),
    (
        VERSION,
        "callers that the new version gets while it is well",
    ),
    (VERSION, "callers that fail while it is bad"),
    (VERSION, "failed, a second after the rollback"),
    (VERSION, "of these seen by the bad version"),
    (VERSION, OTHERS),
    (KILLED, "before: not answered with 200, of 120 requests"),
    (KILLED, "after: not answered with 200, of 120 requests"),
    (KILLED, "from running again to serving"),
    (KILLED, OTHERS),
    (ROLLING, "replaced and serving"),
    (ROLLING, FAILED),
    (ROLLING, "WebSockets of the pod that goes"),
    (ROLLING, "the least that they had to leave"),
    (ROLLING, "until they are at another pod"),
    (ROLLING, "cut of those of the other pod"),
    (GONE, FAILED),
    (GONE, "age of the configuration that sidecars go on with"),
    (GONE, "WebSockets cut"),
    (GONE, "of real-time-1 open since the story began"),
    (GONE, "the longest that one of these was silent"),
    ("The whole story", "neither answered nor failed"),
];
