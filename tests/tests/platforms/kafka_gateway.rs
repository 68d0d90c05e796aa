//! The gateway with Kafka.

use weft_sandbox::programs::{postgres, redis};

use super::Platform;

/// What its story tells.
pub(super) const STORY: Platform = Platform {
    name: "kafka-gateway",
    checks: &[
        ("All is well", "not answered with 200"),
        ("All is well", "probes of /health answered with 200"),
        (
            "All is well",
            "acknowledged records that came to user-service once",
        ),
        (
            "All is well",
            "acknowledged records that came to notification-service once",
        ),
        ("All is well", "brokers that clients connected to"),
        (
            "All is well",
            "records that came to a broker that does not lead them",
        ),
        (
            "All is well",
            "ended connections of brokers that were mutual TLS",
        ),
        ("All is well", "brokers that refuse plaintext"),
        ("All is well", "connections of a broker to ZooKeeper let in"),
        ("All is well", "connections of others to ZooKeeper refused"),
        (
            "One address for all brokers",
            "before: refused, of 60 records of 20 clients",
        ),
        (
            "One address for all brokers",
            "after: refused, of 60 records of 20 clients",
        ),
        (
            "One address for all brokers",
            "before: records that brokers saw and do not lead",
        ),
        (
            "One address for all brokers",
            "after: records that brokers saw and do not lead",
        ),
        (
            "A gateway that fails",
            "before: not answered with 200, in percent",
        ),
        (
            "A gateway that fails",
            "after: not answered with 200, in percent",
        ),
        ("A slow gateway", "before: the longest that a caller waited"),
        ("A slow gateway", "after: the longest that a caller waited"),
        (
            "A slow gateway",
            "before: the median of what callers waited",
        ),
        ("A slow gateway", "after: the median of what callers waited"),
        ("A slow gateway", "from quick again to an answer"),
        (
            "A slow gateway",
            "connections of producers, consumers and databases lost",
        ),
        (
            "A gateway is killed",
            "before: not answered with 200, of 120 requests",
        ),
        (
            "A gateway is killed",
            "after: not answered with 200, of 120 requests",
        ),
        (
            "A gateway is killed",
            "after: requests that gateways answered themselves",
        ),
        ("A gateway is killed", "from running again to serving"),
        (
            "A broker is restarted",
            "before: connects that went out to it, in percent",
        ),
        (
            "A broker is restarted",
            "after: connects that went out to it, in percent",
        ),
        (
            "A broker is restarted",
            "the longest that a client waited to be told",
        ),
        (
            "A broker is restarted",
            "records of the other brokers meanwhile, in percent",
        ),
        (
            "A broker is restarted",
            "connections lost by producers of the others",
        ),
        (
            "A broker is restarted",
            "errors of consumers that are about the others",
        ),
        ("A broker is restarted", "from running again to a record"),
        (
            "A broker is restarted",
            "… to one at a consumer that started before it",
        ),
        (
            "A broker is restarted",
            "acknowledged records that came to user-service once",
        ),
        (
            "A broker is restarted",
            "acknowledged records that came to notification-service once",
        ),
        ("A broker is restarted", "not answered with 200"),
        (
            "Databases are restarted",
            "connections to brokers lost meanwhile",
        ),
        ("Databases are restarted", "not answered with 200"),
        (
            "Control plane gone",
            "clients that connected anew meanwhile",
        ),
        ("Control plane gone", "… and were refused"),
        (
            "Control plane gone",
            "connections of producers, consumers and databases lost",
        ),
        ("Control plane gone", "not answered with 200"),
        ("The whole story", "neither answered nor failed"),
    ],
    watched: &[
        ("All is well", "other alerts that fire"),
        ("A slow gateway", "alert HighErrorRate fires"),
        ("A slow gateway", "alert HighLatency fires"),
        ("A slow gateway", "other alerts that fire"),
        ("A slow gateway", "the guide's queries find series"),
        (
            "A broker is restarted",
            "alert KafkaConnectionFailures fires",
        ),
        ("A broker is restarted", "other alerts that fire"),
        ("Control plane gone", "alerts that still fire"),
    ],
    with: &[
        (
            &postgres::NEEDS,
            &[
                (
                    "Databases are restarted",
                    "PostgreSQL: connections of others refused",
                ),
                (
                    "Databases are restarted",
                    "PostgreSQL: until its client knows",
                ),
                (
                    "Databases are restarted",
                    "PostgreSQL: from running again to an answer",
                ),
                (
                    "Databases are restarted",
                    "PostgreSQL: acknowledged and not there",
                ),
                (
                    "The pool is full",
                    "before: connections that PostgreSQL counts",
                ),
                (
                    "The pool is full",
                    "after: connections that PostgreSQL counts",
                ),
            ],
        ),
        (
            &redis::NEEDS,
            &[
                (
                    "Databases are restarted",
                    "Redis: connections of others refused",
                ),
                ("Databases are restarted", "Redis: until its client knows"),
                (
                    "Databases are restarted",
                    "Redis: from running again to an answer",
                ),
                (
                    "Databases are restarted",
                    "Redis: acknowledged and not there",
                ),
            ],
        ),
    ],
    // The address that all share is given while the mesh runs.
    isolated: &["One address for all brokers"],
};
