//! How an endpoint is chosen, from the wire.

use weft_proto::discovery as wire;
use weft_proto::discovery::hash_key::Kind;

use super::Decoded;
use super::fields::{at, cookie_name, header_name, known, missing, optional, positive, refuse};
use crate::policy::{Balancer, BalancerPolicy, HashKey};

pub(super) fn decode(message: &wire::LoadBalancer) -> Decoded<Balancer> {
    use wire::BalancerPolicy as Policy;
    let policy = known("policy", message.policy)?;
    if policy != Policy::ConsistentHash && message.hash_key.is_some() {
        return Err(refuse("hash_key", "given where nothing is hashed"));
    }
    Ok(Balancer {
        policy: match policy {
            Policy::PeakEwma => BalancerPolicy::PeakEwma,
            Policy::LeastRequest => BalancerPolicy::LeastRequest,
            Policy::RoundRobin => BalancerPolicy::RoundRobin,
            Policy::Random => BalancerPolicy::Random,
            Policy::ConsistentHash => {
                let key = optional("hash_key", message.hash_key.as_ref(), hash_key)?;
                BalancerPolicy::ConsistentHash(key.ok_or(missing("hash_key"))?)
            }
        },
        slow_start: optional("slow_start", message.slow_start.as_ref(), positive)?,
        prefer_same_zone: message.prefer_same_zone,
    })
}

fn hash_key(message: &wire::HashKey) -> Decoded<HashKey> {
    match message.kind.as_ref().ok_or(missing("kind"))? {
        Kind::Header(name) => Ok(HashKey::Header(header_name(name).map_err(at("header"))?)),
        Kind::Cookie(name) => Ok(HashKey::Cookie(cookie_name(name).map_err(at("cookie"))?)),
        Kind::SourceIp(true) => Ok(HashKey::SourceIp),
        Kind::SourceIp(false) => Err(refuse("source_ip", "false")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderName;

    use super::*;

    fn message(policy: wire::BalancerPolicy) -> wire::LoadBalancer {
        wire::LoadBalancer {
            policy: policy.into(),
            ..Default::default()
        }
    }

    fn by_hash(kind: Option<Kind>) -> wire::LoadBalancer {
        wire::LoadBalancer {
            hash_key: Some(wire::HashKey { kind }),
            ..message(wire::BalancerPolicy::ConsistentHash)
        }
    }

    #[test]
    fn every_way_of_choosing_comes_through() {
        for (policy, expected) in [
            (wire::BalancerPolicy::PeakEwma, BalancerPolicy::PeakEwma),
            (
                wire::BalancerPolicy::LeastRequest,
                BalancerPolicy::LeastRequest,
            ),
            (wire::BalancerPolicy::RoundRobin, BalancerPolicy::RoundRobin),
            (wire::BalancerPolicy::Random, BalancerPolicy::Random),
        ] {
            let decoded = decode(&message(policy));
            assert_eq!(decoded, Ok(expected.into()));
        }
        let header = HeaderName::from_static("x-user");
        for (kind, expected) in [
            (Kind::Header("x-user".into()), HashKey::Header(header)),
            (Kind::Cookie("Sid".into()), HashKey::Cookie("Sid".into())),
            (Kind::SourceIp(true), HashKey::SourceIp),
        ] {
            let whole = wire::LoadBalancer {
                slow_start: Some(Duration::from_secs(30).try_into().unwrap()),
                prefer_same_zone: true,
                ..by_hash(Some(kind))
            };
            let expected = Balancer {
                policy: BalancerPolicy::ConsistentHash(expected),
                slow_start: Some(Duration::from_secs(30)),
                prefer_same_zone: true,
            };
            assert_eq!(decode(&whole), Ok(expected));
        }
    }

    #[test]
    fn what_breaks_the_rules_is_refused_with_its_place() {
        let unknown = wire::LoadBalancer {
            policy: 9,
            ..Default::default()
        };
        let needless = wire::LoadBalancer {
            policy: wire::BalancerPolicy::Random.into(),
            ..by_hash(Some(Kind::SourceIp(true)))
        };
        let at_once = wire::LoadBalancer {
            slow_start: Some(prost_types::Duration::default()),
            ..Default::default()
        };
        for (message, expected) in [
            (unknown, "policy: unknown value 9"),
            (
                message(wire::BalancerPolicy::ConsistentHash),
                "hash_key: missing",
            ),
            (needless, "hash_key: given where nothing is hashed"),
            (by_hash(None), "hash_key.kind: missing"),
            (
                by_hash(Some(Kind::Header("X-User".into()))),
                "hash_key.header.name: not a header name in lower case",
            ),
            (
                by_hash(Some(Kind::Cookie("a b".into()))),
                "hash_key.cookie: not a cookie name",
            ),
            (
                by_hash(Some(Kind::SourceIp(false))),
                "hash_key.source_ip: false",
            ),
            (at_once, "slow_start: a duration of zero"),
        ] {
            let refused = decode(&message).unwrap_err();
            assert_eq!(refused.to_string(), expected);
        }
    }
}
