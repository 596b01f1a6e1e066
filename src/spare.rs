//! Memory of pages that are done with, for those to come. The allocator would hand it back to the
//! system, stride after stride, and the system would clear each of its pages again: a tenth of a
//! run's processor time.

use std::sync::{Mutex, PoisonError};

/// The most that is kept, in buffers: about as many as a run has pages in memory.
const MOST: usize = 32;
/// The least that is kept: the text of an event that was kept alone would take the place of a
/// page's.
const LEAST: usize = 64 * 1024;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer: with what it held before, or empty.
#[must_use]
pub fn take() -> Vec<u8> {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    spare.pop().unwrap_or_default()
}

/// Keeps a buffer for later, if it is worth it.
pub fn keep(buffer: Vec<u8>) {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    if spare.len() < MOST && buffer.capacity() >= LEAST {
        spare.push(buffer);
    }
}
