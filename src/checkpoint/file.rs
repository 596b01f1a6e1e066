//! The checkpoint's file: its lock, how it is read and how it is replaced.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use crate::checkpoint::{Checkpoint, RESTORE};
use crate::clock::Clock;
use crate::config::values::CheckpointPlace;
use crate::error::Error;
use crate::event::Event;
use crate::fs;
use crate::retry::Patience;

/// How long a run that waits for the lock sleeps between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The largest file that is read or written, in bytes.
const LARGEST: u64 = 64 * 1024 * 1024;

/// A checkpoint of more bytes waits until as many bytes of events were acknowledged as it has. Every
/// commit writes all of it, and an overlap may hold very many events.
const LARGE: u64 = 128 * 1024;

/// The place that a run commits to.
pub trait Store {
    /// Replaces the checkpoint of the last commit durably. Returns how many bytes it has.
    ///
    /// # Errors
    /// If the new checkpoint may not survive a power cut.
    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<u64, String>;
}

/// The commits of a run: one for each acknowledged batch, while the checkpoint is small.
pub struct Commits<'s> {
    store: &'s mut dyn Store,
    /// The bytes of the last checkpoint.
    size: u64,
    /// The acknowledged events since, and their bytes.
    events: usize,
    bytes: u64,
}

impl<'s> Commits<'s> {
    /// Prepares commits; nothing is written yet.
    pub fn new(store: &'s mut dyn Store) -> Self {
        Self {
            store,
            size: 0,
            events: 0,
            bytes: 0,
        }
    }

    /// Commits that these events, which the checkpoint has, are acknowledged; or waits for more of
    /// them if the checkpoint is large.
    ///
    /// # Errors
    /// [`Error::NotCommitted`].
    pub fn acknowledged(&mut self, events: &[Event], checkpoint: &Checkpoint) -> Result<(), Error> {
        self.events += events.len();
        self.bytes += events
            .iter()
            .map(|event| event.json().len() as u64)
            .sum::<u64>();
        if self.size > LARGE && self.bytes < self.size {
            return Ok(());
        }
        self.commit(checkpoint)
    }

    /// Commits what is still waiting.
    ///
    /// # Errors
    /// [`Error::NotCommitted`].
    pub fn finish(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        if self.events == 0 {
            return Ok(());
        }
        self.commit(checkpoint)
    }

    /// Commits the checkpoint as it is.
    ///
    /// # Errors
    /// [`Error::NotCommitted`].
    pub fn commit(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let events = self.events;
        let committed = self.store.commit(checkpoint);
        self.size = committed.map_err(|fault| Error::NotCommitted { events, fault })?;
        (self.events, self.bytes) = (0, 0);
        Ok(())
    }
}

/// The checkpoint's file, locked for as long as this value lives.
pub struct CheckpointFile {
    place: CheckpointPlace,
    _lock: File,
}

impl CheckpointFile {
    /// Takes the lock. Waits for it until `lock_wait` of the place has passed, or until the deadline
    /// if that is earlier.
    ///
    /// # Errors
    /// [`Error::Locked`] if another run holds the lock, [`Error::Checkpoint`] if it cannot be opened.
    pub fn lock(
        place: &CheckpointPlace,
        clock: &dyn Clock,
        patience: &Patience,
    ) -> Result<Self, Error> {
        if place.create_parents {
            let parent = fs::directory(&place.path);
            let what = format!("cannot create the directory {}", parent.display());
            fs::create_directory(parent).map_err(|error| unusable(place, &what, &error))?;
        }
        let lock_path = place.lock();
        let lock = fs::open_or_create(&lock_path).map_err(|error| no_lock(place, &error))?;
        let wait = place.lock_wait.min(patience.left(clock));
        let until = clock.elapsed().saturating_add(wait);
        loop {
            let left = until.saturating_sub(clock.elapsed());
            match try_lock(&lock, &lock_path) {
                Err(Error::Locked(_)) if !left.is_zero() => clock.sleep(left.min(LOCK_PAUSE)),
                result => break result?,
            }
        }
        Ok(Self {
            place: place.clone(),
            _lock: lock,
        })
    }
}

/// `None`, as with `--no-checkpoint`, keeps nothing.
impl Store for Option<CheckpointFile> {
    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<u64, String> {
        let Some(CheckpointFile { place, .. }) = self else {
            return Ok(0);
        };
        let (path, temporary) = (&place.path, place.temporary());
        let json = checkpoint.to_json();
        let size = json.len() as u64;
        if size > LARGEST {
            return Err(format!(
                "the checkpoint {} would be larger than 64 MiB; shorten --overlap",
                path.display()
            ));
        }
        fs::replace(path, &temporary, fs::PRIVATE, &json)
            .and_then(|()| fs::sync_directory(path))
            .map(|()| size)
            .map_err(|error| {
                format!(
                    "the checkpoint {} cannot be written: {error}; its directory has to be writable, with space for {} beside it (in a container, mount the directory and not the file)",
                    path.display(),
                    temporary.display()
                )
            })
    }
}

/// Checks that no run holds the lock. Creates nothing: without a lock file, the lock is free.
///
/// # Errors
/// [`Error::Locked`] if a run holds the lock, [`Error::Checkpoint`] if it cannot be opened.
pub fn is_unlocked(place: &CheckpointPlace) -> Result<(), Error> {
    let path = place.lock();
    match fs::open_to_append(&path) {
        Ok(lock) => try_lock(&lock, &path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(no_lock(place, &error)),
    }
}

fn no_lock(place: &CheckpointPlace, error: &io::Error) -> Error {
    let what = format!("cannot open the lock {}", place.lock().display());
    unusable(place, &what, error)
}

/// The error where a file of the checkpoint cannot be opened or created, with a remedy. Without a home
/// directory, as in a container, the default place is below `/`, which nobody should make writable.
pub fn unusable(place: &CheckpointPlace, what: &str, error: &io::Error) -> Error {
    let remedy = match error.kind() {
        _ if place.create_parents && !fs::directory(&place.path).exists() => {
            "set XDG_STATE_HOME or HOME to a directory that this user can write, or name a file with --checkpoint"
        }
        ErrorKind::NotFound => "create the directory, or name another file with --checkpoint",
        ErrorKind::PermissionDenied => {
            "let this user read and write there, or name another file with --checkpoint"
        }
        _ => "name another file with --checkpoint",
    };
    Error::Checkpoint(format!("{what}: {error}; {remedy}"))
}

/// Takes the lock unless another run holds it. The lock lasts until the file is closed.
fn try_lock(lock: &File, path: &Path) -> Result<(), Error> {
    let Err(error) = fs2::FileExt::try_lock_exclusive(lock) else {
        return Ok(());
    };
    match error.kind() {
        ErrorKind::Interrupted => try_lock(lock, path),
        ErrorKind::WouldBlock => Err(Error::Locked(path.to_owned())),
        _ => Err(Error::Checkpoint(format!(
            "cannot take the lock {}: {error}; keep the checkpoint on a file system that supports locks",
            path.display()
        ))),
    }
}

/// Reads the checkpoint; returns `None` if there is none. Reading needs no lock: a commit replaces
/// the file whole, so that a reader sees the old or the new checkpoint.
///
/// # Errors
/// [`Error::Checkpoint`] if the file cannot be trusted, or is required and missing.
pub fn read(place: &CheckpointPlace, endpoint: &str) -> Result<Option<Checkpoint>, Error> {
    let shown = place.path.display();
    let untrusted = |fault: &str| {
        Error::Checkpoint(format!(
            "the checkpoint {shown} cannot be trusted, and nothing was done: {fault}"
        ))
    };
    match fs::read(&place.path, LARGEST + 1) {
        Ok(None) if place.required => Err(Error::Checkpoint(format!(
            "there is no checkpoint {shown}, and --require-checkpoint is given; to start afresh, run once without it"
        ))),
        Ok(None) => Ok(None),
        Ok(Some(json)) if json.len() as u64 > LARGEST => {
            Err(untrusted(&format!("it is larger than 64 MiB. {RESTORE}")))
        }
        Ok(Some(json)) => Checkpoint::parse(&json, endpoint)
            .map(Some)
            .map_err(|fault| untrusted(&fault)),
        Err(error) => {
            let what = format!("the checkpoint {shown} cannot be read");
            Err(unusable(place, &what, &error))
        }
    }
}
