//! Rules of Prometheus with shorter times: minutes become seconds, so that an alert of production can be
//! seen to fire while somebody watches.
//!
//! What is a duration by Prometheus's own grammar is divided: `for`, `keep_firing_for`, a group's
//! `interval`, ranges and subqueries in brackets, and offsets. Thresholds are left as they are, those that
//! compare seconds too: rates are per second on any scale, and who writes `time() - x > 300` means it.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

/// A range holds at least so many steps: a rate needs two samples, and one may be late.
const STEPS_OF_RANGE: u32 = 4;
/// Units of durations in milliseconds (Prometheus documentation, "Time Durations").
const UNITS: [(&str, u64); 7] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 7 * 86_400_000),
    ("y", 365 * 86_400_000),
];

/// How times become shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    factor: u32,
    step: Duration,
}

impl Scale {
    /// Divides by `factor`. Rules are evaluated once in a `step`: nothing becomes shorter than that, but
    /// what is zero already, and no range shorter than four.
    ///
    /// # Panics
    /// By zero.
    pub fn new(factor: u32, step: Duration) -> Self {
        assert!(factor > 0, "nothing can be divided by zero");
        Self { factor, step }
    }

    /// A file of rules, or a `PrometheusRule` of the operator with one inside, as a file of rules.
    ///
    /// # Errors
    /// What is no such file; a time that is none.
    pub fn rules(&self, yaml: &str) -> anyhow::Result<String> {
        let mut file: Value = serde_saphyr::from_str(yaml).context("reading rules")?;
        let groups = match file.pointer_mut("/spec/groups") {
            Some(groups) => groups.take(),
            None => file["groups"].take(),
        };
        let Value::Array(mut groups) = groups else {
            anyhow::bail!("a file of rules has groups");
        };
        for group in &mut groups {
            self.field(group, "interval")?;
            let rules = group["rules"].as_array_mut();
            for rule in rules.context("a group has rules")? {
                self.field(rule, "for")?;
                self.field(rule, "keep_firing_for")?;
                let expression = rule["expr"].as_str().context("a rule has an expression")?;
                rule["expr"] = self.expression(expression).into();
            }
        }
        // JSON is YAML.
        Ok(json!({ "groups": groups }).to_string())
    }

    /// An expression.
    pub fn expression(&self, text: &str) -> String {
        if self.factor == 1 {
            return text.to_owned();
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '"' | '\'' | '`' => length_of_quoted(rest, first),
                '#' => rest.find('\n').unwrap_or(rest.len()),
                '[' => {
                    let end = rest.find(']').map_or(rest.len(), |at| at + 1);
                    self.write_range(&mut out, &rest[..end]);
                    rest = &rest[end..];
                    continue;
                }
                c if is_of_word(c) => {
                    let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
                    if &rest[..end] == "offset" {
                        let spaces = rest[end..]
                            .find(|c: char| !c.is_whitespace() && c != '-')
                            .unwrap_or(0);
                        let (head, tail) = rest.split_at(end + spaces);
                        out.push_str(head);
                        let end = tail.find(|c| !is_of_word(c)).unwrap_or(tail.len());
                        self.write_part(&mut out, &tail[..end], Duration::ZERO);
                        rest = &tail[end..];
                        continue;
                    }
                    end
                }
                c => c.len_utf8(),
            };
            out.push_str(&rest[..length]);
            rest = &rest[length..];
        }
        out
    }

    /// A time, such as an alert's `for`.
    pub fn duration(&self, duration: Duration) -> Duration {
        if self.factor == 1 || duration.is_zero() {
            return duration;
        }
        (duration / self.factor).max(self.step)
    }

    fn field(&self, of: &mut Value, name: &str) -> anyhow::Result<()> {
        let Some(text) = of.get(name).and_then(Value::as_str) else {
            return Ok(());
        };
        let duration = parse(text).with_context(|| format!("{name}: {text} is no time"))?;
        of[name] = format(self.duration(duration)).into();
        Ok(())
    }

    /// A range in brackets, or those of a subquery.
    fn write_range(&self, out: &mut String, text: &str) {
        let inner = text.trim_start_matches('[').trim_end_matches(']');
        out.push('[');
        for (number, part) in inner.split(':').enumerate() {
            let least = match number {
                0 => self.step * STEPS_OF_RANGE,
                _ => self.step,
            };
            if number > 0 {
                out.push(':');
            }
            self.write_part(out, part.trim(), least);
        }
        out.push(']');
    }

    /// What is no duration is left to Prometheus to refuse.
    fn write_part(&self, out: &mut String, text: &str, least: Duration) {
        match parse(text) {
            Some(duration) => {
                let divided = (duration / self.factor).max(least);
                let _ = write!(out, "{}", format(divided));
            }
            None => out.push_str(text),
        }
    }
}

/// A duration as Prometheus writes it, such as `1h30m`.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut all = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == &tail[..unit])?;
        all = all.checked_add(number.parse::<u64>().ok()?.checked_mul(*millis)?)?;
        rest = &tail[unit..];
    }
    (!text.is_empty()).then(|| Duration::from_millis(all))
}

/// The same in milliseconds, or in seconds where they are whole.
fn format(duration: Duration) -> String {
    match duration.as_millis() {
        millis if millis % 1000 == 0 => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}

/// Letters, digits, `_`; `:` is of recorded names.
fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// With both quotes; to the end where there is no second one.
fn length_of_quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped && quote != '`';
    }
    text.len()
}
