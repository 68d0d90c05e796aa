//! `weft demo --platform NAME` for each platform: its whole story, as a script runs it, and that it told
//! what the platform's guide promises.
//!
//! A platform is a module here with the names of its checks, and a test. The story asserts; this suite asserts that it did, check by check, so that one that vanishes is missed.
//! Numbers are those of [`Platform::checks`], which docs/platform-NAME.md shows. Where the machine has no
//! PostgreSQL or Prometheus the checks that need one are not asked for, but in CI everything has to be there.
//!
//! With `WEFT_SOAK=1` durations are the guide's own (`--real-time`).

mod dotmac;
mod ecommerce;
mod kafka_gateway;
mod rent_to_own;
mod venta;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use weft_sandbox::programs::{missing, prometheus};

/// What one story may take, from its first process to its last: the guides' times are tenths. It is a
/// minute; but only two meshes play at once on a machine, and it may have to wait for others.
const MOST_TIME: Duration = Duration::from_secs(300);
/// The same with the guide's own times.
const MOST_REAL_TIME: Duration = Duration::from_secs(1_200);
/// Stories measure times: one after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A check, by its act and its name.
type Name = (&'static str, &'static str);

/// What a platform's story must have told.
#[derive(Clone, Copy, Debug)]
struct Platform {
    name: &'static str,
    /// Always.
    checks: &'static [Name],
    /// Where there is a Prometheus.
    watched: &'static [Name],
    /// Where there are these programs.
    with: &'static [(&'static [&'static str], &'static [Name])],
    /// Acts that only pods with networks of their own can play.
    isolated: &'static [&'static str],
}

#[test]
fn rent_to_own_keeps_what_its_guide_promises() {
    plays(&rent_to_own::STORY);
}

#[test]
fn venta_keeps_what_its_guide_promises() {
    plays(&venta::STORY);
}

#[test]
fn ecommerce_keeps_what_its_guide_promises() {
    plays(&ecommerce::STORY);
}

#[test]
fn dotmac_keeps_what_its_guide_promises() {
    plays(&dotmac::STORY);
}

#[test]
fn kafka_gateway_keeps_what_its_guide_promises() {
    plays(&kafka_gateway::STORY);
}

/// Plays a platform's story; everything is as expected, and everything that was to be measured was.
fn plays(platform: &Platform) {
    let soak = std::env::var_os("WEFT_SOAK").is_some();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-under-test"));
    command.args(["demo", "--json", "--platform", platform.name]);
    if soak {
        command.arg("--real-time");
    }
    let guard = ONE_AT_A_TIME.lock();
    let begun = Instant::now();
    let output = command.stdin(Stdio::null()).output().expect("starts");
    let took = begun.elapsed();
    drop(guard);
    let story = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{story}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(told["platform"], platform.name, "{told:#}");
    assert_eq!(told["dividedBy"], if soak { 1 } else { 10 }, "{told:#}");
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
    let is_isolated = told["interception"] != "none";
    for (act, what) in wanted(platform) {
        if !is_isolated && platform.isolated.contains(&act) {
            continue;
        }
        let of_that_name = |check: &&Value| check["act"] == act && check["what"] == what;
        let found = checks.iter().filter(of_that_name).count();
        assert_eq!(found, 1, "{act}: {what}\n{story}");
    }
    let failed: Vec<_> = checks.iter().filter(|check| check["ok"] != true).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{story}");
    assert_eq!(told["ok"], true, "{story}");
    assert_eq!(told["error"], Value::Null, "{story}");
    let most = if soak { MOST_REAL_TIME } else { MOST_TIME };
    assert!(took <= most, "{took:?}\n{story}");
}

/// What this machine can have told. In CI it can everything.
fn wanted(platform: &Platform) -> Vec<Name> {
    let mut names = platform.checks.to_vec();
    let watched: (&[&str], _) = (&prometheus::NEEDS, platform.watched);
    for (programs, more) in platform.with.iter().copied().chain([watched]) {
        let missing = missing(programs);
        if missing.is_empty() {
            names.extend(more);
            continue;
        }
        assert!(std::env::var_os("CI").is_none(), "{missing:?}");
        for missing in missing {
            eprintln!("{}: left out: {missing}", platform.name);
        }
    }
    names
}
