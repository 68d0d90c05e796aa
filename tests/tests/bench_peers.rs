//! The peers that the bench measures beside Weft: that they start, that what they claim of mutual TLS
//! holds (the bench measures nothing otherwise), and that they carry requests.
//!
//! They are the machine's `haproxy` and the Envoy of `tests/bench/requirements.txt` in the Python
//! environment that `WEFT_BENCH_PYTHON` names, else `target/python`. Where one is missing, or network
//! namespaces or cores are, its test is shown as ignored, with what is missing, and fails where `CI=true`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Trial};
use serde_json::Value;

/// Names the directory of a Python environment.
const PYTHON: &str = "WEFT_BENCH_PYTHON";
/// How the bench begins to say that it cannot be done here.
const ABSENT: [&str; 3] = [
    "is not installed",
    "has no network namespaces",
    "cores are needed",
];
/// One of every protocol.
const POINTS: [&str; 4] = ["http1-1k-c8", "http2-1k-c8", "grpc-1k-c8", "tcp-up"];
/// How what a sidecar used is called there.
const USED: [&str; 2] = ["cpuMicros", "cpuSecondsPerGigabyte"];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each wants both cores for itself.
    arguments.test_threads = Some(1);
    let trials = vec![
        Trial::ignorable_test("haproxy", || Ok(carries_requests("haproxy"))),
        Trial::ignorable_test("envoy", || Ok(carries_requests("envoy"))),
        Trial::test("a_peer_that_is_not_here_is_named_with_what_to_do", || {
            a_peer_that_is_not_here_is_named_with_what_to_do();
            Ok(())
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn a_peer_that_is_not_here_is_named_with_what_to_do() {
    let output = bench()
        .args(["--peers", "direct,haproxy", "--haproxy", "nowhere/haproxy"])
        .output()
        .expect("starts");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("haproxy is not installed: apt-get"), "{said}");
}

fn carries_requests(peer: &str) -> Completion {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("values.json");
    let output = bench()
        .args(["--peers", peer, "--scenarios", &POINTS.join(",")])
        .args(["--rounds", "1", "--time", "0.3", "--repeats", "0", "--json"])
        .arg(&file)
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stderr);
    // The line, and not where in the program it was said.
    let absent = ABSENT.iter().find_map(|words| {
        let line = said.lines().find(|line| line.contains(words))?;
        Some(line.trim_start_matches("Error: "))
    });
    if let Some(absent) = absent
        && std::env::var_os("CI").is_none_or(|it| it != "true")
    {
        return Completion::ignored_with(format!("NOT TESTED: {absent}"));
    }
    assert!(output.status.success(), "{said}");
    let text = std::fs::read_to_string(&file).expect("was written");
    let told: Value = serde_json::from_str(&text).expect("JSON");
    let points = told["points"].as_array().expect("points");
    assert_eq!(points.len(), POINTS.len(), "{told:#}");
    for point in points {
        let rounds = point["peers"][peer].as_array().expect("the peer");
        let [round] = rounds.as_slice() else {
            panic!("not one round: {told:#}");
        };
        // What went around the sidecars would cost them nothing.
        let used = USED.iter().find_map(|key| round[key].as_f64());
        assert!(used.expect("processor time") > 0.0, "{point:#}");
    }
    Completion::Completed
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
