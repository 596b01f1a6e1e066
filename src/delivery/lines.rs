//! Files of lines, which never keep half a line: standard output, and the file of dead letters.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};

/// A file to which lines are appended. It may also be a pipe or a device.
#[derive(Clone)]
pub struct LineFile {
    file: Arc<File>,
    /// The name by which the file can be opened for reading.
    pub path: PathBuf,
    /// A regular file can be synced and cut back.
    pub is_regular: bool,
    /// Nothing was appended yet.
    is_fresh: bool,
    /// How many bytes the last call has written.
    written: u64,
    clock: SystemClock,
}

impl LineFile {
    /// Takes an open file, and the name by which it can be opened for reading.
    ///
    /// # Errors
    /// If the file's metadata cannot be read.
    pub fn new(file: File, path: PathBuf, clock: SystemClock) -> io::Result<Self> {
        let is_regular = file.metadata()?.is_file();
        Ok(Self {
            file: Arc::new(file),
            path,
            is_regular,
            is_fresh: true,
            written: 0,
            clock,
        })
    }

    /// Appends whole lines, and syncs a regular file. If that fails, a regular file is cut back to
    /// its length before. If that fails as well, the next run ends the half line.
    ///
    /// # Errors
    /// If some line may be missing.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let start = self.end()?;
        self.written = 0;
        let result = self.write(lines, start);
        if let (Err(_), Some(start)) = (&result, start) {
            let length = self.file.metadata().map(|now| now.len());
            // Any other length means that another process has written since.
            if length.is_ok_and(|length| length == start + self.written) {
                let cut = self.file.set_len(start);
                let _ = cut.and_then(|()| self.file.seek(SeekFrom::Start(start)));
            }
        }
        result
    }

    /// The place of the next byte; `None` if this is not a regular file. It is the end of the file,
    /// unless another process wrote through the same open file before.
    fn end(&mut self) -> io::Result<Option<u64>> {
        if !self.is_regular {
            return Ok(None);
        }
        Ok(Some(match self.file.stream_position()? {
            0 => self.file.metadata()?.len(),
            position => position,
        }))
    }

    fn write(&mut self, lines: &[u8], start: Option<u64>) -> io::Result<()> {
        if std::mem::take(&mut self.is_fresh)
            && start.is_some_and(|start| self.ends_in_half_a_line(start))
        {
            self.write_all(b"\n")?;
        }
        self.write_all(lines)?;
        if self.is_regular {
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Whether the byte before `end` is not a line feed. A redirection opens the file for writing
    /// only, so the file is opened again. If that fails, the line counts as whole.
    fn ends_in_half_a_line(&self, end: u64) -> bool {
        let last_byte = || -> io::Result<u8> {
            let last = end.checked_sub(1).ok_or(ErrorKind::UnexpectedEof)?;
            let mut byte = [0];
            File::open(&self.path)?.read_exact_at(&mut byte, last)?;
            Ok(byte[0])
        };
        last_byte().is_ok_and(|byte| byte != b'\n')
    }

    /// Writes all bytes. The program at the other end may have made a pipe non-blocking: then this
    /// waits until the pipe takes more.
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.written += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.clock.sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
