//! The checkpoint's file: its lock, how it is read and how it is replaced.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checkpoint::Checkpoint;
use crate::clock::Clock;
use crate::config::values::CheckpointPlace;
use crate::error::Error;
use crate::fs;

/// Where commits go.
pub trait Store {
    /// Replaces what earlier commits have left, for good.
    ///
    /// # Errors
    /// If the new checkpoint is not certain to be there after a power cut.
    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<(), String>;
}

/// For `--no-checkpoint`: nothing is kept.
pub struct NoStore;

impl Store for NoStore {
    fn commit(&mut self, _: &Checkpoint) -> Result<(), String> {
        Ok(())
    }
}

/// The checkpoint's file, locked for as long as this lives.
pub struct CheckpointFile {
    path: PathBuf,
    temporary: PathBuf,
    _lock: Option<File>,
}

impl CheckpointFile {
    /// Takes the lock, waiting for it as long as the place allows and `deadline` (by the clock's
    /// [`Clock::elapsed`]) is not reached.
    ///
    /// # Errors
    /// [`Error::Locked`] if another run has it, [`Error::Checkpoint`] if there can be none.
    pub fn lock(
        place: &CheckpointPlace,
        clock: &dyn Clock,
        deadline: Option<Duration>,
    ) -> Result<Self, Error> {
        let path = place.path.clone();
        if place.create_parents {
            let parent = fs::directory(&path);
            make_private_directories(parent).map_err(|error| {
                Error::Checkpoint(format!(
                    "cannot create the directory {}: {error}; name another file with --checkpoint",
                    parent.display()
                ))
            })?;
        }
        refuse_other_kinds(&path)?;
        let until = clock.elapsed().saturating_add(place.lock_wait);
        let until = deadline.map_or(until, |deadline| until.min(deadline));
        let lock = loop {
            let left = until.saturating_sub(clock.elapsed());
            match try_lock(place, true) {
                Err(Error::Locked(_)) if !left.is_zero() => {
                    clock.sleep(left.min(Duration::from_millis(50)));
                }
                result => break result?,
            }
        };
        let temporary = fs::with_suffix(&path, ".tmp");
        Ok(Self {
            path,
            temporary,
            _lock: lock,
        })
    }
}

impl Store for CheckpointFile {
    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<(), String> {
        let (path, temporary) = (&self.path, &self.temporary);
        fs::replace(path, temporary, fs::PRIVATE, &checkpoint.to_json())
            .and_then(|()| fs::sync_directory(path))
            .map_err(|error| {
                format!(
                    "the checkpoint {} cannot be written: {error}; its directory has to be writable, with space for {} beside it",
                    path.display(),
                    temporary.display()
                )
            })
    }
}

/// Takes the lock if it can be had at once, and gives its file, which holds it. Where there is none
/// and none is to be made, it is free and there is nothing to give.
///
/// # Errors
/// [`Error::Locked`] if another run has it, [`Error::Checkpoint`] if there can be none.
pub fn try_lock(place: &CheckpointPlace, make: bool) -> Result<Option<File>, Error> {
    let path = fs::with_suffix(&place.path, ".lock");
    refuse_other_kinds(&path)?;
    let lock = match fs::open(&path, OpenOptions::new().write(true), make) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound && !make => return Ok(None),
        Err(error) => {
            return Err(Error::Checkpoint(format!(
                "cannot open the lock {}: {error}; {}name another file with --checkpoint",
                path.display(),
                fs::remedy(&error)
            )));
        }
    };
    match fs2::FileExt::try_lock_exclusive(&lock) {
        Ok(()) => Ok(Some(lock)),
        Err(error) if error.kind() == ErrorKind::Interrupted => try_lock(place, make),
        Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
            Err(Error::Locked(path))
        }
        Err(error) => Err(Error::Checkpoint(format!(
            "cannot take the lock {}: {error}; keep the checkpoint on a file system that has locks",
            path.display()
        ))),
    }
}

/// Reads the checkpoint; `None` if there is none. It takes no lock to read: a commit replaces it
/// whole, so that there is always the one or the other.
///
/// # Errors
/// [`Error::Checkpoint`] if it cannot be trusted, or has to be there and is not.
pub fn read(place: &CheckpointPlace, endpoint: &str) -> Result<Option<Checkpoint>, Error> {
    let path = &place.path;
    let shown = path.display();
    refuse_other_kinds(path)?;
    let mut json = Vec::new();
    let file = fs::open(path, OpenOptions::new().read(true), false);
    match file.and_then(|mut file| file.read_to_end(&mut json)) {
        Err(error) if error.kind() == ErrorKind::NotFound && place.required => {
            Err(Error::Checkpoint(format!(
                "there is no checkpoint {shown}, and --require-checkpoint is given; to start afresh, run once without it"
            )))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::Checkpoint(format!(
            "the checkpoint {shown} cannot be read: {error}; nothing was done; {}name another with --checkpoint",
            fs::remedy(&error)
        ))),
        Ok(_) => Checkpoint::parse(&json, endpoint).map(Some).map_err(|fault| {
            Error::Checkpoint(format!(
                "the checkpoint {shown} cannot be trusted: {fault}; nothing was done. Restore it, name another with --checkpoint, or remove it and run once with --since and the time of the newest event that arrived (without --since, everything retained is delivered again)"
            ))
        }),
    }
}

/// Refuses what is there but is no regular file. A link is refused rather than followed: a commit
/// would replace the link and not what it leads to, and somebody else may have planted it.
fn refuse_other_kinds(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() => Err(Error::Checkpoint(format!(
            "{} is a {}, not a regular file; name the file itself with --checkpoint",
            path.display(),
            if there.is_dir() {
                "directory"
            } else if there.is_symlink() {
                "symbolic link"
            } else {
                "special file"
            },
        ))),
        _ => Ok(()),
    }
}

fn make_private_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)
}
