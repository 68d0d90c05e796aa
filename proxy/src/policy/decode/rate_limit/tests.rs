use weft_proto::discovery as wire;
use weft_proto::discovery::rate_limit::Key;

use crate::policy::{InboundPolicy, RateLimitKey, decode};

fn limit(burst: u32) -> wire::RateLimit {
    wire::RateLimit {
        rate: Some(wire::Rate {
            requests_per_second: 1,
            burst,
        }),
        key: Some(Key::Global(true)),
    }
}

fn rule(name: &str, limit: Option<wire::RateLimit>) -> wire::RateLimitRule {
    wire::RateLimitRule {
        name: name.into(),
        matches: vec![wire::RouteMatch {
            method: "GET".into(),
            ..Default::default()
        }],
        limit,
    }
}

fn ruled(rules: Vec<wire::RateLimitRule>) -> wire::RuledRateLimits {
    wire::RuledRateLimits {
        service: Some(wire::ServiceRef {
            namespace: "shop".into(),
            name: "cart".into(),
            port: 80,
        }),
        rules,
        otherwise: Some(limit(9)),
    }
}

fn decoded(limits: wire::RuledRateLimits) -> Result<InboundPolicy, String> {
    decode::inbound(&wire::Inbound {
        mtls: wire::MtlsMode::Strict.into(),
        ruled_rate_limits: vec![limits],
        ..Default::default()
    })
    .map_err(|error| error.to_string())
}

#[test]
fn limits_by_rules() {
    let limits = ruled(vec![rule("a", None), rule("b", Some(limit(3)))]);
    let policy = decoded(limits).unwrap();
    assert!(policy.has_rate_limits() && policy.rate_limits.is_empty());
    let limits = &policy.ruled_rate_limits[0];
    assert_eq!(&*limits.service.name, "cart");
    assert_eq!(limits.rules[0].limit, None);
    assert_eq!(&*limits.rules[1].name, "b");
    assert_eq!(limits.rules[1].matches.len(), 1);
    let own = limits.rules[1].limit.as_ref().unwrap();
    assert_eq!((own.rate.burst.get(), &own.key), (3, &RateLimitKey::Global));
    assert_eq!(limits.otherwise.as_ref().unwrap().rate.burst.get(), 9);
}

#[test]
fn what_could_not_act_is_refused() {
    let good = || rule("a", Some(limit(1)));
    let mut nowhere = ruled(vec![good()]);
    nowhere.service = None;
    let mut nameless = good();
    nameless.name.clear();
    let mut endless = good();
    endless.matches.clear();
    let mut keyless = ruled(vec![good()]);
    keyless.otherwise.as_mut().unwrap().key = None;
    let bound = "not from 1 to 10,000,000";
    for (limits, reason) in [
        (ruled(vec![]), "rules: none of them has a limit".to_owned()),
        (
            ruled(vec![rule("a", None)]),
            "rules: none of them has a limit".to_owned(),
        ),
        (nowhere, "service: missing".to_owned()),
        (ruled(vec![nameless]), "rules[0].name: missing".to_owned()),
        (ruled(vec![endless]), "rules[0].matches: missing".to_owned()),
        (keyless, "otherwise.key: missing".to_owned()),
        (
            ruled(vec![good(), rule("b", Some(limit(0)))]),
            format!("rules[1].limit.rate.burst: {bound}"),
        ),
    ] {
        let error = decoded(limits).unwrap_err();
        assert_eq!(error, format!("ruled_rate_limits[0].{reason}"));
    }
}

#[test]
fn a_rate_limit_by_itself() {
    let rate = |requests_per_second, burst| wire::Rate {
        requests_per_second,
        burst,
    };
    let by_identity = |identity: &str, burst| {
        Key::ClientIdentity(wire::RateLimitByIdentity {
            overrides: vec![wire::RateLimitOverride {
                identity: identity.into(),
                rate: Some(rate(1, burst)),
            }],
        })
    };
    let decoded = |rate, key| {
        decode::inbound(&wire::Inbound {
            mtls: wire::MtlsMode::Strict.into(),
            rate_limits: vec![wire::RateLimit {
                rate: Some(rate),
                key,
            }],
            ..Default::default()
        })
        .map_err(|error| error.to_string())
    };
    let policy = decoded(rate(10, 20), Some(by_identity("spiffe://a/b", 5))).unwrap();
    let limit = &policy.rate_limits[0];
    assert_eq!(
        (limit.rate.per_second.get(), limit.rate.burst.get()),
        (10, 20)
    );
    let RateLimitKey::ClientIdentity(overrides) = &limit.key else {
        panic!("{limit:?}");
    };
    assert_eq!(overrides[0].rate.burst.get(), 5);

    let bound = "not from 1 to 10,000,000";
    for (rate, key, reason) in [
        (rate(10, 10), None, "key: missing".to_owned()),
        (
            rate(10, 10),
            Some(Key::Global(false)),
            "global: false".to_owned(),
        ),
        (
            rate(10, 10),
            Some(Key::Header("X".into())),
            "header.name: not a header name in lower case".to_owned(),
        ),
        (
            rate(0, 10),
            Some(Key::Global(true)),
            format!("rate.requests_per_second: {bound}"),
        ),
        (
            rate(10, 10_000_001),
            Some(Key::Global(true)),
            format!("rate.burst: {bound}"),
        ),
        (
            rate(10, 10),
            Some(by_identity("a", 0)),
            format!("client_identity.overrides[0].rate.burst: {bound}"),
        ),
        (
            rate(10, 10),
            Some(by_identity("", 1)),
            "client_identity.overrides[0].identity: missing".to_owned(),
        ),
    ] {
        let error = decoded(rate, key).unwrap_err();
        assert_eq!(error, format!("rate_limits[0].{reason}"));
    }
}
