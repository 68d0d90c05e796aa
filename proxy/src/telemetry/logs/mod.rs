//! Logs: one line per event on standard output, JSON unless told otherwise.
//!
//! A line holds `timestamp` (RFC 3339, UTC, milliseconds), `level`, `service`, `message`, `target`
//! and the event's own fields beside them; a field that would take one of those names gets an
//! underscore in front. The level can be changed while the process runs. Warnings and errors are
//! limited per place in the code ([`MAX_PER_WINDOW`] in [`WINDOW`]); the next line after a silence
//! says in `suppressed` how many were left out. Spans are not shown.
//!
//! A line that cannot be written is lost; logging never fails the caller.

mod limit;
mod line;
#[cfg(test)]
mod tests;
pub(super) mod time;

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::SetGlobalDefaultError;
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

pub use limit::{MAX_CALLSITES, MAX_PER_WINDOW, WINDOW};

use limit::{CallsiteLimit, Verdict};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// For eyes.
    Plain,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevel(Level);

/// Why a text is no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of error, warn, info, debug, trace")]
pub struct UnknownLevel;

/// Changes the level while the process runs. Cheap to clone.
#[derive(Clone)]
pub struct LogControl(reload::Handle<LevelFilter, Registry>);

/// Makes logging that writes to `sink`, and its control. `service` is what every line names.
pub fn dispatch(
    service: &'static str,
    level: LogLevel,
    format: LogFormat,
    sink: Box<dyn Write + Send>,
) -> (Dispatch, LogControl) {
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level.0));
    let lines = Lines {
        service,
        format,
        limit: Mutex::new(CallsiteLimit::default()),
        sink: Mutex::new(sink),
    };
    let subscriber = Registry::default().with(filter).with(lines);
    (Dispatch::new(subscriber), LogControl(handle))
}

/// Makes standard output the log of this process. Fails when the process has one.
pub fn install(
    service: &'static str,
    level: LogLevel,
    format: LogFormat,
) -> Result<LogControl, SetGlobalDefaultError> {
    let (dispatch, control) = dispatch(service, level, format, Box::new(std::io::stdout()));
    tracing::dispatcher::set_global_default(dispatch)?;
    Ok(control)
}

impl LogControl {
    /// The level now.
    pub fn level(&self) -> LogLevel {
        let level = self.0.with_current(|filter| filter.into_level());
        LogLevel(level.ok().flatten().unwrap_or(Level::INFO))
    }

    /// Changes the level; the answer is the level before.
    pub fn set_level(&self, level: &str) -> Result<LogLevel, UnknownLevel> {
        let level: LogLevel = level.parse()?;
        let before = self.level();
        // Fails only when the log is gone, and then no level matters.
        let _ = self
            .0
            .modify(|filter| *filter = LevelFilter::from_level(level.0));
        Ok(before)
    }
}

impl LogLevel {
    /// What a sidecar starts with.
    pub const INFO: Self = Self(Level::INFO);

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self.0 {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        }
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self::INFO
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LogLevel {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        match text.trim().to_ascii_lowercase().as_str() {
            "error" => Ok(Self(Level::ERROR)),
            "warn" => Ok(Self(Level::WARN)),
            "info" => Ok(Self(Level::INFO)),
            "debug" => Ok(Self(Level::DEBUG)),
            "trace" => Ok(Self(Level::TRACE)),
            _ => Err(UnknownLevel),
        }
    }
}

/// Writes events as lines.
struct Lines {
    service: &'static str,
    format: LogFormat,
    limit: Mutex<CallsiteLimit>,
    sink: Mutex<Box<dyn Write + Send>>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut suppressed = 0;
        if *metadata.level() <= Level::WARN {
            let verdict = self.limit.lock().check(metadata.callsite(), Instant::now());
            match verdict {
                Verdict::Write { suppressed: before } => suppressed = before,
                Verdict::Suppress => return,
            }
        }
        let line = line::Line {
            service: self.service,
            now: SystemTime::now(),
            event,
            suppressed,
        };
        let bytes = match self.format {
            LogFormat::Json => line.json(),
            LogFormat::Plain => line.plain(),
        };
        // One write per line, so that lines of several threads never mix. A sink that is gone
        // cannot be told about.
        let mut sink = self.sink.lock();
        let _ = sink.write_all(&bytes);
        let _ = sink.flush();
    }
}
