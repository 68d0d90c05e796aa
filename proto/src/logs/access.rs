//! Lines about requests, which a policy asks for: written whatever the level is.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use super::LogFormat;
use super::queue::{MAX_WAITING_ACCESS, Queue};
use super::time::write_rfc3339;

/// Bytes of a text that a line holds; the rest is cut off.
pub const MAX_TEXT: usize = 1_024;

/// Writes lines about requests beside the other lines. Cheap to clone.
#[derive(Clone)]
pub struct AccessLines {
    pub(super) service: &'static str,
    pub(super) format: LogFormat,
    pub(super) queue: Arc<Queue>,
}

/// A line in the making.
pub struct AccessLine<'a> {
    lines: &'a AccessLines,
    text: String,
}

impl AccessLines {
    /// A line with `message` "request" and `target` "access", which still says nothing.
    pub fn begin(&self) -> AccessLine<'_> {
        let mut text = String::with_capacity(512);
        match self.format {
            LogFormat::Json => {
                text.push_str("{\"timestamp\":\"");
                let _ = write_rfc3339(&mut text, SystemTime::now());
                let service = self.service;
                let _ = write!(
                    text,
                    "\",\"level\":\"info\",\"service\":\"{service}\",\"message\":\"request\",\"target\":\"access\""
                );
            }
            LogFormat::Plain => {
                let _ = write_rfc3339(&mut text, SystemTime::now());
                text.push_str(" info  request");
            }
        }
        AccessLine { lines: self, text }
    }
}

impl AccessLine<'_> {
    /// A text, cut to [`MAX_TEXT`]. What could end a line or move a cursor is escaped. `name` is a plain
    /// word, and none that a line uses itself.
    pub fn text(&mut self, name: &'static str, value: &str) {
        self.name(name);
        self.text.push('"');
        for letter in cut(value).chars() {
            match letter {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                // Line ends of Unicode, and what changes the direction of writing.
                '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    self.escaped(letter);
                }
                _ if letter.is_control() => self.escaped(letter),
                _ => self.text.push(letter),
            }
        }
        self.text.push('"');
    }

    /// A number.
    pub fn number(&mut self, name: &'static str, value: u64) {
        self.name(name);
        let _ = write!(self.text, "{value}");
    }

    /// A number of thousandths, as a decimal fraction.
    pub fn thousandths(&mut self, name: &'static str, value: u64) {
        self.name(name);
        let _ = write!(self.text, "{}.{:03}", value / 1_000, value % 1_000);
    }

    /// Yes or no.
    pub fn flag(&mut self, name: &'static str, value: bool) {
        self.name(name);
        let _ = write!(self.text, "{value}");
    }

    /// Hands the line to the writer; false where it is lost, since too many wait.
    #[must_use]
    pub fn end(mut self) -> bool {
        self.text.push_str(match self.lines.format {
            LogFormat::Json => "}\n",
            LogFormat::Plain => "\n",
        });
        let line = self.text.as_bytes();
        self.lines.queue.put(line, MAX_WAITING_ACCESS)
    }

    fn name(&mut self, name: &'static str) {
        let _ = match self.lines.format {
            LogFormat::Json => write!(self.text, ",\"{name}\":"),
            LogFormat::Plain => write!(self.text, " {name}="),
        };
    }

    /// All of these are in the first plane.
    fn escaped(&mut self, letter: char) {
        let _ = write!(self.text, "\\u{:04x}", u32::from(letter));
    }
}

/// The begin of a text, at most [`MAX_TEXT`] bytes.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
