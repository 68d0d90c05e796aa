//! `weft check` as a script runs it: exit codes, what goes where, and the object for machines.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const MESH: &str = "networks: [10.42.0.0/16]\n\
    workloads: [{name: a-1, namespace: shop, addresses: [10.42.0.1]}]\n\
    services: [{name: a, namespace: shop, ports: [{port: 80}], endpoints: [{workload: a-1}]}]\n";

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn weft_check(args: &[&str], dir: &Path) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .arg("check")
        .args(args)
        .current_dir(dir)
        // No cluster either.
        .env("HOME", dir)
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .stdin(Stdio::null())
        .output()
        .expect("starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended {
        code: output.status.code(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

fn policy(name: &str, stanzas: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{targetRefs: [{{name: a}}], {stanzas}}}\n"
    )
}

#[test]
fn the_exit_code_is_that_of_the_worst_finding() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).expect("written");
    write("mesh.yaml", MESH);
    write("good.yaml", &policy("good", "timeouts: {request: 1s}"));
    write(
        "risky.yaml",
        &policy("risky", "retries: {methods: [GET, POST]}"),
    );
    write("bad.yaml", &policy("bad", "loadBalancer: {policy: Best}"));

    for (files, code, counted) in [
        (&["mesh.yaml", "good.yaml"][..], 0, "nothing found"),
        (&["risky.yaml", "good.yaml"], 1, "1 warning"),
        (&["bad.yaml", "good.yaml"], 2, "1 error"),
        (&["."], 2, "1 error, 1 warning"),
    ] {
        let args: Vec<_> = files.iter().flat_map(|file| ["-f", file]).collect();
        let ended = weft_check(&args, dir.path());
        assert_eq!(ended.code, Some(code), "{files:?}: {}", ended.out);
        let last = ended.out.lines().last().unwrap_or_default();
        assert!(last.contains(counted), "{files:?}: {last}");
        assert_eq!(ended.err, "", "{files:?}");
        assert!(!ended.out.contains('\u{1b}'), "colours without a terminal");
    }
    for args in [&["-f", "nowhere"][..], &[], &["-f", ".", "-o", "xml"]] {
        let ended = weft_check(args, dir.path());
        assert_eq!((ended.code, ended.out.as_str()), (Some(64), ""), "{args:?}");
        assert!(!ended.err.is_empty(), "{args:?}");
    }
}

#[test]
fn machines_get_one_object() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("mesh.yaml"), MESH).expect("written");
    let policies = policy("risky", "retries: {methods: [GET, POST]}")
        + "---\n"
        + &policy("bad", "loadBalancer: {policy: Best}");
    fs::write(dir.path().join("p.yaml"), policies).expect("written");

    let ended = weft_check(&["-f", ".", "-o", "json"], dir.path());
    assert_eq!((ended.code, ended.err.as_str()), (Some(2), ""));
    let object: Value = serde_json::from_str(&ended.out).expect("one object");
    assert_eq!(
        (&object["errors"], &object["warnings"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        object["checked"],
        json!({"policies": 1, "services": 1, "workloads": 1})
    );
    let findings = object["findings"].as_array().expect("a list");
    let told: Vec<_> = findings
        .iter()
        .map(|it| {
            json!([
                it["file"],
                it["line"],
                it["severity"],
                it["check"],
                it["object"]
            ])
        })
        .collect();
    assert_eq!(
        told,
        [
            json!([
                "./p.yaml",
                1,
                "warning",
                "not-idempotent",
                "TrafficPolicy shop/risky"
            ]),
            json!(["./p.yaml", 9, "error", "refused", "TrafficPolicy shop/bad"]),
        ]
    );
    for finding in findings {
        for field in ["what", "why"] {
            let words = finding[field].as_str().expect("words");
            assert!(!words.is_empty(), "{field} of {finding}");
        }
        assert!(finding["mend"].is_string(), "{finding}");
    }

    let clean = weft_check(&["-f", "mesh.yaml", "-o", "json"], dir.path());
    let object: Value = serde_json::from_str(&clean.out).expect("one object");
    assert_eq!((clean.code, &object["findings"]), (Some(0), &json!([])));
}
