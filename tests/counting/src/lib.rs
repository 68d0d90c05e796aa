//! Counts what a thread asks the allocator for. For tests alone; no product depends on it.
//!
//! A test program makes [`Counting`] its global allocator, and each thread that is to be counted says so
//! with [`Tally::here`]. What other threads allocate is counted nowhere. Of allocations a `realloc` counts as
//! one, what is freed as nothing: it was counted when it was taken. Bytes are counted both ways.
//!
//! This is the one place in the repository with `unsafe`: an allocator cannot be had without. All of it
//! hands on to the system's allocator what it was given.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// Threads of one program that are counted, at most.
pub const MAX_THREADS: usize = 256;

/// The system's allocator, with a count.
#[derive(Debug, Default)]
pub struct Counting;

/// The count of one thread; may be read from any other.
#[derive(Clone, Copy, Debug)]
pub struct Tally(usize);

static COUNTS: [AtomicU64; MAX_THREADS] = [const { AtomicU64::new(0) }; MAX_THREADS];
static BYTES: [AtomicI64; MAX_THREADS] = [const { AtomicI64::new(0) }; MAX_THREADS];
static TALLIES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // Const and without a destructor: reading it neither allocates nor runs code at a thread's end.
    static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Tally {
    /// Counts this thread from now on.
    ///
    /// # Panics
    ///
    /// Where [`MAX_THREADS`] are counted already.
    pub fn here() -> Self {
        let slot = SLOT.get().unwrap_or_else(|| {
            let slot = TALLIES.fetch_add(1, Ordering::Relaxed);
            assert!(
                slot < MAX_THREADS,
                "more than {MAX_THREADS} threads to count"
            );
            SLOT.set(Some(slot));
            slot
        });
        Self(slot)
    }

    /// Allocations of the thread since it is counted.
    pub fn allocations(self) -> u64 {
        COUNTS[self.0].load(Ordering::SeqCst)
    }

    /// Bytes that the thread has taken, less those that it has freed, whoever took them.
    pub fn bytes(self) -> i64 {
        BYTES[self.0].load(Ordering::SeqCst)
    }
}

fn count() {
    if let Some(slot) = SLOT.get() {
        COUNTS[slot].fetch_add(1, Ordering::SeqCst);
    }
}

/// No object is larger than `isize::MAX`, so that the casts lose nothing.
fn moved(freed: usize, taken: usize) {
    if let Some(slot) = SLOT.get() {
        BYTES[slot].fetch_add(taken as i64 - freed as i64, Ordering::SeqCst);
    }
}

// SAFETY: every method hands its arguments on to `System` unchanged and returns what that returned, so
// the contract that callers keep and are promised is `System`'s own. Counting neither allocates nor
// unwinds: the slot is a const thread-local without a destructor, and below `MAX_THREADS`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        moved(0, layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        moved(0, layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, allocation: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        moved(layout.size(), size);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::realloc`.
        unsafe { System.realloc(allocation, layout, size) }
    }

    unsafe fn dealloc(&self, allocation: *mut u8, layout: Layout) {
        moved(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(allocation, layout) }
    }
}
