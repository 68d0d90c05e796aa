//! Everything that the chart asks of Prometheus: the queries of its dashboards' panels and variables, and
//! the expressions of its rules.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context as _;
use serde_json::Value;
use weft_sandbox::programs::prometheus::Prometheus;

use super::prometheus::chart;

/// What Grafana puts in place of its own variables, for a Prometheus that scrapes every second.
const BUILT_IN: [(&str, &str); 3] = [
    ("$__rate_interval", "5s"),
    ("$__interval", "1s"),
    ("$__range", "60s"),
];

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A panel, which is to show something.
    Panel,
    /// An alert, which is silent at best.
    Alert,
    /// A recording rule.
    Record,
}

/// One question.
#[derive(Debug)]
pub(super) struct Query {
    /// Who asks it: `overview: Requests`, `alert WeftPanic`.
    pub(super) place: String,
    pub(super) asker: Asker,
    /// With all variables replaced.
    pub(super) text: String,
}

/// A rule of the chart's file.
pub(super) fn rules() -> anyhow::Result<Vec<Value>> {
    let mut rules = Vec::new();
    for file in fs::read_dir(chart().join("rules"))? {
        let text = fs::read_to_string(file?.path())?;
        let parsed: Value = serde_saphyr::from_str(&text)?;
        for group in parsed["groups"].as_array().context("groups")? {
            rules.extend(group["rules"].as_array().context("rules")?.iter().cloned());
        }
    }
    Ok(rules)
}

/// Every question of the chart. Variables of which one value is chosen get the first one that there is;
/// a variable without a value is an error.
pub(super) async fn queries(prometheus: &Prometheus) -> anyhow::Result<Vec<Query>> {
    let mut queries = Vec::new();
    for rule in rules()? {
        let (asker, word, name) = match (&rule["alert"], &rule["record"]) {
            (Value::String(name), _) => (Asker::Alert, "alert", name),
            (_, Value::String(name)) => (Asker::Record, "record", name),
            _ => anyhow::bail!("neither an alert nor a record: {rule}"),
        };
        queries.push(Query {
            place: format!("{word} {name}"),
            asker,
            text: text(&rule["expr"])?,
        });
    }
    let mut files = fs::read_dir(chart().join("dashboards"))?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(fs::DirEntry::path);
    for file in files {
        let name = file.file_name().to_string_lossy().replace(".json", "");
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(file.path())?)?;
        let variables = variables(prometheus, &dashboard)
            .await
            .with_context(|| name.clone())?;
        for panel in dashboard["panels"].as_array().context("panels")? {
            for target in panel["targets"].as_array().into_iter().flatten() {
                queries.push(Query {
                    place: format!("{name}: {}", text(&panel["title"])?),
                    asker: Asker::Panel,
                    text: replaced(&text(&target["expr"])?, &variables),
                });
            }
        }
    }
    Ok(queries)
}

/// The values of a dashboard's variables.
async fn variables(
    prometheus: &Prometheus,
    dashboard: &Value,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for variable in dashboard["templating"]["list"]
        .as_array()
        .into_iter()
        .flatten()
    {
        if variable["type"] != "query" {
            continue;
        }
        let name = text(&variable["name"])?;
        let query = replaced(&text(&variable["query"]["query"])?, &values);
        let inside = query.strip_prefix("label_values(");
        let inside = inside.and_then(|rest| rest.strip_suffix(')'));
        let (selector, label) = inside
            .and_then(|inside| inside.rsplit_once(", "))
            .with_context(|| format!("{query} is no label_values(SELECTOR, LABEL)"))?;
        let series = prometheus.series(selector).await?;
        let mut found: Vec<&str> = series.iter().filter_map(|it| it[label].as_str()).collect();
        found.sort_unstable();
        let first = found.first();
        let first = first.with_context(|| format!("${name} has no value: {query}"))?;
        let value = match variable["allValue"].as_str() {
            Some(all) if variable["includeAll"] == true => all,
            _ => first,
        };
        values.insert(name, value.to_owned());
    }
    Ok(values)
}

fn replaced(query: &str, variables: &BTreeMap<String, String>) -> String {
    let mut query = query.to_owned();
    for (name, value) in BUILT_IN {
        query = query.replace(name, value);
    }
    for (name, value) in variables {
        query = query.replace(&format!("${name}"), value);
    }
    query
}

fn text(value: &Value) -> anyhow::Result<String> {
    Ok(value
        .as_str()
        .with_context(|| format!("{value} is no text"))?
        .to_owned())
}
