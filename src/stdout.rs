//! Delivery to standard output, as NDJSON. A stride is acknowledged when it is written and, where
//! standard output is a regular file, synced to disk.

use std::fs::File;
use std::io;
use std::time::Duration;

use crate::delivery::Target;
use crate::error::Error;
use crate::event::Event;
use crate::format::Verdict;
use crate::lines::LineFile;

/// Standard output, as a target.
#[derive(Debug)]
pub struct Stdout {
    lines: LineFile,
    normalized: bool,
}

impl Stdout {
    /// Takes this process's standard output, past the standard library's buffer (which would hide
    /// an error until it is too late).
    ///
    /// # Errors
    /// If there is none.
    pub fn of_process(normalized: bool) -> Result<Self, Error> {
        let lines = duplicate().and_then(|file| LineFile::new(file, "/dev/stdout".into()));
        Ok(Self {
            lines: lines.map_err(Error::Stdout)?,
            normalized,
        })
    }
}

#[cfg(unix)]
fn duplicate() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn duplicate() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

impl Target for Stdout {
    fn sent(&self, _: &[u8]) -> u64 {
        self.lines.written()
    }

    fn send(&mut self, events: &[Event], _: &[u8], _: Duration) -> Result<Verdict, Error> {
        match self.lines.append(events, self.normalized) {
            Ok(()) => Ok(Verdict::Accepted),
            Err(error) => Err(Error::of_stdout(error)),
        }
    }
}
