//! Delivery to standard output, as NDJSON. A stride is acknowledged when it is written and, where
//! standard output is a regular file, synced to disk. And for `--dry-run`, what would be posted.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::config::Post;
use crate::delivery::Target;
use crate::delivery::lines::{self, LineFile};
use crate::error::Error;
use crate::event::Event;
use crate::format::{Encoder, Limits, Verdict};

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

fn duplicate() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
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

/// Standard output, as a target in the place of a receiver: it takes the bodies that would be
/// posted, not compressed, each ending in a line feed. Every format is a sequence of JSON values,
/// and stays one that way.
pub struct Preview {
    file: File,
    encoder: Encoder,
}

impl Preview {
    /// Takes this process's standard output.
    ///
    /// # Errors
    /// If there is none.
    pub fn of_process(post: &Post, normalize: bool) -> Result<Self, Error> {
        Ok(Self {
            file: duplicate().map_err(Error::Stdout)?,
            encoder: Encoder::new(post.format, normalize, &post.labels),
        })
    }
}

impl Target for Preview {
    fn encode(&self, events: &[Event], limits: Limits) -> (Vec<u8>, usize) {
        let (mut body, count) = self.encoder.encode(events, limits);
        if !body.ends_with(b"\n") {
            body.push(b'\n');
        }
        (body, count)
    }

    fn send(&mut self, _: &[Event], body: &[u8], _: Duration) -> Result<Verdict, Error> {
        lines::write_all(&mut self.file, body, &mut 0).map_err(Error::of_stdout)?;
        Ok(Verdict::Accepted)
    }
}
