//! The peers that the bench measures beside Weft: that they start, that what they claim of mutual TLS
//! holds (the bench measures nothing otherwise), and that they carry requests.
//!
//! They are the machine's `haproxy` and the Envoy of `tests/bench/requirements.txt` in the Python
//! environment that `WEFT_BENCH_PYTHON` names, else `target/python`. Where one is missing, or network
//! namespaces or cores are, the test says so, and fails where `CI=true`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Names the directory of a Python environment.
const PYTHON: &str = "WEFT_BENCH_PYTHON";
/// How the bench begins to say that it cannot be done here.
const ABSENT: [&str; 3] = [
    "is not installed",
    "has no network namespaces",
    "cores are needed",
];
const POINT: &str = "http1-1k-c8";

#[test]
fn haproxy() {
    carries_requests("haproxy");
}

#[test]
fn envoy() {
    carries_requests("envoy");
}

#[test]
fn a_peer_that_is_not_here_is_named_with_what_to_do() {
    let output = bench()
        .args(["--peers", "direct,haproxy", "--haproxy", "nowhere/haproxy"])
        .output()
        .expect("starts");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("haproxy is not installed: apt-get"), "{said}");
}

fn carries_requests(peer: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("values.json");
    let output = bench()
        .args(["--peers", peer, "--scenarios", POINT])
        .args(["--rounds", "1", "--time", "0.5", "--repeats", "0", "--json"])
        .arg(&file)
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let absent = ABSENT.iter().any(|words| said.contains(words));
    if absent && std::env::var_os("CI").is_none_or(|it| it != "true") {
        println!("not tested: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let text = std::fs::read_to_string(&file).expect("was written");
    let told: Value = serde_json::from_str(&text).expect("JSON");
    let rounds = told["points"][0]["peers"][peer].as_array();
    let [round] = rounds.expect("the peer").as_slice() else {
        panic!("not one round: {told:#}");
    };
    // Requests that went around the sidecars would cost them nothing.
    let mut measured = round.as_object().expect("values").iter();
    let (_, used) = measured
        .find(|(name, _)| name.starts_with("cpuMicros"))
        .expect("processor time");
    assert!(used.as_f64().expect("a number") > 0.0, "{round:#}");
}

fn bench() -> Command {
    let python = std::env::var_os(PYTHON).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python"),
        PathBuf::from,
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.arg("--envoy").arg(python);
    command
}
