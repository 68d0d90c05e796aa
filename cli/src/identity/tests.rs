//! The answer in words.

use serde_json::json;

use super::status::Status;
use super::text;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3600;

fn status(rotation: &serde_json::Value) -> Status {
    let certificate = |kind: &str, state: &str, days: u64| {
        json!({
            "kind": kind, "state": state, "fingerprint": "ab".repeat(32),
            "notAfter": NOW + days * DAY, "rotatesAt": NOW + days * DAY * 2 / 3,
        })
    };
    serde_json::from_value(json!({
        "trustDomain": "cluster.local", "kept": "Secret weft/weft-authority", "generation": 3,
        "leads": true, "problem": null, "leafLifetimeSeconds": DAY,
        "certificates": [certificate("root", "signs", 3000), certificate("issuer", "signs", 300)],
        "rotation": rotation,
    }))
    .unwrap()
}

#[test]
fn without_a_rotation_it_says_when_the_next_one_is() {
    let text = text::of(&status(&json!(null)), NOW);
    let wanted = "\
CERTIFICATE  STATE  FINGERPRINT       EXPIRES       ROTATES
root         signs  abababababababab  in 3000 days  in 2000 days
issuer       signs  abababababababab  in 300 days   in 200 days

no rotation is under way
";
    assert_eq!(text, wanted);
}

#[test]
fn whom_a_rotation_waits_for_is_named() {
    let rotation = json!({
        "kind": "root", "phase": "publish", "since": NOW - 300, "next": "sign",
        "atTheLatest": NOW + DAY,
        "waitingFor": {
            "bundle": true, "replicas": ["cp-2"], "sidecars": 12,
            "sidecarNames": ["shop/web-1", "shop/web-2"],
        },
    });
    let text = text::of(&status(&rotation), NOW);
    let said = text.split("\n\n").nth(1).unwrap();
    let wanted = "\
a rotation of the root is in phase publish, since 5 min
next: the new one signs, in 24 h at the latest
waiting for the bundle to be where sidecars boot from
waiting for replicas: cp-2
waiting for sidecars: shop/web-1, shop/web-2 and 10 more
";
    assert_eq!(said, wanted);
}

#[test]
fn what_is_wrong_is_said_last() {
    let mut status = status(&json!(null));
    status.problem = Some("it is gone".to_owned());
    assert!(text::of(&status, NOW).ends_with("\nWRONG: it is gone\n"));
}
