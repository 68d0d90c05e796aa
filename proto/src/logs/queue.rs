//! The way from whoever logs to the sink: a bounded buffer, and one thread that empties it.
//!
//! Whoever logs only copies a line into the buffer. Where the sink is slow or stands still, lines that find
//! no room are left out and counted; the thread says how many as soon as it can write again. Lines of the
//! access log leave a part of the room to others, so that much traffic does not hide a warning.
//!
//! A process that is killed loses what is still in the buffer; one that ends by itself calls
//! [`Queue::flush`].

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Bytes that wait for the sink, beside those that are being written: as many at most again.
pub const MAX_WAITING: usize = 1 << 20;
/// Bytes that wait up to which lines of the access log are taken.
pub const MAX_WAITING_ACCESS: usize = 3 * MAX_WAITING / 4;
/// Bytes of room that are kept after a rush.
const KEPT: usize = 64 << 10;

/// Lines on their way. Shared by whoever logs.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Something is to be written, or nothing more will come.
    work: Condvar,
    /// Everything was written.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines that found no room since the thread said so last.
    lost: u64,
    writing: bool,
    closed: bool,
}

/// Closes its queue: the thread writes what is left, and ends.
pub(super) struct Closing(pub(super) Arc<Queue>);

impl Queue {
    /// A queue whose lines a thread of its own writes to `sink`, a few at once where they come quicker than
    /// it takes them. `lost` makes a line of a number of lost ones.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(
        sink: Box<dyn Write + Send>,
        lost: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
        });
        let writing = Arc::clone(&queue);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writing.write(sink, lost))?;
        Ok(queue)
    }

    /// Takes a line while no more than `room` bytes wait; false where it is lost.
    pub(super) fn put(&self, line: &[u8], room: usize) -> bool {
        let mut state = self.state.lock();
        if state.waiting.len() + line.len() > room {
            state.lost += 1;
            return false;
        }
        let was_empty = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if was_empty {
            self.work.notify_one();
        }
        true
    }

    /// Waits until everything is written, for so long at most.
    pub(super) fn flush(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.writing || !state.waiting.is_empty() {
            if self.idle.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// One write for all that waits, so that lines never mix. A sink that is gone cannot be told about.
    fn write(&self, mut sink: Box<dyn Write + Send>, lost: impl Fn(u64) -> Vec<u8>) {
        let mut batch = Vec::new();
        let mut state = self.state.lock();
        loop {
            if state.waiting.is_empty() && state.lost == 0 {
                self.idle.notify_all();
                if state.closed {
                    return;
                }
                self.work.wait(&mut state);
                continue;
            }
            state.writing = true;
            std::mem::swap(&mut state.waiting, &mut batch);
            let before = std::mem::take(&mut state.lost);
            drop(state);
            if before > 0 {
                batch.extend_from_slice(&lost(before));
            }
            let _ = sink.write_all(&batch);
            let _ = sink.flush();
            batch.clear();
            batch.shrink_to(KEPT);
            state = self.state.lock();
            state.writing = false;
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.work.notify_one();
    }
}
