//! The chart's rules by themselves, with `promtool`: well formed, and for each alert a file in
//! `tests/chart/alerts` with series by which it fires and series by which it does not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use weft_tests::promql;

use super::asked;
use super::prometheus::{TARGET_LABELS, chart};
use crate::common::Cx;

/// Fewer are not all.
const LEAST_ALERTS: usize = 15;

/// `promtool check rules`; what every alert has; its page; its annotations name only labels that it has.
pub(super) async fn well_formed(_cx: Cx) -> anyhow::Result<()> {
    for file in fs::read_dir(chart().join("rules"))? {
        promtool(&["check", "rules"], &[file?.path()])?;
    }
    let mut pages = BTreeSet::new();
    let index = fs::read_to_string(docs().join("runbooks.md"))?;
    let rules = asked::rules()?;
    for alert in alerts_of_chart()? {
        let name = alert["alert"].as_str().unwrap_or_default().to_owned();
        let annotations = &alert["annotations"];
        for text in ["summary", "description"] {
            let text = annotations[text].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{name}");
            assert_labels(&alert, text, &rules);
        }
        let page = format!("docs/runbooks/{name}.md");
        assert_eq!(annotations["runbook_url"], page.as_str(), "{name}");
        let text = fs::read_to_string(docs().join(format!("runbooks/{name}.md")))?;
        for heading in ["## Look", "## Causes", "## Mend"] {
            assert!(text.contains(heading), "{page}: no {heading}");
        }
        let commands = text.split("```sh\n").nth(1).unwrap_or_default();
        let commands = commands.split("```").next().unwrap_or_default();
        assert!(
            commands.lines().count() >= 3,
            "{page}: three commands to begin with"
        );
        assert!(
            index.contains(&format!("](runbooks/{name}.md)")),
            "{name} is not in docs/runbooks.md"
        );
        pages.insert(format!("{name}.md"));
    }
    assert!(pages.len() >= LEAST_ALERTS, "only {pages:?}");
    for file in fs::read_dir(docs().join("runbooks"))? {
        let name = file?.file_name().to_string_lossy().into_owned();
        assert!(pages.contains(&name), "docs/runbooks/{name} is of no alert");
    }
    Ok(())
}

/// `promtool test rules` on every alert's file, which looks for the alert where it fires and where not.
pub(super) async fn alerts(_cx: Cx) -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("chart/alerts");
    let mut files = Vec::new();
    for alert in alerts_of_chart()? {
        let name = alert["alert"].as_str().unwrap_or_default();
        let file = folder.join(format!("{name}.yaml"));
        let tests: Value = serde_saphyr::from_str(&fs::read_to_string(&file)?)?;
        let tests = tests["tests"].as_array().into_iter().flatten();
        let looks =
            tests.flat_map(|test| test["promql_expr_test"].as_array().into_iter().flatten());
        let (mut fires, mut silent) = (0, 0);
        for look in looks {
            let wanted = format!("alertname=\"{name}\",alertstate=\"firing\"");
            assert!(
                look["expr"].as_str().is_some_and(|it| it.contains(&wanted)),
                "{name}: {look}"
            );
            match look["exp_samples"].as_array() {
                Some(samples) if !samples.is_empty() => fires += 1,
                _ => silent += 1,
            }
        }
        assert!(
            fires > 0 && silent > 0,
            "{name} fires {fires} times, and {silent} times not"
        );
        files.push(file);
    }
    assert!(files.len() >= LEAST_ALERTS, "only {files:?}");
    assert_eq!(
        files.len(),
        fs::read_dir(&folder)?.count(),
        "files in {}",
        folder.display()
    );
    promtool(&["test", "rules"], &files)
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn alerts_of_chart() -> anyhow::Result<Vec<Value>> {
    let mut rules = asked::rules()?;
    rules.retain(|rule| rule["alert"].is_string());
    Ok(rules)
}

/// Labels that an expression's series are grouped by, and those of what it takes from other rules.
fn grouped(expression: &str, rules: &[Value]) -> BTreeSet<String> {
    let named = promql::named(expression);
    let mut labels: BTreeSet<String> = named.grouped.into_iter().collect();
    for (_, metric) in named.selectors {
        let recorded = rules.iter().find(|rule| rule["record"] == metric.as_str());
        let inner = recorded.and_then(|rule| rule["expr"].as_str());
        labels.extend(inner.into_iter().flat_map(|inner| grouped(inner, rules)));
    }
    labels
}

/// Where an expression groups, an alert has the labels of the grouping; else those of its series, of which
/// the target's are always there.
fn assert_labels(alert: &Value, text: &str, rules: &[Value]) {
    let expression = alert["expr"].as_str().unwrap_or_default();
    let grouped = grouped(expression, rules);
    for rest in text.split("$labels.").skip(1) {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let label = &rest[..end.unwrap_or(rest.len())];
        let is_known = if grouped.is_empty() {
            TARGET_LABELS.contains(&label)
        } else {
            grouped.contains(label)
        };
        let name = &alert["alert"];
        assert!(
            is_known,
            "{name}: {label} of an annotation is no label of {expression}"
        );
    }
}

fn promtool(command: &[&str], files: &[PathBuf]) -> anyhow::Result<()> {
    let output = Command::new("promtool")
        .args(command)
        .args(files)
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "promtool {}: {}{}",
        command.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
