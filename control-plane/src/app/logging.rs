//! This program's log, on standard error.

use weft_proto::logs::{self, LastLines, LogControl};

use super::settings::{LogFormat, LogLevel};

const SERVICE: &str = "control-plane";

/// Sends the process's logs to standard error, as long as the second part of the answer lives; the first
/// changes the level. Only the first call counts: a second one, in one process with another program of
/// ours, keeps the first one's choice.
pub(super) fn start(level: LogLevel, format: LogFormat) -> Option<(LogControl, LastLines)> {
    let level = match level {
        LogLevel::Error => logs::LogLevel::ERROR,
        LogLevel::Warn => logs::LogLevel::WARN,
        LogLevel::Info => logs::LogLevel::INFO,
        LogLevel::Debug => logs::LogLevel::DEBUG,
        LogLevel::Trace => logs::LogLevel::TRACE,
    };
    let format = match format {
        LogFormat::Json => logs::LogFormat::Json,
        LogFormat::Plain => logs::LogFormat::Plain,
    };
    let sink = Box::new(std::io::stderr());
    logs::install(SERVICE, level, format, sink).ok()
}
