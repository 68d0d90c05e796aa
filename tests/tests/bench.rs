//! The benchmark runs, every kind of point tells numbers that can be, and the short form's gates hold.
//!
//! How fast anything is cannot be told here, where tests run beside it and nothing is optimised.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::Value as Json;
use weft_sandbox::Sandbox;
use weft_tests::bench::{self, options::Options};

/// Of everything that is compared the least and the most that a machine may tell.
const LEAST: f64 = 1e-4;
const MOST: f64 = 1e8;

fn main() -> anyhow::Result<ExitCode> {
    // The sidecars are this program again.
    if std::env::args().nth(1).is_some_and(|it| it == "internal") {
        return Ok(weft_cli::main(std::env::args_os()));
    }
    let sandbox = Sandbox::enter()?;
    let mut arguments = Arguments::from_args();
    // Each wants both cores for itself.
    arguments.test_threads = Some(1);
    let sandbox: &'static Sandbox = Box::leak(Box::new(sandbox));
    let trials = vec![
        trial("the_short_form_holds", sandbox, the_short_form_holds),
        trial(
            "each_kind_of_point_is_sane",
            sandbox,
            each_kind_of_point_is_sane,
        ),
    ];
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

fn trial(name: &str, sandbox: &'static Sandbox, test: fn(&Sandbox) -> anyhow::Result<()>) -> Trial {
    Trial::ignorable_test(name, move || {
        let mode = sandbox.mode();
        let cores = std::thread::available_parallelism()?.get();
        if mode.has_namespaces() && cores > 1 {
            test(sandbox).map_err(|error| Failed::from(format!("{error:?}")))?;
            return Ok(Completion::Completed);
        }
        let why = format!("{mode}, {cores} cores");
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            return Err(format!("cannot run here: {why}").into());
        }
        Ok(Completion::ignored_with(why))
    })
}

fn the_short_form_holds(sandbox: &Sandbox) -> anyhow::Result<()> {
    let (holds, report) = run(sandbox, &["--quick"])?;
    assert!(holds, "gates fail: {report:#}");
    for (point, keys) in [
        ("http1-1k-c8", ["perSecond", "cpuMicros"]),
        ("tcp-up", ["gigabytesPerSecond", "cpuSecondsPerGigabyte"]),
    ] {
        are_sane(&report, point, "weft", &keys);
        are_sane(&report, point, "direct", &keys[..1]);
        // Nothing uses nothing: where there is no sidecar there is no number.
        assert!(
            value(&report, point, "direct", keys[1]).is_none(),
            "{point}"
        );
    }
    Ok(())
}

fn each_kind_of_point_is_sane(sandbox: &Sandbox) -> anyhow::Result<()> {
    let names = "http2-1k-c8,grpc-1k-c8,http1-1k-1000rps,tcp-down,tcp-connect,memory,ready";
    let short = ["--rounds", "1", "--time", "0.5", "--repeats", "0"];
    let which = ["--peers", "direct,weft", "--scenarios", names];
    let (_, report) = run(sandbox, &[&which[..], &short].concat())?;
    let requests = [
        "perSecond",
        "cpuMicros",
        "p50Micros",
        "p999Micros",
        "clientResidentMiB",
    ];
    for point in ["http2-1k-c8", "grpc-1k-c8", "tcp-connect"] {
        are_sane(&report, point, "weft", &requests);
        are_sane(
            &report,
            point,
            "direct",
            &["perSecond", "ownCpu", "p50Micros"],
        );
        let [p50, p99] = ["p50Micros", "p99Micros"].map(|key| value(&report, point, "weft", key));
        assert!(p50 <= p99, "{point}: {p50:?} {p99:?}");
    }
    are_sane(
        &report,
        "tcp-down",
        "weft",
        &["gigabytesPerSecond", "cpuSecondsPerGigabyte"],
    );
    are_sane(&report, "ready", "weft", &["millis", "millisAfterAnswer"]);
    let [whole, part] =
        ["millis", "millisAfterAnswer"].map(|key| value(&report, "ready", "weft", key));
    assert!(part < whole, "{part:?} of {whole:?}");
    are_sane(
        &report,
        "memory",
        "weft",
        &["clientIdleMiB", "serverIdleMiB", "clientMiBPer1000Tcp"],
    );
    assert_eq!(value(&report, "tcp-connect", "weft", "failed"), Some(0.0));
    // What it was disturbed by is told, and with no repeats nothing was measured again.
    let told = |key| value(&report, "http1-1k-1000rps", "direct", key);
    let late = told("lateShare");
    assert!(late.is_some_and(|it| (0.0..=1.0).contains(&it)), "{late:?}");
    assert_eq!(told("measuredAgain"), Some(0.0));
    // As many as are due, and no more: a client that is behind makes up for it.
    let paced = value(&report, "http1-1k-1000rps", "direct", "perSecond");
    assert!(paced.is_some_and(|rate| rate < 2_000.0), "{paced:?}");
    let of = |peer, key| value(&report, "http1-1k-1000rps", peer, key);
    let longer = of("weft", "p50Micros").zip(of("direct", "p50Micros"));
    let longer = longer.map(|(weft, direct)| weft - direct);
    assert_eq!(of("weft", "addedP50Micros"), longer);
    assert_eq!(of("direct", "addedP50Micros"), None);
    Ok(())
}

/// Whether the gates hold, and what is written as JSON.
fn run(sandbox: &Sandbox, arguments: &[&str]) -> anyhow::Result<(bool, Json)> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("bench.json");
    let path = Path::to_string_lossy(&file);
    let arguments = [&["bench", "--json", &*path][..], arguments].concat();
    let options = Options::try_parse_from(arguments)?.resolved()?;
    let holds = bench::run(&options, sandbox)?;
    Ok((holds, serde_json::from_slice(&std::fs::read(&file)?)?))
}

fn value(report: &Json, point: &str, peer: &str, key: &str) -> Option<f64> {
    let points = report["points"].as_array()?;
    let point = points.iter().find(|it| it["name"] == point)?;
    point["peers"][peer][0][key].as_f64()
}

fn are_sane(report: &Json, point: &str, peer: &str, keys: &[&str]) {
    for key in keys {
        let told = value(report, point, peer, key);
        assert!(
            told.is_some_and(|it| (LEAST..MOST).contains(&it)),
            "{point} {peer} {key}: {told:?}"
        );
    }
}
