//! One `TrafficPolicy` manifest.

use serde_json::Value;
use weft_control_plane::policy::TrafficPolicy;

/// What is refused is refused with reasons, and what is accepted survives being written and read again.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(manifest) = serde_saphyr::from_str::<Value>(text) else {
        return;
    };
    let policy = match TrafficPolicy::read(manifest) {
        Ok(policy) => policy,
        Err(violations) => {
            assert!(!violations.is_empty());
            for violation in violations {
                assert!(!violation.reason.is_empty());
            }
            return;
        }
    };
    assert!(!policy.spec.target_refs.is_empty());
    let written = serde_json::to_value(&policy).expect("what was read can be written");
    match TrafficPolicy::read(written.clone()) {
        Ok(again) => assert_eq!(again, policy, "{written}"),
        Err(violations) => panic!("{violations:?}: {written}"),
    }
}
