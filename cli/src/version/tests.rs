use serde_json::json;

use super::*;

#[test]
fn the_client_alone_is_one_line() {
    let text = Versions::of_client().text();
    assert_eq!(text, format!("weft {}\n", env!("CARGO_PKG_VERSION")));
    let machine = serde_json::to_value(Versions::of_client()).unwrap();
    assert_eq!(machine, json!({"client": env!("CARGO_PKG_VERSION")}));
}

#[test]
fn sidecars_are_counted_by_version() {
    let mut versions = Versions::of_client();
    let proxy = |version: &str| json!({"name": "x", "proxyVersion": version});
    versions.read(
        &json!({"status": "ok", "version": "0.2.0"}),
        &json!({
            "proxies": [proxy("0.1.9"), proxy("0.2.0"), proxy("0.1.9"), proxy("")],
            "replicas": [
                {"name": "a", "address": null, "error": null},
                {"name": "", "address": "10.0.0.2:15010", "error": "timed out"},
            ],
        }),
    );
    let text = versions.text();
    let lines: Vec<_> = text.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "control plane 0.2.0",
            "2 sidecars 0.1.9",
            "1 sidecar 0.2.0",
            "1 sidecar unknown",
            "the replica at 10.0.0.2:15010 did not answer: its sidecars are not counted",
        ]
    );
    let machine = serde_json::to_value(&versions).unwrap();
    assert_eq!(machine["sidecars"]["0.1.9"], 2);
    assert_eq!(machine["silentReplicas"][0], "10.0.0.2:15010");
}
