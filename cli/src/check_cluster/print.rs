//! What checks said, for people and for machines.

use serde_json::{Value, json};

use super::line::{Line, State, counted};
use crate::paint::Paint;
use crate::words::wrapped;

/// What lines fit into.
const WIDTH: usize = 100;
/// What stands before the words of a check: its state.
const INDENT: usize = 10;

pub(super) fn count(lines: &[Line], state: State) -> usize {
    lines.iter().filter(|line| line.state == state).count()
}

/// The object for machines.
pub(super) fn object(lines: &[Line], is_before: bool) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "when": if is_before { "before" } else { "after" },
        "ok": count(lines, State::Ok),
        "skipped": count(lines, State::Skipped),
        "warnings": count(lines, State::Warning),
        "failed": count(lines, State::Failed),
        "checks": lines,
    })
}

/// A heading for each category, its checks under it, and a last line that counts.
pub(super) fn text(lines: &[Line], paint: Paint) -> String {
    let text = self::lines(lines, paint);
    let states = [
        (State::Failed, "failed"),
        (
            State::Warning,
            if count(lines, State::Warning) == 1 {
                "warning"
            } else {
                "warnings"
            },
        ),
        (State::Skipped, "skipped"),
        (State::Ok, "ok"),
    ];
    let counts = states.map(|(state, word)| (count(lines, state), word));
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let verdict = counts.join(", ");
    let worst = lines.iter().map(|line| line.state).max();
    let verdict = match worst {
        Some(State::Failed) => paint.bad(&verdict),
        Some(State::Warning) => paint.doubtful(&verdict),
        _ => paint.good(&verdict),
    };
    text + &format!(
        "\n{}: {verdict}.\n",
        counted(lines.len(), "check", "checks")
    )
}

/// The same without the count.
pub(super) fn lines(lines: &[Line], paint: Paint) -> String {
    let mut text = String::new();
    let mut category = "";
    for line in lines {
        if line.category != category {
            if !category.is_empty() {
                text.push('\n');
            }
            category = line.category;
            text.push_str(&paint.strong(category));
            text.push('\n');
        }
        text += &paragraph(line, paint);
    }
    text
}

fn paragraph(line: &Line, paint: Paint) -> String {
    // As wide as the indent, with what stands before.
    let state = match line.state {
        State::Ok => paint.good("ok     "),
        State::Skipped => paint.faint("skipped"),
        State::Warning => paint.doubtful("warning"),
        State::Failed => paint.bad("failed "),
    };
    let width = WIDTH - INDENT;
    let mut rows = wrapped(&line.what, "", width);
    for item in &line.list {
        rows.extend(wrapped(item, "  ", width));
    }
    if !line.hint.is_empty() {
        rows.extend(wrapped(&line.hint, "hint  ", width));
    }
    let first = rows.remove(0);
    let mut text = format!("  {state} {first}\n");
    for row in rows {
        text.push_str(&" ".repeat(INDENT));
        text.push_str(&row);
        text.push('\n');
    }
    text
}
