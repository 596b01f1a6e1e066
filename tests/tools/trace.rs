//! The built command under `strace`, which shows its system calls and kills it or fails it at any of
//! them.

// Other systems have calls of other names.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::needs;
use crate::support::Bench;

/// Why `strace` is there: `main` lists each test that traces with this need.
pub const TRACED: &str = "strace was tried before the test began";

/// `strace`, and a directory for its output. It is not the bench's, since a traced request shows the
/// token.
pub struct Strace {
    program: PathBuf,
    dir: TempDir,
}

impl Strace {
    /// Finds `strace`; `None` where the test should not have been started.
    pub fn find() -> Option<Self> {
        let program = needs::strace().ok()?;
        let dir = TempDir::new().expect("a temporary directory");
        Some(Self { program, dir })
    }

    fn trace(&self) -> PathBuf {
        self.dir.path().join("trace")
    }

    /// Wraps a command in `strace` with these options. Only its main thread is traced, so that no
    /// child is killed or failed.
    pub fn wrap(&self, bench: &Bench, command: &Command, options: &[&str]) -> Command {
        let strace = self.program.to_str().expect("its path is UTF-8");
        let mut wrapped = bench.clean(strace);
        wrapped.args(["-qq", "-yy", "-s", "1000000", "-o"]);
        wrapped.arg(self.trace()).args(options).arg("--");
        wrapped.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            wrapped.env(name, value.unwrap_or(OsStr::new("")));
        }
        wrapped
    }

    /// Returns the calls of the latest run, in their order.
    pub fn calls(&self) -> Vec<Call> {
        let trace = fs::read(self.trace()).expect("there is a trace");
        let trace = String::from_utf8_lossy(&trace);
        trace.lines().filter_map(Call::read).collect()
    }
}

/// One system call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Such as `openat`.
    pub name: String,
    /// The whole line, with the paths of open files: `fsync(5</state/checkpoint.json.tmp>) = 0`.
    pub line: String,
}

impl Call {
    fn read(line: &str) -> Option<Self> {
        let (name, _) = line.split_once('(')?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        name.bytes().all(is_name).then(|| Self {
            name: name.to_owned(),
            line: line.to_owned(),
        })
    }

    /// Returns whether the call was carried out without an error.
    pub fn succeeded(&self) -> bool {
        let result = self.line.rsplit_once(" = ").map(|(_, result)| result);
        result.is_some_and(|result| !result.starts_with(['-', '?']))
    }

    /// Returns whether its first argument is an open file with this path.
    pub fn is_on(&self, path: &Path) -> bool {
        self.opened() == path.to_str()
    }

    /// Returns the path of the open file, or the ends of the connection, of its first argument.
    pub fn opened(&self) -> Option<&str> {
        let argument = self.line.strip_prefix(&self.name)?.strip_prefix('(')?;
        let (number, rest) = argument.split_once('<')?;
        let is_open = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let end = rest.find(">)").or_else(|| rest.find(">,"))?;
        is_open.then_some(&rest[..end])
    }

    /// Returns the path of the open file of its first argument, or else the first path in its
    /// arguments.
    pub fn path(&self) -> Option<&str> {
        let named = || self.line.split('"').nth(1);
        self.opened().or_else(named)
    }

    /// Returns the text that it wrote.
    pub fn text(&self) -> String {
        let (_, rest) = self.line.split_once(", \"").unwrap_or_default();
        let (text, _) = rest.rsplit_once("\", ").unwrap_or_default();
        text.replace("\\n", "\n")
            .replace("\\\"", "\"")
            .replace("\\\\", "\\")
    }
}
