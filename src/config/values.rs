//! The values of a configuration that are more than a number or a path.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use ureq::http::{HeaderName, HeaderValue};

use crate::cli;
use crate::fs;
use crate::secret::Secret;

/// The environment: returns the value of the variable with this name, if it is set.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The place that the token is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The environment; this is the token.
    Environment(Secret),
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// The longest token or value of a header, in bytes. All headers of a request have to fit into the
/// buffer of a connection.
const LONGEST_VALUE: usize = 8 * 1024;

/// Reads a token, without the white space around it.
///
/// # Errors
/// The fault and what to remove, as the rest of a sentence without the token.
pub fn parse_token(text: &str) -> Result<Secret, &'static str> {
    let token = text.trim();
    if token.is_empty() {
        Err("is empty")
    } else if token.starts_with("TFC_ORG_TOKEN=") || token.starts_with("export ") {
        Err("is a line of shell: keep only what follows TFC_ORG_TOKEN=")
    } else if token.starts_with(['"', '\'']) || token.ends_with(['"', '\'']) {
        Err("is in quotes: remove them")
    } else if token.starts_with("Bearer ") {
        Err("begins with Bearer: keep only the token behind it")
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err("holds a character that no token has: a space, a line break or one that is not ASCII")
    } else if token.len() > LONGEST_VALUE {
        Err("is longer than 8 KiB, as no token is")
    } else {
        Ok(Secret::new(token.to_owned()))
    }
}

/// The place of the checkpoint, and the rules for a run that finds none there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointPlace {
    /// The file.
    pub path: PathBuf,
    /// Missing directories above it are created: for a default place, never for a named one.
    pub create_parents: bool,
    /// A missing checkpoint is an error.
    pub required: bool,
    /// How long to wait for another run to end.
    pub lock_wait: Duration,
}

impl CheckpointPlace {
    /// The lock. It is a file of its own, which is never renamed or deleted: a lock on the checkpoint,
    /// which each commit replaces, could have two owners.
    pub fn lock(&self) -> PathBuf {
        fs::with_suffix(&self.path, ".lock")
    }

    /// The file that a commit writes and then renames.
    pub fn temporary(&self) -> PathBuf {
        fs::with_suffix(&self.path, ".tmp")
    }
}

/// A header of every POST, or a file with such headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// Its name and value.
    Given(String, Secret),
    /// A file with headers, one a line.
    File(PathBuf),
}

impl Header {
    /// Reads a value of `--header`: `NAME: VALUE` or `@FILE`.
    ///
    /// # Errors
    /// The reason, without the header.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix('@') {
            return cli::file(name).map(Self::File);
        }
        let (name, value) = parse_header(text).map_err(|fault| format!("one {fault}"))?;
        Ok(Self::Given(name, value))
    }
}

/// Reads the text of a file with headers, one a line. Blank lines and lines that begin with `#` are
/// skipped.
///
/// # Errors
/// The reason, without the header; a file without any header is one.
pub fn parse_headers(text: &str) -> Result<Vec<(String, Secret)>, String> {
    let lines = text.lines().map(str::trim);
    let headers: Vec<_> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| parse_header(line).map_err(|fault| format!("a line {fault}")))
        .collect::<Result<_, _>>()?;
    if headers.is_empty() {
        return Err("holds no header".to_owned());
    }
    Ok(headers)
}

/// Headers that the program itself sets.
const OWN_HEADERS: [HeaderName; 4] = [CONTENT_LENGTH, CONTENT_ENCODING, TRANSFER_ENCODING, HOST];

/// The first words of an `Authorization` header, in lower case: alone they prove nothing. Splunk has
/// its own, the others are registered
/// (<https://www.iana.org/assignments/http-authschemes/http-authschemes.xhtml>) or common.
const SCHEMES: [&str; 6] = ["apikey", "basic", "bearer", "digest", "splunk", "token"];

/// Reads `NAME: VALUE` and returns both.
///
/// # Errors
/// The reason, without the header.
pub fn parse_header(text: &str) -> Result<(String, Secret), &'static str> {
    let split = text.split_once(':');
    let (given, value) = split.ok_or("is not of the form 'NAME: VALUE'")?;
    let name = HeaderName::try_from(given).map_err(|_| "has a name that is not allowed in HTTP")?;
    let value = value.trim();
    let is_credential = name.as_str().ends_with("authorization");
    if OWN_HEADERS.contains(&name) {
        Err("is set by the program itself")
    } else if value.is_empty() {
        Err("has no value")
    } else if value.len() > LONGEST_VALUE {
        Err("has a value longer than 8 KiB")
    } else if is_credential && SCHEMES.contains(&value.to_ascii_lowercase().as_str()) {
        Err("has no credential behind the word that names its kind")
    } else if HeaderValue::try_from(value).is_err() {
        Err("has a value with a character that is not allowed in HTTP")
    } else {
        Ok((given.to_owned(), Secret::new(value.to_owned())))
    }
}

/// The files of a client certificate, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate, followed by those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key, not encrypted.
    pub key: PathBuf,
}
