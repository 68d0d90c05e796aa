//! One event as one line.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::LogFormat;
use super::time::write_rfc3339;

/// Names that a line uses itself.
const RESERVED: [&str; 5] = ["timestamp", "level", "service", "target", "suppressed"];

/// What a line is made of.
pub(super) struct Line<'a, 'e> {
    pub(super) service: &'static str,
    pub(super) now: SystemTime,
    pub(super) event: &'a Event<'e>,
    pub(super) suppressed: u64,
}

/// The line that says how many were lost.
pub(super) fn lost(
    service: &'static str,
    format: LogFormat,
    now: SystemTime,
    lines: u64,
) -> Vec<u8> {
    const MESSAGE: &str = "log lines were lost: the log is not read quickly enough";
    let mut line = String::with_capacity(256);
    let _ = match format {
        LogFormat::Json => {
            line.push_str("{\"timestamp\":\"");
            let _ = write_rfc3339(&mut line, now);
            writeln!(
                line,
                "\",\"level\":\"warn\",\"service\":\"{service}\",\"message\":\"{MESSAGE}\",\"target\":\"log\",\"lines\":{lines}}}"
            )
        }
        LogFormat::Plain => {
            let _ = write_rfc3339(&mut line, now);
            writeln!(line, " warn  {MESSAGE} lines={lines}")
        }
    };
    line.into_bytes()
}

/// An event's fields, in its order.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, Value)>,
}

impl Line<'_, '_> {
    /// A JSON object and a line feed.
    pub(super) fn json(&self) -> Vec<u8> {
        let fields = self.fields();
        // Written piece by piece, because an object's order is for eyes: time first.
        let mut line = String::with_capacity(256);
        line.push_str("{\"timestamp\":\"");
        let _ = write_rfc3339(&mut line, self.now);
        line.push('"');
        push_member(&mut line, "level", &self.level().into());
        push_member(&mut line, "service", &self.service.into());
        push_member(&mut line, "message", &fields.message.into());
        push_member(&mut line, "target", &self.event.metadata().target().into());
        // The last of two fields with one name counts; an object must not name one twice.
        let mut others = Map::new();
        others.extend(fields.others);
        for (name, value) in &others {
            push_member(&mut line, name, value);
        }
        if self.suppressed > 0 {
            push_member(&mut line, "suppressed", &self.suppressed.into());
        }
        line.push_str("}\n");
        line.into_bytes()
    }

    /// Time, level, message, fields. Line feeds within are escaped: one event, one line.
    pub(super) fn plain(&self) -> Vec<u8> {
        let fields = self.fields();
        let mut line = String::with_capacity(256);
        let _ = write_rfc3339(&mut line, self.now);
        let _ = write!(
            line,
            " {:<5} {}",
            self.level(),
            fields.message.escape_debug()
        );
        for (name, value) in &fields.others {
            let _ = write!(line, " {name}={value}");
        }
        if self.suppressed > 0 {
            let _ = write!(line, " suppressed={}", self.suppressed);
        }
        line.push('\n');
        line.into_bytes()
    }

    fn level(&self) -> &'static str {
        match *self.event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        }
    }

    fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        self.event.record(&mut fields);
        fields
    }
}

fn push_member(line: &mut String, name: &str, value: &Value) {
    let _ = write!(line, ",{}:{value}", Value::from(name));
}

impl Fields {
    fn push(&mut self, field: &Field, value: Value) {
        let name = field.name();
        if name == "message" {
            self.message = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            return;
        }
        let name = if RESERVED.contains(&name) {
            format!("_{name}")
        } else {
            name.to_owned()
        };
        self.others.push((name, value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    /// An error with everything behind it.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        self.push(field, text.into());
    }
}
