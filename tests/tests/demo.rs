//! `weft demo` to its end, as a script runs it.
//!
//! This is the one quick test that takes longer than 30 s: the demo is a story at the pace of people,
//! whose acts wait for real bounds (a breaker's open duration, a drain, an outage of the control
//! plane), and a shorter form of it would be another program than the one that people run.

use std::process::{Command, Stdio};

use serde_json::Value;

/// Where the machine has no network namespaces the demo runs without interception, which is among
/// what is printed.
#[test]
fn everything_that_the_demo_measures_is_as_expected() {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(["demo", "--json"])
        // It needs no program of the machine.
        .env("PATH", "")
        .stdin(Stdio::null())
        .output()
        .expect("starts");
    let story = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{story}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    println!(
        "mode {}, interception {}, {} s, requests {}",
        told["mode"], told["interception"], told["seconds"], told["requests"]
    );
    let checks = told["checks"].as_array().expect("a list");
    for check in checks {
        println!(
            "{}: {}: {} {} of {}, expected {} to {}",
            check["act"],
            check["what"],
            check["value"],
            check["unit"],
            check["of"],
            check["least"],
            check["most"],
        );
    }
    assert!(!checks.is_empty(), "nothing was measured");
    let failed: Vec<_> = checks.iter().filter(|check| check["ok"] != true).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{story}");
    assert_eq!(told["ok"], true, "{story}");
    assert_eq!(told["error"], Value::Null, "{story}");
}
