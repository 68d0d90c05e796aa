//! What the chart sets is what the programs understand.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::python::{Python, WEFT};

/// Exit code of settings that a program does not understand (`EX_USAGE`, sysexits.h), and of a
/// command line that clap refuses.
const NOT_UNDERSTOOD: [i32; 2] = [64, 2];

/// Of every case, each program goes so far as to look for its cluster, which is not there.
pub(crate) fn programs_understand_what_the_chart_sets(python: &Python) {
    let cases = python.processes();
    let cases = cases.as_object().unwrap();
    assert!(cases.len() > 10);
    for (case, programs) in cases {
        for (name, process) in programs.as_object().unwrap() {
            let (code, said) = started(process, None);
            assert_eq!(code, 1, "{case}, {name}: {said}");
            assert!(said.contains("kubeconfig"), "{case}, {name}: {said}");
        }
    }
    // They do not take everything.
    for (name, variable) in [
        ("weft-control-plane", "WEFT_LEAF_LIFETIME"),
        ("weft-injector", "WEFT_PROXY_LOG_LEVEL"),
    ] {
        let (code, said) = started(&cases["defaults"][name], Some((variable, "loud")));
        assert!(NOT_UNDERSTOOD.contains(&code), "{name}: {code} {said}");
    }
}

/// Exit code and words of a program without a cluster.
fn started(process: &Value, wrong: Option<(&str, &str)>) -> (i32, String) {
    let command = process["command"].as_array().unwrap();
    let mut command = command.iter().map(|it| it.as_str().unwrap());
    let program = command.next().unwrap().trim_start_matches("weft-");
    let variables = process["variables"].as_object().unwrap();
    let variables: BTreeMap<_, _> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .chain(wrong)
        .collect();
    let output = Command::new(WEFT)
        .args(["internal", program])
        .args(command)
        .env_clear()
        .envs(variables)
        .env("KUBECONFIG", "/nowhere/kubeconfig")
        // Whatever else runs here, these are free.
        .env("WEFT_LISTEN_ADDR", "127.0.0.1:0")
        .env("WEFT_ADMIN_ADDR", "127.0.0.1:0")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.code().unwrap(), said)
}
