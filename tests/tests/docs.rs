//! What the pages name is there: links, metrics and their labels, annotations, environment variables,
//! outcomes, admin paths, commands and the chart's values.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use weft_proto::names;
use weft_proxy::outcome::{Origin, Outcome};
use weft_proxy::telemetry::{ProcessLabels, ScopeLabels, TcpLabels, Telemetry, Tls, families};
use weft_sandbox::metrics::Metrics;
use weft_tests::promql::selectors;

/// The crates whose sources say what there is.
const CRATES: [&str; 5] = ["proxy", "control-plane", "injector", "proto", "cli"];
/// Fewer than these are not all of them.
const LEAST_PAGES: usize = 20;
const LEAST_LINKS: usize = 60;
const LEAST_NAMES: usize = 20;
const LEAST_MATCHERS: usize = 12;
const LEAST_VALUES: usize = 6;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files with this ending in a folder and those in it.
fn files_under(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).expect("a folder");
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            files.extend(files_under(&path, ending));
        } else if path.extension().is_some_and(|it| it == ending) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Every page for users.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = vec![root().join("README.md")];
    pages.extend(files_under(&root().join("docs"), "md"));
    pages.extend(files_under(&root().join("examples"), "md"));
    assert!(pages.len() >= LEAST_PAGES, "only {pages:?}");
    let read = |path: PathBuf| {
        let text = read(&path);
        (path, text)
    };
    pages.into_iter().map(read).collect()
}

/// Everything that the crates' sources say.
fn sources() -> String {
    let folders = CRATES.map(|name| root().join(name).join("src"));
    let files = folders.iter().flat_map(|folder| files_under(folder, "rs"));
    files.map(|path| read(&path)).collect()
}

/// What the suites read from their environment.
fn suites() -> String {
    let files = files_under(&root().join("tests"), "rs").into_iter();
    files.map(|path| read(&path)).collect()
}

/// The words of a text that begin so, each with the letters that `is_part` allows.
fn words(text: &str, beginning: &str, is_part: fn(char) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(beginning) {
        if text[..at].chars().next_back().is_some_and(is_part) {
            continue;
        }
        let end = text[at..].find(|c| !is_part(c));
        found.insert(text[at..][..end.unwrap_or(text.len() - at)].to_owned());
    }
    found
}

/// A page without its blocks of code.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// The anchors of a page, as forges make them of headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let page = prose(page);
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            });
            kept.collect()
        })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for (path, text) in pages() {
        for rest in prose(&text).split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = if file.is_empty() {
                path.clone()
            } else {
                path.parent().expect("a folder").join(file)
            };
            assert!(to.exists(), "{}: no {target}", path.display());
            let is_there = anchor.is_empty() || anchors(&read(&to)).contains(anchor);
            assert!(is_there, "{}: no heading {target}", path.display());
            checked += 1;
        }
    }
    assert!(checked >= LEAST_LINKS, "only {checked} links");
}

#[test]
fn every_page_is_in_the_list() {
    let list = read(&root().join("README.md"));
    // Pages of alerts have a list of their own.
    let alerts = read(&root().join("docs/runbooks.md"));
    let docs = root().join("docs");
    for page in files_under(&docs, "md") {
        let name = page.strip_prefix(&docs).expect("a page of docs");
        let (list, link) = if name.starts_with("runbooks") {
            (&alerts, format!("]({})", name.display()))
        } else {
            (&list, format!("](docs/{})", name.display()))
        };
        assert!(list.contains(&link), "{} is in no list", name.display());
    }
}

/// The sidecar's families, and what all processes write under a name of their own.
fn metrics(sources: &str) -> BTreeSet<String> {
    let literals = sources.split('"').filter(|text| text.starts_with("weft_"));
    let is_name = |text: &&str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let mut known: BTreeSet<_> = literals.filter(is_name).map(str::to_owned).collect();
    let duration = families::REQUEST_DURATION.name;
    for suffix in ["bucket", "sum", "count"] {
        known.insert(format!("{duration}_{suffix}"));
    }
    for family in families::HANDLED.iter().chain(families::COLLECTED) {
        known.insert(family.name.to_owned());
    }
    known
}

#[test]
fn every_metric_is_there() {
    let known = metrics(&sources());
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut named = BTreeSet::new();
    for (path, text) in pages() {
        for word in words(&text, "weft_", is_part) {
            let place = path.display();
            // A family of names, as `weft_tcp_*`.
            let is_group = word.ends_with('_');
            let is_known = if is_group {
                known.iter().any(|name| name.starts_with(&word))
            } else {
                known.contains(&word)
            };
            assert!(is_known, "{place}: no metric {word}");
            named.insert(word);
        }
    }
    assert!(named.len() >= LEAST_NAMES, "only {named:?}");
}

/// A sidecar's page with a request and an opaque connection in it.
fn page() -> Metrics {
    let telemetry = Telemetry::new(ProcessLabels {
        workload: "web-1".into(),
        namespace: "shop".into(),
    });
    let label = |text: &str| Arc::<str>::from(text);
    let scope = telemetry.request_scope(ScopeLabels {
        direction: Origin::Outbound,
        service: label("shop/cart:80"),
        route: label("default"),
        backend: label("shop/cart:80"),
        peer: label("shop/cart"),
        tls: Tls::Mutual,
    });
    let took = Duration::from_millis(3);
    scope.record(&Method::GET, 200, None, Outcome::Ok, took);
    let bytes = telemetry.tcp_scope(TcpLabels {
        direction: Origin::Inbound,
        service: label("shop/db:5432"),
        backend: label("shop/db:5432"),
        peer: label("unknown"),
        tls: Tls::None,
        sni: Some(label("db.example")),
    });
    bytes.open().end(Outcome::Ok);
    Metrics::parse(&telemetry.render())
}

#[test]
fn every_label_of_a_query_is_there() {
    let page = page();
    let mut checked = 0;
    for (path, text) in pages() {
        for selector in selectors(&text) {
            // What no request has brought about yet has no labels here.
            if page.matching(&selector.name, &[]).next().is_none() {
                continue;
            }
            for matcher in &selector.matchers {
                let label = &matcher.label;
                let mut samples = page.matching(&selector.name, &[]);
                let is_there = samples.any(|sample| sample.label(label).is_some());
                assert!(is_there, "{}: {label} of {selector:?}", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked >= LEAST_MATCHERS, "only {checked}");
}

#[test]
fn every_annotation_and_variable_is_there() {
    let sources = sources() + &suites();
    let is_part = |c: char| c.is_ascii_lowercase() || matches!(c, '-' | '.' | '/' | '_');
    let is_upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let mut named = BTreeSet::new();
    for (path, text) in pages() {
        let place = path.display();
        for word in words(&text, names::CONFIG_ANNOTATION_PREFIX, is_part) {
            let name = &word[names::CONFIG_ANNOTATION_PREFIX.len()..];
            let is_there = name.is_empty() || sources.contains(&format!("name: \"{name}\""));
            assert!(is_there, "{place}: no annotation {word}");
            named.insert(word);
        }
        for word in words(&text, "WEFT_", is_upper) {
            let is_there = sources.contains(&format!("\"{word}\""));
            assert!(is_there, "{place}: no variable {word}");
            named.insert(word);
        }
    }
    assert!(named.len() >= LEAST_NAMES, "only {named:?}");
}

/// What the first column of a page's rows names in quotes of code.
fn first_column(page: &str) -> BTreeSet<&str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells
        .flat_map(|cell| cell.split('`').step_by(2))
        .filter(|word| !word.trim_matches([',', ' ']).is_empty())
        .collect()
}

#[test]
fn every_outcome_is_on_both_pages_and_no_other() {
    let all: BTreeSet<_> = Outcome::ALL
        .iter()
        .map(|outcome| outcome.as_str())
        .collect();
    let list = read(&root().join("docs/outcomes.md"));
    assert_eq!(first_column(&list), all);
    let help = read(&root().join("docs/debug-503.md"));
    let mut helped = first_column(&help);
    // In words below the table.
    helped.insert(Outcome::Ok.as_str());
    assert_eq!(helped, all);
}

#[test]
fn every_admin_path_is_there() {
    let sources = [
        "proxy/src/admin/routes.rs",
        "control-plane/src/serve/admin.rs",
        "control-plane/src/serve/admin/command.rs",
    ];
    let routes: String = sources.map(|source| read(&root().join(source))).concat();
    let is_part =
        |c: char| c.is_ascii_lowercase() || c == '-' || c == '/' || c == ':' || c.is_ascii_digit();
    let mut checked = 0;
    for (path, text) in pages() {
        for word in words(&text, "localhost:15190/", is_part) {
            let wanted = word.trim_start_matches("localhost:15190");
            let is_there = routes.contains(&format!("\"{wanted}\""));
            assert!(is_there, "{}: no path {wanted}", path.display());
            checked += 1;
        }
    }
    assert!(checked >= 5, "only {checked}");
}

/// What `weft` with these arguments and `--help` prints.
fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(arguments)
        .arg("--help")
        .output()
        .expect("weft starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The commands in a help text.
fn commands(help: &str) -> BTreeSet<&str> {
    let (_, list) = help.split_once("Commands:\n").unwrap_or_default();
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    lines
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

/// Lines of a page's blocks for a shell, continued ones as one.
fn shell(page: &str) -> Vec<String> {
    let blocks = page.split("```sh\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap_or_default());
    let lines = blocks
        .map(|block| block.replace("\\\n", " "))
        .collect::<String>();
    lines.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn every_command_and_flag_is_there() {
    let all = help(&[]);
    let all = commands(&all);
    assert!(all.contains("check"), "{all:?}");
    let mut checked = 0;
    for (path, text) in pages() {
        for line in shell(&text) {
            let Some(call) = line.strip_prefix("weft ") else {
                continue;
            };
            let call = call.split(['|', '#', '>', '&']).next().unwrap_or_default();
            let words: Vec<_> = call.split_whitespace().collect();
            let place = format!("{}: {line}", path.display());
            assert!(all.contains(words[0]), "{place}");
            let within = help(&words[..1]);
            let within = commands(&within);
            let deep = words.get(1).is_some_and(|word| within.contains(word));
            assert!(deep || within.is_empty(), "{place}");
            // Programs that `internal` starts say themselves what they take.
            if words[0] == "internal" {
                continue;
            }
            let options = help(&words[..=usize::from(deep)]);
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap_or_default();
                assert!(options.contains(flag), "{place}: no {flag}");
            }
            checked += 1;
        }
    }
    assert!(checked >= LEAST_NAMES, "only {checked} commands");
}

#[test]
fn every_value_of_the_chart_is_there() {
    let values = read(&root().join("charts/weft/values.yaml"));
    let values: Value = serde_saphyr::from_str(&values).expect("values");
    let keys: BTreeSet<_> = values.as_object().expect("an object").keys().collect();
    let mut named = BTreeSet::new();
    for (path, text) in pages() {
        let quoted = prose(&text);
        let quoted = quoted.split('`').skip(1).step_by(2);
        let quoted = quoted.map(|word| word.split(':').next().unwrap_or_default());
        let shell = shell(&text);
        let helm = shell.iter().filter(|line| line.contains("charts/weft"));
        let set = helm.flat_map(|line| line.split("--set ").skip(1));
        let set = set.map(|rest| rest.split('=').next().unwrap_or_default());
        for word in quoted.chain(set) {
            let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
            let is_value = word.split_once('.').is_some_and(|(key, rest)| {
                is_plain && rest != "yaml" && keys.iter().any(|it| *it == key)
            });
            if !is_value {
                continue;
            }
            let pointer = format!("/{}", word.replace('.', "/"));
            let is_there = values.pointer(&pointer).is_some();
            assert!(is_there, "{}: no value {word}", path.display());
            named.insert(word.to_owned());
        }
    }
    assert!(named.len() >= LEAST_VALUES, "only {named:?}");
}
