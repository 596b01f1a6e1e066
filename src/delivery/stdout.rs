//! Delivery to standard output, as NDJSON; and the preview of a POST, for `--dry-run`.
//!
//! Events are acknowledged when they are written and, if standard output is a regular file, synced.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::clock::{SystemClock, within};
use crate::delivery::Target;
use crate::delivery::lines::LineFile;
use crate::error::Error;
use crate::event::Event;
use crate::format::Limits;
use crate::format::verdict::Verdict;

/// The events that are written and synced together: few syncs, and little memory.
pub const BATCH: Limits = Limits {
    events: usize::MAX,
    bytes: 2 * 1024 * 1024,
};

/// Standard output as a receiver.
pub struct Stdout(LineFile);

impl Stdout {
    /// Takes this process's standard output.
    ///
    /// # Errors
    /// If there is none.
    pub fn of_process(clock: SystemClock) -> Result<Self, Error> {
        let lines = LineFile::new(open()?, "/dev/stdout".into(), clock);
        lines.map(Self).map_err(Error::Stdout)
    }
}

/// Standard output without the standard library's buffer, which would report an error too late.
///
/// # Errors
/// [`Error::Stdout`] if there is none.
pub fn open() -> Result<File, Error> {
    let file = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let file = file.map_err(Error::Stdout)?;
    if was_closed(&file).map_err(Error::Stdout)? {
        return Err(Error::Stdout(io::Error::other(
            "it is closed, or the null device opened for reading and writing; name a file or a pipe, or discard what is written with >/dev/null",
        )));
    }
    Ok(file)
}

/// Whether the caller closed standard output. Before `main`, Rust then opens the null device for
/// reading and writing in its place. A shell opens the null device for writing only.
fn was_closed(stdout: &File) -> io::Result<bool> {
    let device = stdout.metadata()?.rdev();
    let flags = OFlag::from_bits_retain(fcntl(stdout, FcntlArg::F_GETFL)?);
    let is_null = fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == device);
    Ok(is_null && flags & OFlag::O_ACCMODE == OFlag::O_RDWR)
}

impl Target for Stdout {
    /// Each body ends in a line feed. In a preview, every format stays a sequence of JSON values that
    /// way.
    fn send(&mut self, _: &[Event], body: &[u8], timeout: Duration) -> Result<Verdict, Error> {
        let mut body = Cow::from(body);
        if !body.ends_with(b"\n") {
            body.to_mut().push(b'\n');
        }
        // Half a line is cut off a regular file after a failed write, so that one is waited for.
        let appended = if self.0.is_regular || timeout == Duration::MAX {
            self.0.append(&body)
        } else {
            let (mut lines, body) = (self.0.clone(), body.into_owned());
            let appended = within(timeout, move || lines.append(&body)).map_err(Error::Stdout)?;
            appended.ok_or_else(|| Error::Stuck("the reader of standard output".to_owned()))?
        };
        appended.map_err(Error::Stdout)?;
        Ok(Verdict::accepted())
    }
}
