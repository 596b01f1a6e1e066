//! Dead letters: the file for single events that the receiver refuses for good, or that cannot be
//! read. `mod.rs` decides which events those are.

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::clock::SystemClock;
use crate::delivery::lines::LineFile;
use crate::error::Error;
use crate::event::Event;
use crate::fs;

/// The file of `--dead-letter`.
pub struct DeadLetters(LineFile);

impl DeadLetters {
    /// Opens the file for appending. A new file is for its owner only.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path, clock: SystemClock) -> Result<Self, Error> {
        let is_new = !path.exists();
        let file = fs::open_or_create(path);
        let lines = file.and_then(|file| {
            // Before this, a power cut may remove a new file.
            if is_new {
                fs::sync_directory(path)?;
            }
            LineFile::new(file, path.into(), clock)
        });
        lines.map(Self).map_err(|error| unusable(path, &error))
    }

    /// Appends events, byte for byte as the service sent them, and syncs the file. Returns the file's
    /// name.
    ///
    /// # Errors
    /// If some event may be missing.
    pub fn append<'a>(&mut self, events: impl Iterator<Item = &'a Event>) -> Result<String, Error> {
        let lines: String = events
            .map(|event| event.line().into_owned() + "\n")
            .collect();
        let shown = self.0.path.display().to_string();
        match self.0.append(lines.as_bytes()) {
            Ok(()) => Ok(shown),
            Err(error) => Err(Error::DeadLetter(format!("{shown}: {error}"))),
        }
    }
}

/// The error for a file of dead letters that cannot be opened or written.
pub fn unusable(path: &Path, error: &io::Error) -> Error {
    let shown = path.display();
    let remedy = match error.kind() {
        ErrorKind::NotFound => "create its directory",
        _ => "name another file",
    };
    Error::Usage(format!(
        "--dead-letter: cannot open {shown}: {error}; {remedy}"
    ))
}
