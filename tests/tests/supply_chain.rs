//! What Weft is built from: every licence permissive, nothing banned in the tree, and test doubles that
//! stay small.
//!
//! Licences come from `cargo metadata`; what is really built comes from `cargo tree`, because a
//! lock file also names optional crates that no feature turns on.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Licences that a dependency may be under.
const PERMISSIVE: [&str; 13] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    // Of data: the public root certificates that kube's verifier names for other systems.
    "CDLA-Permissive-2.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that must not be built into anything: a second TLS provider, C libraries that are not
/// ours to patch, and an abandoned parser.
const BANNED: [&str; 6] = [
    "native-tls",
    "openssl",
    "openssl-sys",
    "ring",
    "serde_yaml",
    "rustables",
];

/// Lines of the API server for tests, with everything: beyond that it would be a Kubernetes, whose faults
/// nobody tests.
const API_SERVER_LINES: usize = 2_500;

#[test]
fn the_api_server_for_tests_stays_a_double() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/apiserver");
    let mut folders = vec![folder];
    let (mut files, mut lines) = (0, 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files += 1;
                lines += std::fs::read_to_string(path).unwrap().lines().count();
            }
        }
    }
    assert!(files > 5, "the folder is the right one");
    assert!(
        lines <= API_SERVER_LINES,
        "the API server for tests has {lines} lines"
    );
}

#[test]
fn every_licence_is_permissive() {
    let metadata: serde_json::Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--locked"])).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "cargo metadata lists the whole tree");

    let mut refused = Vec::new();
    for package in packages {
        let (name, licence) = (
            &package["name"],
            package["license"].as_str().unwrap_or("none"),
        );
        // Nothing of an optional crate that is not built is distributed; it is judged all the same.
        if !is_permissive(licence) {
            refused.push(format!("{name}: {licence}"));
        }
    }
    assert!(
        refused.is_empty(),
        "licences that are not on the list: {refused:#?}"
    );
}

#[test]
fn nothing_banned_is_built() {
    let tree = cargo(&[
        "tree",
        "--workspace",
        "--locked",
        "--target",
        "all",
        "--edges",
        "all",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let built: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(
        built.contains("rustls") && built.contains("aws-lc-rs"),
        "the tree is the whole one"
    );

    let banned: Vec<&str> = BANNED
        .into_iter()
        .filter(|name| built.contains(name))
        .collect();
    assert!(banned.is_empty(), "banned crates in the tree: {banned:?}");
}

#[test]
fn licence_expressions_are_understood() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "MIT OR GPL-3.0-only",
        "(MIT OR GPL-3.0-only) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR MIT",
    ] {
        assert!(is_permissive(good), "{good}");
    }
    for bad in [
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(GPL-2.0 OR LGPL-2.1) AND MIT",
        "none",
    ] {
        assert!(!is_permissive(bad), "{bad}");
    }
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs the tests, so it can be run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// Evaluates an SPDX expression: `AND` binds tighter than `OR`; old manifests write `/` for `OR`.
fn is_permissive(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (permissive, rest) = any_of(&words);
    permissive && rest.is_empty()
}

fn any_of<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut permissive, mut rest) = all_of(words);
    while let ["OR", more @ ..] = rest {
        let (also, after) = all_of(more);
        permissive |= also;
        rest = after;
    }
    (permissive, rest)
}

fn all_of<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut permissive, mut rest) = one(words);
    while let ["AND", more @ ..] = rest {
        let (also, after) = one(more);
        permissive &= also;
        rest = after;
    }
    (permissive, rest)
}

fn one<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    match words {
        ["(", inner @ ..] => {
            let (permissive, rest) = any_of(inner);
            (
                permissive && rest.first() == Some(&")"),
                rest.get(1..).unwrap_or_default(),
            )
        }
        [licence, "WITH", exception, rest @ ..] => (
            PERMISSIVE.contains(&format!("{licence} WITH {exception}").as_str()),
            rest,
        ),
        [licence, rest @ ..] => (PERMISSIVE.contains(licence), rest),
        [] => (false, words),
    }
}
