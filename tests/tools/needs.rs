//! The programs that tests need, and why one cannot be used.

#![allow(dead_code, reason = "not every system has a test for each need")]

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Need;

/// The program that this need finds. A test is started only if its needs are met.
#[track_caller]
pub fn found(need: Need) -> PathBuf {
    need().expect("`main` lists the test with this need")
}

/// Tenzir (`pip install tenzir`): at `TFC_AUDIT_TEST_TENZIR`, else in the `PATH`.
pub fn tenzir() -> Result<PathBuf, String> {
    env::var_os("TFC_AUDIT_TEST_TENZIR").map_or_else(|| program("tenzir"), |path| Ok(path.into()))
}

/// The binary in `noida_db` (`pip install noida-db`), not the script that starts it and that would leave
/// it running: at `TFC_AUDIT_TEST_NOIDA`, else in the `PATH`.
pub fn noida() -> Result<PathBuf, String> {
    let at = env::var_os("TFC_AUDIT_TEST_NOIDA");
    at.map_or_else(|| program("noida-db"), |path| Ok(path.into()))
}

/// The binary in `osmem_server` (`pip install osmem-server`): at `TFC_AUDIT_TEST_OSMEM`, else in the
/// `PATH`.
pub fn osmem() -> Result<PathBuf, String> {
    let at = env::var_os("TFC_AUDIT_TEST_OSMEM");
    at.map_or_else(|| program("osmem-server"), |path| Ok(path.into()))
}

/// rsyslog.
pub fn rsyslog() -> Result<PathBuf, String> {
    program("rsyslogd")
}

/// Python with `opentelemetry-proto` (`pip install opentelemetry-proto`): at
/// `TFC_AUDIT_TEST_PYTHON`, else in the `PATH`.
pub fn opentelemetry() -> Result<PathBuf, String> {
    let named = env::var_os("TFC_AUDIT_TEST_PYTHON");
    let python = named.map_or_else(|| program("python3"), |path| Ok(path.into()))?;
    let import = "import opentelemetry.proto.collector.logs.v1.logs_service_pb2";
    works(&python, &["-c", import])
        .map_err(|_| "opentelemetry-proto is not installed".to_owned())?;
    Ok(python)
}

/// nginx.
pub fn nginx() -> Result<PathBuf, String> {
    program("nginx")
}

/// tinyproxy.
pub fn tinyproxy() -> Result<PathBuf, String> {
    program("tinyproxy")
}

/// `strace`, where it may trace: some containers do not allow it.
pub fn strace() -> Result<PathBuf, String> {
    let strace = program("strace")?;
    works(&strace, &["-o", "/dev/null", "true"])?;
    Ok(strace)
}

/// `setpriv` (util-linux), where this user may give files to others.
pub fn root() -> Result<PathBuf, String> {
    let setpriv = program("setpriv")?;
    works(
        &setpriv,
        &["--reuid=12345", "--regid=12345", "--clear-groups", "true"],
    )?;
    Ok(setpriv)
}

/// `unshare` (util-linux), where it may mount a disk: some containers do not allow it.
pub fn mount() -> Result<PathBuf, String> {
    let unshare = program("unshare")?;
    let mount = [
        "--mount",
        "--map-root-user",
        "mount",
        "-t",
        "tmpfs",
        "none",
        "/mnt",
    ];
    works(&unshare, &mount)?;
    Ok(unshare)
}

/// `unshare` (util-linux), where it may start a process 1: some containers do not allow it.
pub fn process_1() -> Result<PathBuf, String> {
    let unshare = program("unshare")?;
    works(&unshare, &["--pid", "--fork", "--map-root-user", "true"])?;
    Ok(unshare)
}

fn program(name: &str) -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not installed"))
}

/// Tries a command that does nothing.
fn works(program: &Path, args: &[&str]) -> Result<(), String> {
    let name = program
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| format!("{name} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name} is not allowed here: {}", said.trim()))
}
