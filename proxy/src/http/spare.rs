//! Room that is used again: of heads' fields, and of what is read and written. It is kept by the thread, so
//! that what was used last, which the processor's caches still have, is used next, whichever connection
//! that is for; and an idle connection keeps none.

use std::cell::RefCell;
use std::thread::LocalKey;

use bytes::BytesMut;
use http::HeaderMap;

/// Of each kind, kept by one thread.
const MAX_KEPT: usize = 16;
/// Fields that a map has room for, to be kept.
const MAX_FIELDS: usize = 64;
/// Bytes that a buffer has room for, to be kept.
const MAX_BYTES: usize = 16 * 1024;

type Kept<T> = RefCell<Vec<T>>;

thread_local! {
    static FIELDS: Kept<HeaderMap> = const { RefCell::new(Vec::new()) };
    static READ: Kept<BytesMut> = const { RefCell::new(Vec::new()) };
    static WRITTEN: Kept<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An empty map.
pub(crate) fn fields() -> HeaderMap {
    take(&FIELDS)
}

/// Keeps the room of `fields`, which nobody needs any more.
pub(crate) fn give_fields(mut fields: HeaderMap) {
    if (1..=MAX_FIELDS).contains(&fields.capacity()) {
        fields.clear();
        give(&FIELDS, fields);
    }
}

/// An empty buffer to read into.
pub(crate) fn to_read() -> BytesMut {
    take(&READ)
}

/// Keeps the room behind what was read.
pub(crate) fn give_read(buffer: BytesMut) {
    if buffer.is_empty() && buffer.capacity() <= MAX_BYTES {
        give(&READ, buffer);
    }
}

/// An empty buffer for what is to be written.
pub(crate) fn to_write() -> Vec<u8> {
    take(&WRITTEN)
}

/// Keeps the room of what was written.
pub(crate) fn give_written(mut buffer: Vec<u8>) {
    if (1..=MAX_BYTES).contains(&buffer.capacity()) {
        buffer.clear();
        give(&WRITTEN, buffer);
    }
}

fn take<T: Default>(kept: &'static LocalKey<Kept<T>>) -> T {
    let last = kept.try_with(|kept| kept.try_borrow_mut().ok()?.pop());
    last.ok().flatten().unwrap_or_default()
}

fn give<T>(kept: &'static LocalKey<Kept<T>>, room: T) {
    // While its thread ends there is nothing to be kept any more.
    let _ = kept.try_with(|kept| {
        if let Ok(mut kept) = kept.try_borrow_mut()
            && kept.len() < MAX_KEPT
        {
            kept.push(room);
        }
    });
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn room_is_used_again_and_bounded() {
        let mut some = HeaderMap::with_capacity(8);
        some.insert("a", HeaderValue::from_static("b"));
        let room = some.capacity();
        give_fields(some);
        let again = fields();
        assert!(again.is_empty());
        assert_eq!(again.capacity(), room);
        give_fields(HeaderMap::with_capacity(10 * MAX_FIELDS));
        assert_eq!(fields().capacity(), 0);
        for _ in 0..2 * MAX_KEPT {
            give_fields(HeaderMap::with_capacity(8));
        }
        let kept = std::iter::from_fn(|| Some(fields()).filter(|map| map.capacity() > 0));
        assert_eq!(kept.count(), MAX_KEPT);
    }

    #[test]
    fn buffers_are_used_again() {
        let mut read = BytesMut::with_capacity(1_024);
        read.extend_from_slice(b"head");
        let head = read.split();
        give_read(read);
        drop(head);
        let mut again = to_read();
        assert!(again.is_empty());
        assert!(again.try_reclaim(1_024), "all of its room is there again");
        give_read(again);
        assert!(to_read().capacity() > 0);
        assert_eq!(to_read().capacity(), 0);
        give_written(b"head".to_vec());
        let again = to_write();
        assert!(again.is_empty() && again.capacity() >= 4);
        give_written(Vec::with_capacity(2 * MAX_BYTES));
        assert_eq!(to_write().capacity(), 0);
    }
}
