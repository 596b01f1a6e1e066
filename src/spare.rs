//! Reuse of the buffers that held pages.
//!
//! Without it, the allocator returns the memory of each window to the system, which clears it again
//! before the next window uses it. That took a tenth of a run's processor time.

use std::sync::{Mutex, PoisonError};

/// The most buffers that are kept: about as many as a run has pages in memory.
const MOST: usize = 32;
/// The smallest buffer that is kept, in bytes, so that the text of a single event does not take the
/// place of a page's.
const LEAST: usize = 64 * 1024;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Returns a buffer that still holds its old content, or an empty new one.
#[must_use]
pub fn take() -> Vec<u8> {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    spare.pop().unwrap_or_default()
}

/// Keeps a buffer for later if it is large enough and few are kept.
pub fn keep(buffer: Vec<u8>) {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    if spare.len() < MOST && buffer.capacity() >= LEAST {
        spare.push(buffer);
    }
}
