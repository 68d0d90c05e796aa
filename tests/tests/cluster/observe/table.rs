//! The table of all metrics in `docs/metrics.md`, made from what the programs have: the sidecar's families,
//! and the pages of the control plane and the injector.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use weft_proxy::telemetry::families;
use weft_sandbox::metrics::Metrics;

/// Set to `1`, the table is written instead of compared.
const WRITE: &str = "WEFT_WRITE_METRICS";
const BEGIN: &str = "<!-- Below: made by the programs. -->\n";
/// Fewer are not all of a program.
const LEAST: usize = 9;

/// One metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    kind: String,
    /// Without `le`.
    pub(super) labels: BTreeSet<String>,
    help: String,
}

/// By name.
pub(super) type Rows = BTreeMap<String, Row>;

/// The sidecar's.
pub(super) fn of_sidecar() -> Rows {
    let all = families::HANDLED.iter().chain(families::COLLECTED);
    all.map(|family| {
        let row = Row {
            kind: family.kind.as_str().to_owned(),
            labels: family.labels.iter().map(|it| (*it).to_owned()).collect(),
            help: family.help.to_owned(),
        };
        (family.name.to_owned(), row)
    })
    .collect()
}

/// What a page of metrics shows.
pub(super) fn of_page(page: &str) -> Rows {
    let about = |word: &str| -> BTreeMap<&str, &str> {
        let lines = page.lines().filter_map(|line| line.strip_prefix(word));
        lines.filter_map(|line| line.split_once(' ')).collect()
    };
    let (kinds, helps) = (about("# TYPE "), about("# HELP "));
    let metrics = Metrics::parse(page);
    kinds
        .into_iter()
        .map(|(name, kind)| {
            let series = match kind {
                "histogram" => format!("{name}_bucket"),
                _ => name.to_owned(),
            };
            let samples = metrics.matching(&series, &[]);
            let labels =
                samples.flat_map(|sample| sample.labels.iter().map(|(name, _)| name.clone()));
            let row = Row {
                kind: kind.to_owned(),
                labels: labels.filter(|label| label != "le").collect(),
                help: helps.get(name).copied().unwrap_or_default().to_owned(),
            };
            (name.to_owned(), row)
        })
        .collect()
}

/// What a sidecar shows is what its families say.
pub(super) fn assert_page_of_sidecar(page: &str) {
    let families = of_sidecar();
    for (name, row) in of_page(page) {
        let family = families.get(&name);
        let family = family.unwrap_or_else(|| panic!("{name} is no family of a sidecar"));
        assert_eq!(
            (&row.kind, &row.help),
            (&family.kind, &family.help),
            "{name}"
        );
        assert!(
            row.labels.is_subset(&family.labels),
            "{name}: {:?}",
            row.labels
        );
    }
}

/// The page is what these tables make; it is written where that is asked for.
pub(super) fn assert_current(tables: [(&str, &Rows); 3]) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = fs::read_to_string(&path)?;
    let (head, there) = page.split_once(BEGIN).unwrap_or((&page, ""));
    let mut wanted = String::new();
    for (title, rows) in tables {
        assert!(rows.len() >= LEAST, "{title}: only {rows:?}");
        section(&mut wanted, title, rows);
    }
    if std::env::var(WRITE).is_ok_and(|value| value == "1") {
        fs::write(&path, format!("{head}{BEGIN}{wanted}"))?;
        return Ok(());
    }
    assert_eq!(
        there, wanted,
        "docs/metrics.md is stale: run this test with {WRITE}=1"
    );
    Ok(())
}

fn section(text: &mut String, title: &str, rows: &Rows) {
    let _ = writeln!(
        text,
        "\n## {title}\n\n| Metric | Type | Unit | Labels | Meaning |\n|---|---|---|---|---|"
    );
    for (name, Row { kind, labels, help }) in rows {
        assert!(!help.is_empty(), "{name} has no help");
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let (labels, unit) = (labels.join(", "), unit(name));
        let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {labels} | {help} |");
    }
}

/// As names say it.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    if name.ends_with("_timestamp_seconds") || name.ends_with("_time_seconds") {
        "seconds since 1970"
    } else if name.ends_with("_seconds") {
        "seconds"
    } else if name.ends_with("_bytes") {
        "bytes"
    } else {
        "1"
    }
}
