//! The process's limits. Each has one row, which errors show and docs/process-limits.md repeats.

use std::time::Duration;

use weft_proto::names::env;

use super::parse::{self, Reader};
use crate::bounds::ProcessLimits;
use crate::http::floods::FloodLimits;

const MEND: &str = "leave it out for the default";

/// One limit, as people write it: its variable, and the least and the most that may be asked for.
#[derive(Debug)]
pub(super) struct Row {
    variable: &'static str,
    least: &'static str,
    most: &'static str,
    expected: &'static str,
}

macro_rules! rows {
    ($($name:ident = $kind:literal $least:literal to $most:literal;)*) => {
        $(const $name: Row = Row {
            variable: env::$name,
            least: $least,
            most: $most,
            expected: concat!($kind, " from ", $least, " to ", $most),
        };)*
        /// All of them, for tests.
        #[cfg(test)]
        pub(super) const ROWS: &[Row] = &[$($name),*];
    };
}

rows! {
    MAX_CONNECTIONS = "a number" "1" to "1000000";
    MAX_UPSTREAM_CONNECTIONS = "a number" "1" to "1000000";
    MAX_ENDPOINT_CONNECTIONS = "a number" "1" to "1000000";
    MAX_REQUESTS = "a number" "1" to "1000000";
    MAX_HEADER_BYTES = "a size" "8Ki" to "1Mi";
    MAX_HEADERS = "a number" "10" to "1000";
    HEADER_TIMEOUT = "a time" "100ms" to "10m";
    IDLE_TIMEOUT = "a time" "1s" to "24h";
    HTTP2_STREAMS = "a number" "1" to "100000";
    HTTP2_STREAM_WINDOW = "a size" "64Ki" to "16Mi";
    HTTP2_CONNECTION_WINDOW = "a size" "1Mi" to "1Gi";
    HTTP2_CONTROL_FRAMES = "a number" "1" to "1000000";
    HTTP2_RESETS = "a number" "1" to "1000000";
    BODY_BUFFER = "a size" "0" to "16Gi";
}

/// Reads the process's limits. A connection's window that is smaller than a stream's is noted as wrong.
pub(super) fn limits<L: Fn(&str) -> Option<String>>(reader: &mut Reader<L>) -> ProcessLimits {
    let default = ProcessLimits::DEFAULT;
    let limits = ProcessLimits {
        connections: MAX_CONNECTIONS.size(reader, default.connections),
        upstream_connections: MAX_UPSTREAM_CONNECTIONS.size(reader, default.upstream_connections),
        endpoint_connections: MAX_ENDPOINT_CONNECTIONS.size(reader, default.endpoint_connections),
        requests: MAX_REQUESTS.size(reader, default.requests),
        header_bytes: MAX_HEADER_BYTES.size(reader, default.header_bytes),
        headers: MAX_HEADERS.size(reader, default.headers),
        header_timeout: HEADER_TIMEOUT.time(reader, default.header_timeout),
        idle_timeout: IDLE_TIMEOUT.time(reader, default.idle_timeout),
        http2_streams: HTTP2_STREAMS.size(reader, default.http2_streams),
        http2_stream_window: HTTP2_STREAM_WINDOW.size(reader, default.http2_stream_window),
        http2_connection_window: HTTP2_CONNECTION_WINDOW
            .size(reader, default.http2_connection_window),
        body_buffer: BODY_BUFFER.size(reader, default.body_buffer),
    };
    if limits.http2_connection_window < limits.http2_stream_window {
        reader.clash(
            env::HTTP2_CONNECTION_WINDOW,
            "no less than WEFT_HTTP2_STREAM_WINDOW",
            "give a connection the windows of many streams",
        );
    }
    limits
}

/// Reads what is borne of one HTTP/2 connection.
pub(super) fn floods<L: Fn(&str) -> Option<String>>(reader: &mut Reader<L>) -> FloodLimits {
    let default = FloodLimits::default();
    FloodLimits {
        frames: HTTP2_CONTROL_FRAMES.size(reader, default.frames),
        resets: HTTP2_RESETS.size(reader, default.resets),
    }
}

impl Row {
    /// The variable, the least and the most.
    #[cfg(test)]
    pub(super) fn bounds(&self) -> (&'static str, &'static str, &'static str) {
        (self.variable, self.least, self.most)
    }

    /// A number, or a size where the row's bounds are sizes.
    fn size<T, L>(&self, reader: &mut Reader<L>, default: T) -> T
    where
        T: TryFrom<u64>,
        L: Fn(&str) -> Option<String>,
    {
        let is_size = self.expected.starts_with("a size");
        let parse = |text: &str| {
            if !is_size && !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            self.within(parse::size, text)?.try_into().ok()
        };
        reader.or(self.variable, default, parse, self.expected, MEND)
    }

    fn time<L>(&self, reader: &mut Reader<L>, default: Duration) -> Duration
    where
        L: Fn(&str) -> Option<String>,
    {
        let parse = |text: &str| self.within(parse::time, text);
        reader.or(self.variable, default, parse, self.expected, MEND)
    }

    fn within<T: PartialOrd>(&self, parse: fn(&str) -> Option<T>, text: &str) -> Option<T> {
        let (least, most) = (parse(self.least)?, parse(self.most)?);
        parse(text).filter(|value| *value >= least && *value <= most)
    }
}
