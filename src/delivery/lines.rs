//! Files of lines, which never keep half a line: standard output, and the file of dead letters.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::event::Event;
use crate::format::normalize::normalize;

/// How much is written at once.
const CHUNK: usize = 256 * 1024;

/// Something that lines are appended to; it may be a pipe or a device as well.
#[derive(Debug)]
pub struct LineFile {
    file: File,
    /// Where it can be opened for reading.
    path: PathBuf,
    /// It is a regular file, which can be synced and cut.
    is_regular: bool,
    is_fresh: bool,
    /// How many bytes the last append wrote.
    written: u64,
}

impl LineFile {
    /// Takes an open file, and the name by which it can be opened for reading.
    ///
    /// # Errors
    /// If the file tells nothing about itself.
    pub fn new(file: File, path: PathBuf) -> io::Result<Self> {
        let is_regular = file.metadata()?.is_file();
        Ok(Self {
            file,
            path,
            is_regular,
            is_fresh: true,
            written: 0,
        })
    }

    /// Appends the events, a line each, and returns when they are safely there: on disk if it is a
    /// regular file. If that fails, a regular file is cut back to what it was; if that fails too,
    /// the next run finds half a line and ends it.
    ///
    /// # Errors
    /// If it is not certain that all of them are there.
    pub fn append<'a>(
        &mut self,
        events: impl IntoIterator<Item = &'a Event>,
        normalized: bool,
    ) -> io::Result<()> {
        self.written = 0;
        let start = self.place()?;
        let result = self.write(events, normalized, start);
        if let (Err(_), Some(start)) = (&result, start) {
            // Unless somebody else has written to it since.
            if self
                .file
                .metadata()
                .is_ok_and(|now| now.len() == start + self.written)
            {
                let _ = self
                    .file
                    .set_len(start)
                    .and_then(|()| self.file.seek(SeekFrom::Start(start)));
            }
        }
        result
    }

    /// How many bytes the last append wrote.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
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

    fn write<'a>(
        &mut self,
        events: impl IntoIterator<Item = &'a Event>,
        normalized: bool,
        start: Option<u64>,
    ) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(CHUNK + CHUNK / 4);
        if std::mem::take(&mut self.is_fresh)
            && start.is_some_and(|start| self.ends_in_half_a_line(start))
        {
            buffer.push(b'\n');
        }
        for event in events {
            let line = event.line();
            let line = if normalized {
                normalize(&line)
            } else {
                line.as_ref().into()
            };
            buffer.extend_from_slice(line.as_bytes());
            buffer.push(b'\n');
            if buffer.len() >= CHUNK {
                write_all(&mut self.file, &buffer, &mut self.written)?;
                buffer.clear();
            }
        }
        write_all(&mut self.file, &buffer, &mut self.written)?;
        if self.is_regular {
            self.file.sync_data()
        } else {
            Ok(())
        }
    }

    /// Whether the byte before `end` is something else than a line feed. The file is opened anew
    /// for that, since a redirection opens it for writing only; where that is not possible, there
    /// is no knowing.
    fn ends_in_half_a_line(&self, end: u64) -> bool {
        let last_byte = || -> io::Result<u8> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(
                end.checked_sub(1).ok_or(ErrorKind::UnexpectedEof)?,
            ))?;
            let mut byte = [0];
            file.read_exact(&mut byte)?;
            Ok(byte[0])
        };
        last_byte().is_ok_and(|byte| byte != b'\n')
    }
}

/// Writes everything, counting what was written also if it fails, and waiting where a pipe was set
/// to non-blocking by the program at its other end.
///
/// # Errors
/// If not everything could be written.
pub fn write_all(file: &mut File, mut bytes: &[u8], written: &mut u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                *written += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                SystemClock::start().sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
