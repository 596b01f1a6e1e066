//! Delivery to standard output, as NDJSON.
//!
//! A stride is acknowledged when it is written and, where standard output is a regular file, synced
//! to disk. Such a file never keeps half a line: a write that fails is taken back, and half a line
//! that a killed run left is ended first.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::time::Duration;

use crate::delivery::Target;
use crate::error::Error;
use crate::event::Event;

/// How much is written at once.
const CHUNK: usize = 256 * 1024;

/// Standard output, as a target.
pub struct Stdout {
    file: File,
    /// It is a regular file, which can be synced and cut.
    is_regular: bool,
    is_fresh: bool,
}

impl Stdout {
    /// Takes this process's standard output, past the standard library's buffer (which would hide
    /// an error until it is too late).
    ///
    /// # Errors
    /// If there is none.
    #[cfg(unix)]
    pub fn of_process() -> io::Result<Self> {
        use std::os::fd::AsFd;
        Self::new(File::from(io::stdout().as_fd().try_clone_to_owned()?))
    }

    /// Takes this process's standard output, past the standard library's buffer (which would hide
    /// an error until it is too late).
    ///
    /// # Errors
    /// If there is none.
    #[cfg(windows)]
    pub fn of_process() -> io::Result<Self> {
        use std::os::windows::io::AsHandle;
        Self::new(File::from(io::stdout().as_handle().try_clone_to_owned()?))
    }

    fn new(file: File) -> io::Result<Self> {
        let is_regular = file.metadata()?.is_file();
        Ok(Self {
            file,
            is_regular,
            is_fresh: true,
        })
    }

    /// Where the next byte goes: at the end, unless something else was written through the same
    /// open file before. `None` if it is not a regular file.
    fn place(&mut self) -> io::Result<Option<u64>> {
        if !self.is_regular {
            return Ok(None);
        }
        Ok(Some(match self.file.stream_position()? {
            0 => self.file.metadata()?.len(),
            position => position,
        }))
    }

    fn write(&mut self, events: &[Event], written: &mut u64) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(CHUNK + CHUNK / 4);
        if std::mem::take(&mut self.is_fresh)
            && let Some(end) = self.place()?
            && ends_in_half_a_line(end)
        {
            buffer.push(b'\n');
        }
        for event in events {
            buffer.extend_from_slice(event.line().as_bytes());
            buffer.push(b'\n');
            if buffer.len() >= CHUNK {
                write_all(&mut self.file, &buffer, written)?;
                buffer.clear();
            }
        }
        write_all(&mut self.file, &buffer, written)?;
        self.file.flush()?;
        if self.is_regular {
            self.file.sync_data()
        } else {
            Ok(())
        }
    }
}

impl Target for Stdout {
    fn send(&mut self, events: &[Event]) -> Result<(), Error> {
        let start = self.place().map_err(Error::Stdout)?;
        let mut written = 0;
        self.write(events, &mut written).map_err(|error| {
            if let Some(start) = start {
                take_back(&self.file, start, written);
            }
            if error.kind() == ErrorKind::BrokenPipe {
                Error::StdoutClosed
            } else {
                Error::Stdout(error)
            }
        })
    }
}

/// Cuts a file back to where a batch began, unless somebody else has written to it since. If that
/// fails too, the next run finds half a line and ends it.
fn take_back(file: &File, start: u64, written: u64) {
    if file
        .metadata()
        .is_ok_and(|now| now.len() == start + written)
    {
        let _ = file.set_len(start);
    }
}

/// Whether the byte before `end` of the file behind standard output is something else than a line
/// feed. It is opened anew for that, since a redirection opens it for writing only; where that is
/// not possible, there is no knowing.
fn ends_in_half_a_line(end: u64) -> bool {
    let last_byte = || -> io::Result<u8> {
        let mut file = File::open("/dev/stdout")?;
        file.seek(SeekFrom::Start(
            end.checked_sub(1).ok_or(ErrorKind::UnexpectedEof)?,
        ))?;
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        Ok(byte[0])
    };
    last_byte().is_ok_and(|byte| byte != b'\n')
}

/// Writes everything, counting what was written also if it fails, and waiting where a pipe was set
/// to non-blocking by the program at its other end.
fn write_all(file: &mut File, mut bytes: &[u8], written: &mut u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                *written += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
