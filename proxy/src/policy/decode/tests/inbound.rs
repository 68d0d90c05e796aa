//! How a workload's own port is served.

use weft_proto::discovery as wire;

use crate::policy::{MtlsMode, Principal, decode};

#[test]
fn inbound() {
    let mut message = wire::Inbound {
        mtls: wire::MtlsMode::Strict.into(),
        authorization: Some(wire::Authorization {
            lists: vec![wire::AllowList {
                entries: vec![wire::AllowEntry {
                    principals: vec!["spiffe://a/ns/b/*".into(), "spiffe://a/ns/b/sa/c".into()],
                    methods: vec!["GET".into()],
                    paths: vec!["/cart".into()],
                }],
                audit: false,
            }],
        }),
        probes: vec![wire::Probe {
            path: "/health".into(),
            method: "GET".into(),
        }],
        ..Default::default()
    };
    let policy = decode::inbound(&message).unwrap();
    assert_eq!(policy.mtls, MtlsMode::Strict);
    assert_eq!(
        policy.authorization[0].entries[0].principals,
        [
            Principal::Prefix("spiffe://a/ns/b/".into()),
            Principal::Exact("spiffe://a/ns/b/sa/c".into())
        ]
    );

    for bad in ["spiffe://a/ns/b*", "*", "spiffe://a/*/b*", ""] {
        let mut message = message.clone();
        let lists = &mut message.authorization.as_mut().unwrap().lists;
        lists[0].entries[0].principals[0] = bad.into();
        let error = decode::inbound(&message).unwrap_err().to_string();
        assert!(error.starts_with("authorization"), "{bad}: {error}");
    }

    assert_eq!(policy.rate_limits, []);
    // What a control plane of before does not say is not so.
    assert!(!policy.application_ended && !policy.terminating);
    message.application_ended = true;
    let policy = decode::inbound(&message).unwrap();
    assert!(policy.application_ended && !policy.terminating);

    message.authorization.as_mut().unwrap().lists.clear();
    let error = decode::inbound(&message).unwrap_err().to_string();
    assert_eq!(error, "authorization: no list");
    message.authorization = None;
    message.mtls = 0;
    assert_eq!(
        decode::inbound(&message).unwrap_err().to_string(),
        "mtls: missing"
    );
}
