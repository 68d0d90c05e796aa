use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// The exit code and what is printed. Tests run in the crate's folder.
fn run_with(args: &[&str]) -> (u8, String) {
    let line = Line::try_parse_from([&["check"], args].concat()).expect("a good command line");
    let report = report(&line.options).expect("paths that can be read");
    let printed = print(&line.options, &report, None, Paint::plain());
    (code(&line.options, &report, None), printed)
}

#[test]
fn the_text_is_the_golden_one() {
    let (code, printed) = run_with(&["-f", "src/check/testdata/shop"]);
    assert_eq!(printed, include_str!("testdata/shop.txt"), "{printed}");
    assert_eq!(code, ERRORS);
    assert!(printed.lines().all(|line| line.chars().count() <= WIDTH));
}

#[test]
fn the_object_for_machines_has_a_stable_shape() {
    let file = "src/check/testdata/shop/policies.yaml";
    let (code, printed) = run_with(&["-f", file, "-o", "json"]);
    let object: Value = serde_json::from_str(&printed).expect("JSON");
    let counts = json!([object["errors"], object["warnings"], object["checked"]]);
    assert_eq!(
        counts,
        json!([3, 2, {"policies": 2, "services": 0, "workloads": 0}])
    );
    assert_eq!(
        object["findings"][0],
        json!({
            "file": file,
            "line": 1,
            "severity": "warning",
            "check": "not-idempotent",
            "object": "TrafficPolicy shop/checkout",
            "what": "spec.retries: methods has POST",
            "why": "a try that failed may have been processed; repeating it does it twice",
            "mend": "leave them out, and let clients that want a retry send Idempotency-Key",
        })
    );
    assert_eq!(code, ERRORS);
}

#[test]
fn the_quickstart_is_clean() {
    let (code, printed) = run_with(&["-f", "../examples/quickstart"]);
    assert_eq!(
        printed,
        "3 policies, 5 services and 8 workloads were checked: nothing found.\n"
    );
    assert_eq!(code, 0);
    // So is each of its files, and all of them one by one.
    let files = ["mesh", "checkout", "inventory", "web"];
    let files = files.map(|name| format!("../examples/quickstart/{name}.yaml"));
    for file in &files {
        assert_eq!(run_with(&["-f", file]).0, 0, "{file}");
    }
    let args: Vec<_> = files.iter().flat_map(|file| ["-f", file]).collect();
    assert_eq!(run_with(&args), (0, printed));
}

#[test]
fn warnings_alone_are_one() {
    let finding = |severity| Finding {
        file: "f".to_owned(),
        line: 0,
        severity,
        check: "c",
        object: "o".to_owned(),
        what: "w".to_owned(),
        why: String::new(),
        mend: String::new(),
    };
    let with = |severities: &[Severity]| Report {
        findings: severities.iter().copied().map(finding).collect(),
        ..Report::default()
    };
    let both = [Severity::Warning, Severity::Error];
    for (args, codes) in [
        (&["check"][..], [0, 1, 2]),
        (&["check", "--allow-warnings"], [0, 0, 2]),
    ] {
        let line = Line::try_parse_from(args).expect("a good command line");
        for (severities, wanted) in [&both[..0], &both[..1], &both].into_iter().zip(codes) {
            assert_eq!(
                code(&line.options, &with(severities), None),
                wanted,
                "{args:?}"
            );
        }
    }
    let printed = text(&with(&[Severity::Warning]), Paint::plain());
    assert!(
        printed.starts_with("warning f\n        o [c]\n        what  w\n\n0 policies"),
        "{printed}"
    );
}

#[test]
fn paths_that_cannot_be_read_are_bad_usage() {
    let line = Line::try_parse_from(["check", "-f", "no/such/path"]).expect("a good command line");
    let error = report(&line.options).expect_err("there is no such path");
    assert!(error.to_string().starts_with("no/such/path: "), "{error}");
    assert_eq!(run(&line.options), ExitCode::from(64));
}

#[test]
fn lines_fit_whatever_the_words() {
    let long = "x".repeat(300);
    for words in [
        "",
        "one two",
        &long,
        &format!("a {long} b"),
        &"word ".repeat(60),
    ] {
        for head in ["", "what  "] {
            let width = WIDTH - INDENT.len();
            let lines = wrapped(words, head, width);
            assert!(
                lines.iter().all(|line| line.chars().count() <= width),
                "{lines:#?}"
            );
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
            let printed: usize = lines.iter().map(|line| letters(line)).sum();
            assert_eq!(printed, letters(words) + letters(head));
        }
    }
}
