//! The HTTP/2 settings of both ends. Every default of the library that closes or refuses traffic is
//! replaced by a value of ours.

/// What one stream may have under way. Of small messages this is many frames: see
/// [`CONNECTION_WINDOW`].
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
/// What one connection may have under way. Many stream windows, so that stalled streams do not stop
/// their siblings.
///
/// h2 derives from it what DATA frames under 256 bytes may wait to be read: half of the window, where
/// each takes what it is short of 256, and ends the connection past that. A stream that is not read
/// with a window full of messages of 10 bytes takes 6.2 MiB: five such streams fit.
pub(super) const CONNECTION_WINDOW: u32 = 64 << 20;
/// Bytes of one head, as HPACK counts them.
pub(super) const MAX_HEADER_LIST: u32 = 64 * 1024;
/// Bytes of one stream buffered for sending.
pub(super) const MAX_SEND_BUFFER: usize = 256 * 1024;
/// Streams of one peer at once.
pub(super) const MAX_STREAMS: u32 = 1_000;
/// Streams that were reset and are still remembered, for frames under way.
pub(super) const MAX_RESET_STREAMS: usize = 200;
/// Streams that an application may reset before they were accepted.
const MAX_PENDING_ACCEPT_RESETS: usize = 200;
/// The same of a sidecar: all streams that it may have, given up at once, and as many again.
const MAX_PENDING_ACCEPT_RESETS_OF_SIDECARS: usize = 2 * MAX_STREAMS as usize;
/// Streams reset for a peer's errors, before its connection is ended.
pub(super) const MAX_ERROR_RESETS: usize = 1_024;

/// Streams that a peer may reset before they were accepted: passing on many clients' cancellations
/// makes many.
pub(super) fn max_pending_accept_resets(of_sidecar: bool) -> usize {
    if of_sidecar {
        MAX_PENDING_ACCEPT_RESETS_OF_SIDECARS
    } else {
        MAX_PENDING_ACCEPT_RESETS
    }
}
