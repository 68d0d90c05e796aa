use serde_json::json;

use super::*;
use crate::spec::IMAGES;

/// A program of ours, what is in it, and what only builds or tests it.
fn metadata(folder: &Path) -> Value {
    let package = |id: &str, source: Value| {
        let manifest = folder.join(id).join("Cargo.toml");
        json!({
            "id": id, "name": id, "version": "1.0.0", "license": "MIT", "source": source,
            "manifest_path": manifest,
        })
    };
    let dependency = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
    json!({
        "packages": [
            package("weft-proxy", Value::Null),
            package("inner", json!("registry")),
            package("innermost", json!("registry")),
            package("builds", json!("registry")),
            package("tests", json!("registry")),
        ],
        "resolve": {"nodes": [
            {"id": "weft-proxy", "deps": [
                dependency("inner", Value::Null),
                dependency("builds", json!("build")),
                dependency("tests", json!("dev")),
            ]},
            {"id": "inner", "deps": [dependency("innermost", Value::Null)]},
        ]},
    })
}

#[test]
fn texts_of_what_is_built_in_are_there_once() {
    let folder = tempfile::tempdir().expect("a folder");
    for (package, file, text) in [
        ("weft-proxy", "LICENSE", "ours"),
        ("inner", "LICENSE-MIT", "the text\n"),
        ("inner", "Cargo.toml", "no licence"),
        ("innermost", "licence.md", "the text"),
        ("innermost", "NOTICE", "a notice"),
        ("builds", "LICENSE", "of a builder"),
        ("tests", "LICENSE", "of a test"),
    ] {
        let package = folder.path().join(package);
        fs::create_dir_all(&package).expect("a folder");
        fs::write(package.join(file), text).expect("a file");
    }
    let packages = Packages::parse(&metadata(folder.path())).expect("whole");
    let notices = packages.notices(&IMAGES[0]).expect("readable");
    let lines: Vec<_> = notices.lines().collect();
    for line in [
        "inner 1.0.0: MIT",
        "inner 1.0.0, innermost 1.0.0",
        "a notice",
    ] {
        assert!(lines.contains(&line), "{line} in {notices}");
    }
    assert_eq!(notices.matches("the text").count(), 1);
    for absent in ["ours", "no licence", "of a builder", "of a test"] {
        assert!(!notices.contains(absent), "{absent} in {notices}");
    }
}

#[test]
fn an_answer_that_is_not_understood_is_no_answer() {
    let whole = metadata(Path::new("/nowhere"));
    assert!(Packages::parse(&whole).is_some());
    for field in ["packages", "resolve"] {
        let mut part = whole.clone();
        part[field].take();
        assert!(Packages::parse(&part).is_none(), "{field}");
    }
    let mut part = whole;
    part["packages"][1]["name"].take();
    assert!(Packages::parse(&part).is_none());
}

#[test]
fn a_source_that_is_gone_is_an_error() {
    let packages = Packages::parse(&metadata(Path::new("/nowhere"))).expect("whole");
    let error = packages.notices(&IMAGES[0]).expect_err("no folder");
    assert!(error.to_string().contains("/nowhere/inner"), "{error}");
}
