//! Logs of every program: one line per event, JSON unless told otherwise.
//!
//! A line holds `timestamp` (RFC 3339, UTC, milliseconds), `level`, `service`, `message`, `target`
//! and the event's own fields beside them; a field that would take one of those names gets an
//! underscore in front. The level can be changed while the process runs. Warnings and errors are
//! limited per place in the code ([`MAX_PER_WINDOW`] in [`WINDOW`]); the next line after a silence
//! says in `suppressed` how many were left out. Spans are not shown.
//!
//! Lines about requests ([`AccessLines`]) go the same way; the level does not concern them.
//!
//! Logging never fails the caller and never waits for the sink: a thread of the log's own writes. Lines
//! that come while it cannot are lost beyond [`MAX_WAITING`] bytes, and a line says how many were.

mod access;
mod limit;
mod line;
mod queue;
#[cfg(test)]
mod tests;
mod time;

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::SetGlobalDefaultError;
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

pub use access::{AccessLine, AccessLines, MAX_TEXT};
pub use limit::{MAX_CALLSITES, MAX_PER_WINDOW, WINDOW};
pub use queue::{MAX_WAITING, MAX_WAITING_ACCESS};
pub use time::write_rfc3339;

use limit::{CallsiteLimit, Verdict};
use queue::{Closing, Queue};

/// How long the end of a process waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

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

/// Why a text is no format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of json, plain")]
pub struct UnknownFormat;

/// Changes the level while the process runs. Cheap to clone.
#[derive(Clone)]
pub struct LogControl {
    level: reload::Handle<LevelFilter, Registry>,
    access: AccessLines,
}

/// Writes the last lines when it is dropped: to be held as long as somebody may log.
#[must_use = "the last lines are lost without it"]
pub struct LastLines(Arc<Queue>);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The process has one.
    #[error("{0}")]
    Taken(#[from] SetGlobalDefaultError),
    /// Nobody would write it.
    #[error("no thread for the log: {0}")]
    NoThread(#[from] io::Error),
}

/// Makes logging that writes to `sink`, and its control. `service` is what every line names.
///
/// # Errors
/// There is no thread to be had that writes.
pub fn dispatch(
    service: &'static str,
    level: LogLevel,
    format: LogFormat,
    sink: Box<dyn Write + Send>,
) -> io::Result<(Dispatch, LogControl)> {
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level.0));
    let lost = move |lines| line::lost(service, format, SystemTime::now(), lines);
    let queue = Queue::start(sink, lost)?;
    let access = AccessLines {
        service,
        format,
        queue: Arc::clone(&queue),
    };
    let lines = Lines {
        service,
        format,
        limit: Mutex::new(CallsiteLimit::default()),
        queue: Closing(queue),
    };
    let subscriber = Registry::default().with(filter).with(lines);
    let control = LogControl {
        level: handle,
        access,
    };
    Ok((Dispatch::new(subscriber), control))
}

/// Makes `sink` the log of this process.
///
/// # Errors
/// The process has one, or there is no thread to be had that writes.
pub fn install(
    service: &'static str,
    level: LogLevel,
    format: LogFormat,
    sink: Box<dyn Write + Send>,
) -> Result<(LogControl, LastLines), InstallError> {
    let (dispatch, control) = dispatch(service, level, format, sink)?;
    tracing::dispatcher::set_global_default(dispatch)?;
    let last = LastLines(Arc::clone(&control.access.queue));
    Ok((control, last))
}

impl LogControl {
    /// The level now.
    pub fn level(&self) -> LogLevel {
        let level = self.level.with_current(|filter| filter.into_level());
        LogLevel(level.ok().flatten().unwrap_or(Level::INFO))
    }

    /// Changes the level; the answer is the level before.
    pub fn set_level(&self, level: &str) -> Result<LogLevel, UnknownLevel> {
        let level: LogLevel = level.parse()?;
        let before = self.level();
        // Fails only when the log is gone, and then no level matters.
        let _ = self
            .level
            .modify(|filter| *filter = LevelFilter::from_level(level.0));
        Ok(before)
    }
}

impl LogControl {
    /// Lines about requests, beside the others.
    pub fn access(&self) -> &AccessLines {
        &self.access
    }

    /// Waits until everything that was logged is written, for so long at most.
    pub fn flush(&self, patience: Duration) {
        self.access.queue.flush(patience);
    }
}

impl Drop for LastLines {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

impl LogLevel {
    /// What needs somebody.
    pub const ERROR: Self = Self(Level::ERROR);
    /// What may need somebody.
    pub const WARN: Self = Self(Level::WARN);
    /// What every program starts with: what happens to the program.
    pub const INFO: Self = Self(Level::INFO);
    /// What happens to single requests and connections.
    pub const DEBUG: Self = Self(Level::DEBUG);
    /// Everything.
    pub const TRACE: Self = Self(Level::TRACE);

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

impl FromStr for LogFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "json" => Ok(Self::Json),
            "plain" => Ok(Self::Plain),
            _ => Err(UnknownFormat),
        }
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
    queue: Closing,
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
        let _ = self.queue.0.put(&bytes, MAX_WAITING);
    }
}
