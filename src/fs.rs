//! Private files: who may read them, who may decide where they lie, and how they are replaced.
//!
//! These rules hold for the checkpoint, its lock, its temporary file and the dead letters:
//!
//! - **Only their owner reads them.** They are created with mode 0600.
//! - **They are regular files.** A link, a FIFO or a device in their place is refused. It is opened
//!   so that no link is followed and no FIFO blocks, and nothing is written before its kind is known.
//! - **They belong to a trusted user:** to root, to the owner of their directory, or to the user who
//!   runs this. Another user's file may be planted, to hide events or to be read by that user.
//! - **They have one name** where everybody can write the directory: another user could give one of
//!   our files a second one.
//! - **Links on the way to them belong to a trusted user, too.** Another user's link may be planted,
//!   to lead to a place of that user's choice.
//!
//! A directory that everybody may write is accepted, since volumes of containers and workspaces of
//! CI systems are such directories. Other users can remove files there, so that events are delivered
//! again; `--require-checkpoint` detects that. They can also try to win a race: the directories on
//! the way are checked first and used afterwards.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::geteuid;

/// The mode of a file for its owner only.
pub const PRIVATE: u32 = 0o600;

/// No link is followed, and a FIFO without a reader or writer does not block.
const NO_LINK_NO_WAIT: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// Reads the beginning of a file by the rules above, at most this many bytes. Returns `None` if there
/// is no file.
///
/// # Errors
/// The system's error, or the rule that is broken.
pub fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Opens a file that exists for appending, by the rules above.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is no file, the system's error, or the rule that is broken.
pub fn open_to_append(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().append(true))
}

/// Opens a file for appending as [`open_to_append`] does, and creates it if there is none.
///
/// # Errors
/// The system's error, or the rule that is broken.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    open(path, options.append(true).create(true).mode(PRIVATE))
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    refuse_planted_links(directory(path))?;
    let opened = options.custom_flags(NO_LINK_NO_WAIT).open(path);
    let there = match &opened {
        Ok(file) => file.metadata()?,
        // The system's error for a link, a FIFO or a socket does not say what is there.
        Err(_) => match fs::symlink_metadata(path) {
            Ok(there) => there,
            Err(_) => return opened,
        },
    };
    if !there.is_file() {
        let fault = "it is a directory, a link or a special file, not a regular file";
        return Err(io::Error::other(fault));
    }
    refuse_planted("it", path, &there)?;
    let file = opened?;
    // Where everybody can write, another user may have given one of our files this name, too.
    let everybody_writes = fs::metadata(directory(path))?.mode() & 0o002 != 0;
    if there.nlink() > 1 && everybody_writes {
        let fault = "it has another name (a hard link) in a directory that everybody can write; copy it to a new file and put that in its place";
        return Err(io::Error::other(fault));
    }
    Ok(file)
}

/// Replaces a file, whole or not at all, through a temporary file beside it. The new file has this
/// mode, less the umask.
///
/// # Errors
/// The system's error. The file is as it was before, and the temporary file is removed.
pub fn replace(path: &Path, temporary: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let replaced = create(temporary, mode, bytes).and_then(|()| fs::rename(temporary, path));
    if replaced.is_err() {
        let _ = fs::remove_file(temporary);
    }
    replaced
}

/// Creates a file and syncs it. Another file in its place is removed, never opened.
fn create(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Creates a file beside another one and removes it again, to try whether that is possible.
///
/// # Errors
/// The system's error.
pub fn try_beside(path: &Path) -> io::Result<()> {
    // A run that is going on has a temporary file of another name.
    let trial = with_suffix(path, &format!(".{}.check", std::process::id()));
    // A file system can keep a few bytes without any free space, but not this many.
    let created = create(&trial, PRIVATE, &[b' '; 4096]);
    let removed = fs::remove_file(&trial);
    created.and(removed)
}

/// Makes the name of a created or renamed file durable.
///
/// # Errors
/// The system's error if the file's directory cannot be synced.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(directory(path))?.sync_all() {
        // Some network file systems cannot sync a directory, and need not.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// Creates a directory and its parents, for their owner only, where they are missing.
///
/// # Errors
/// The system's error.
pub fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)
}

/// Returns the directory of a file.
pub fn directory(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Returns `path` with `suffix` appended to its last part.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Describes, for `--check`, how others can read or write a file that holds a secret. Returns `None`
/// if they cannot, or if the file cannot be inspected.
pub fn exposure(path: &Path) -> Option<String> {
    let place = fs::canonicalize(path).ok()?;
    let mode = fs::metadata(&place).ok()?.mode();
    exposed(&place, mode).map(|fault| format!("{} {fault}", path.display()))
}

/// Describes the same for a file's mode and its path without links.
///
/// Every user of a container may read the secrets that are mounted into it, and there is only one.
/// Docker mounts them below `/run/secrets` (<https://docs.docker.com/engine/swarm/secrets/>). The
/// kubelet keeps the versions of a volume in directories whose names begin with two dots.
fn exposed(place: &Path, mode: u32) -> Option<&'static str> {
    let is_mounted = place.starts_with("/run/secrets") || place.to_string_lossy().contains("/..");
    if mode & 0o022 != 0 {
        Some("can be written by others than its owner: chmod go-w")
    } else if mode & 0o004 != 0 && !is_mounted {
        Some("can be read by every user of this machine: chmod o-r")
    } else {
        None
    }
}

/// Follows the links on the way to a directory as the system does, and refuses planted ones.
fn refuse_planted_links(path: &Path) -> io::Result<()> {
    let mut at = PathBuf::new();
    for part in path.components() {
        let next = at.join(part);
        let there = fs::symlink_metadata(&next)?;
        if there.is_symlink() {
            let link = format!("the symbolic link {}", next.display());
            refuse_planted(&link, &next, &there)?;
            // Fails if links form a loop.
            fs::metadata(&next)?;
            refuse_planted_links(&at.join(fs::read_link(&next)?))?;
        }
        at = next;
    }
    Ok(())
}

/// Refuses a file or link that does not belong to a trusted user.
fn refuse_planted(what: &str, path: &Path, there: &Metadata) -> io::Result<()> {
    let owner = there.uid();
    if owner == 0 || owner == fs::metadata(directory(path))?.uid() || owner == geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{what} belongs to another user (uid {owner}), who may have planted it; if it is yours, copy it to a new file and put that in its place"
    )))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_name_is_refused_only_where_everybody_can_plant_it() {
        let place = tempfile::tempdir().unwrap();
        let [file, other] = ["a", "b"].map(|name| place.path().join(name));
        fs::write(&file, "").unwrap();
        fs::hard_link(&file, &other).unwrap();
        for (mode, is_refused) in [(0o755, false), (0o1777, true)] {
            fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&file, 1).is_err(), is_refused, "{mode:o}");
        }
        fs::remove_file(&other).unwrap();
        assert!(read(&file, 1).is_ok());
    }

    #[test]
    fn a_file_with_a_secret_is_for_its_owner() {
        let fault = |place: &str, mode| exposed(Path::new(place), mode).unwrap_or_default();
        for mode in [0o600, 0o400, 0o640, 0o440, 0o100_600] {
            assert_eq!(fault("/etc/tfc-audit/token", mode), "", "{mode:o}");
        }
        for mode in [0o644, 0o604, 0o100_444] {
            assert!(fault("/etc/tfc-audit/token", mode).contains("can be read"));
            assert_eq!(fault("/run/secrets/token", mode), "");
            assert_eq!(fault("/etc/tfc/..2026_01_02_03_04_05.123/token", mode), "");
        }
        for mode in [0o620, 0o602, 0o666, 0o777] {
            for place in ["/etc/tfc-audit/token", "/run/secrets/token"] {
                assert!(fault(place, mode).contains("can be written"));
            }
        }
        assert!(exposure(Path::new("no-such-file")).is_none());
    }
}
