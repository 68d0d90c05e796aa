//! This program's log, on standard error.

use weft_proto::logs::{self, LastLines, LogFormat, LogLevel};

const SERVICE: &str = "injector";

/// Sends the process's logs to standard error, as long as the answer lives. Only the first call counts: a
/// second one, in one process with another program of ours, keeps the first one's choice.
pub(super) fn start(level: LogLevel, format: LogFormat) -> Option<LastLines> {
    let sink = Box::new(std::io::stderr());
    let installed = logs::install(SERVICE, level, format, sink);
    installed.ok().map(|(_, last)| last)
}
