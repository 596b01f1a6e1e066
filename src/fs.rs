//! Files of ours: who may read them, who may choose where they lie, and how they are replaced.
//!
//! The rule, for the checkpoint, its lock, its temporary file and the dead letters:
//!
//! - **Only the owner reads them.** They are made with mode 0600, and never over something else:
//!   what lies there is either opened as it is or removed first.
//! - **They are never links.** That holds also if somebody puts a link there at the last moment: what
//!   was opened is compared with what lies there.
//! - **A link on the way to them** is followed only if it belongs to root or to whoever owns the
//!   directory that it lies in. Anybody else's is planted, and leads to a place of theirs. (Linux has
//!   the same rule for directories like `/tmp`, `fs.protected_symlinks`; here it is for all.)
//! - **A file that is there already** belongs to root, to whoever owns its directory, or to us.
//!   Anybody else's is planted, too, and may hide events or be read by them.
//!
//! Directories that everybody may write are not refused: the volumes of containers and the
//! workspaces of CI systems are of that kind, and with these rules nobody can use one to lead a run
//! elsewhere or to make it skip events. They can still remove files, so that events come again;
//! `--require-checkpoint` tells. And they can try to win a race: the directories on the way are
//! looked at first and used afterwards.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// The mode of a file for its owner only.
pub const PRIVATE: u32 = 0o600;

/// Opens a file by the rule above with this access, making it if `create` says so and there is none.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is none, and what else can go wrong; the error's text says which
/// part of the rule is broken.
pub fn open(path: &Path, access: &OpenOptions, create: bool) -> io::Result<File> {
    refuse_planted_links(path)?;
    if create {
        match access.clone().mode(PRIVATE).create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => return made,
        }
    }
    if fs::symlink_metadata(path)?.is_symlink() {
        return Err(broken("it is a symbolic link; name the file itself"));
    }
    let file = access.open(path)?;
    refuse_planted_file(path, &file.metadata()?)?;
    Ok(file)
}

/// Makes a file with this mode, less the umask, and with these bytes, which are on disk then. What
/// lies there is removed, not opened.
///
/// # Errors
/// If that is not possible; half a file may be left.
pub fn make_anew(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .mode(mode)
        .create_new(true)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Puts a file with this mode and these bytes in the place of another, whole or not at all, by way
/// of a temporary file beside it.
///
/// # Errors
/// If that is not possible. The file is what it was before, and there is no temporary one.
pub fn replace(path: &Path, temporary: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let replaced = make_anew(temporary, mode, bytes).and_then(|_| fs::rename(temporary, path));
    if replaced.is_err() {
        let _ = fs::remove_file(temporary);
    }
    replaced
}

/// Makes a file's name durable, be it new or renamed.
///
/// # Errors
/// If its directory cannot be synced.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(directory(path))?.sync_all() {
        // Some network file systems cannot sync a directory, and need not.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// What may help where a file cannot be opened or made, to stand before `name another …`: for other
/// errors than these two, that is all there is.
#[must_use]
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "create the directory, or ",
        ErrorKind::PermissionDenied => "let this user read and write there, or ",
        _ => "",
    }
}

/// The directory that a file lies in.
#[must_use]
pub fn directory(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// `path` with something behind its last part.
#[must_use]
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Says, for `--check`, whether a file that holds a secret is open to others; `None` if it is not,
/// or cannot be looked at.
#[must_use]
pub fn exposure(path: &Path) -> Option<String> {
    let place = fs::canonicalize(path).ok()?;
    let mode = fs::metadata(&place).ok()?.mode();
    exposed(&place, mode).map(|fault| format!("{} {fault}", path.display()))
}

/// The same by its place, without links, and its mode. What a container is given as a secret can
/// usually be read by every user in it, which is one: below `/run/secrets`
/// (<https://docs.docker.com/engine/swarm/secrets/>), or where the kubelet keeps versions of a
/// volume, in directories whose names begin with two dots.
fn exposed(place: &Path, mode: u32) -> Option<&'static str> {
    let is_version = |part: Component| match part {
        Component::Normal(name) => name.to_string_lossy().starts_with(".."),
        _ => false,
    };
    let is_mounted = place.starts_with("/run/secrets") || place.components().any(is_version);
    if mode & 0o022 != 0 {
        Some("can be written by others than its owner: chmod go-w")
    } else if mode & 0o004 != 0 && !is_mounted {
        Some("can be read by every user of this machine: chmod o-r")
    } else {
        None
    }
}

fn broken(rule: &str) -> io::Error {
    io::Error::other(rule.to_owned())
}

/// Follows the path as the system would, up to the directory of its last part.
fn refuse_planted_links(path: &Path) -> io::Result<()> {
    // More links than the system follows.
    const TOO_MANY: usize = 40;
    let parts = |path: &Path| -> Vec<OsString> {
        let parts = path.components().rev();
        parts.map(|part| part.as_os_str().to_owned()).collect()
    };
    let mut at = PathBuf::from(".");
    let mut ahead = parts(path.parent().unwrap_or(Path::new("")));
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        // `/` replaces what was before it.
        let next = at.join(part);
        let there = fs::symlink_metadata(&next)?;
        if !there.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > TOO_MANY {
            return Err(broken("there are too many symbolic links on the way"));
        }
        if there.uid() != 0 && there.uid() != fs::metadata(&at)?.uid() {
            return Err(broken(&format!(
                "{} is a symbolic link of a user (uid {}) to whom its directory does not belong, and is not followed; name the place itself",
                next.display(),
                there.uid()
            )));
        }
        ahead.extend(parts(&fs::read_link(&next)?));
    }
    Ok(())
}

/// Refuses what was opened if something else lies there now, and a file of somebody who has no
/// business there.
fn refuse_planted_file(path: &Path, opened: &fs::Metadata) -> io::Result<()> {
    let seen = fs::symlink_metadata(path)?;
    if (seen.dev(), seen.ino()) != (opened.dev(), opened.ino()) {
        return Err(broken("it was replaced while it was opened"));
    }
    let owner = opened.uid();
    if !opened.is_file() || owner == 0 || owner == fs::metadata(directory(path))?.uid() {
        return Ok(());
    }
    // Who we are there may be another than who we are here: network file systems map users.
    let probe = with_suffix(path, &format!(".{}.probe", std::process::id()));
    let own = make_anew(&probe, PRIVATE, &[])?.metadata()?.uid();
    fs::remove_file(&probe)?;
    if owner == own {
        return Ok(());
    }
    Err(broken(&format!(
        "it belongs to another user (uid {owner}), who may have planted it; remove it, or have it belong to the user who runs this"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

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
