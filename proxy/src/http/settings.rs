//! The library's settings at both ends. Every default of its that closes or refuses traffic is replaced
//! by a value of ours, or by one of [`ProcessLimits`](crate::bounds::ProcessLimits).

/// How far the library lets a head go beyond what we allow: it answers by itself what is longer, and
/// nobody would hear of it.
const HEADER_LIST_ROOM: usize = 16 * 1024;
/// Bytes that one HTTP/1 connection buffers either way, at least.
const MAX_BUFFER: usize = 128 * 1024;
/// Bytes of one stream buffered for sending.
pub(super) const MAX_SEND_BUFFER: usize = 256 * 1024;
/// Streams that were reset and are still remembered, for frames under way.
pub(super) const MAX_RESET_STREAMS: usize = 200;
/// Streams that an application may reset before they were accepted.
const MAX_PENDING_ACCEPT_RESETS: usize = 200;
/// Streams reset for a peer's errors, before its connection is ended.
pub(super) const MAX_ERROR_RESETS: usize = 1_024;

/// Streams that a peer may reset before they were accepted. A sidecar passes on what many clients give
/// up: all of the `streams` that it may have at once, and as many again.
pub(super) fn max_pending_accept_resets(of_sidecar: bool, streams: u32) -> usize {
    if of_sidecar {
        2 * streams as usize
    } else {
        MAX_PENDING_ACCEPT_RESETS
    }
}

/// Bytes of one head that the library takes, as HPACK counts them, where `ours` are allowed.
pub(super) fn max_header_list(ours: usize) -> u32 {
    u32::try_from(ours + HEADER_LIST_ROOM).unwrap_or(u32::MAX)
}

/// Bytes that one HTTP/1 connection buffers either way, where `head` may be in one head.
pub(super) fn max_buffer(head: usize) -> usize {
    MAX_BUFFER.max(2 * head)
}

/// The library's own bound on the fields of a head. It keeps more than so many on the heap.
pub(super) const LIBRARY_HEADERS: u16 = 100;
