//! How a run went, and what a test expects of it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{MADE_FOR_SECRETS, SECRETS};
use crate::stand_in::{Asked, Event, ids};

/// How a run went.
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    /// What it asked of the API (and what runs beside it did).
    pub asked: Vec<Asked>,
    pub took: Duration,
    pub(super) line: String,
    pub(super) cwd: PathBuf,
    pub(super) code: Option<i32>,
    pub(super) how: String,
    pub(super) peak: Option<u64>,
}

impl Outcome {
    /// Fails with everything there is to know unless `expectation` is met.
    #[track_caller]
    pub fn holds(&self, met: bool, expectation: impl fmt::Display) -> &Self {
        assert!(met, "{expectation}\n{self}");
        self
    }

    /// It ended with this exit code.
    #[track_caller]
    pub fn code(&self, code: i32) -> &Self {
        self.holds(
            self.code == Some(code),
            format_args!("the exit code should be {code}"),
        )
    }

    /// Whether a signal ended it.
    pub fn was_killed(&self) -> bool {
        self.code.is_none()
    }

    /// It said nothing.
    #[track_caller]
    pub fn silent(&self) -> &Self {
        self.holds(self.stderr.is_empty(), "stderr should be empty")
    }

    /// It said one line, with this in it.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        let is_line = self.stderr.starts_with("tfc-audit: ")
            && self.stderr.ends_with('\n')
            && self.stderr.lines().count() == 1
            && !self.stderr.trim_end().contains(char::is_control);
        self.holds(
            is_line && self.stderr.contains(text),
            format_args!("stderr should be one line with {text:?}"),
        )
    }

    /// It said one warning, with this in it.
    #[track_caller]
    pub fn warns(&self, text: &str) -> &Self {
        self.says("tfc-audit: warning: ").says(text)
    }

    /// It ended with this exit code, printed nothing, and said one line with this in it.
    #[track_caller]
    pub fn fails(&self, code: i32, text: &str) -> &Self {
        self.code(code).says(text).prints_nothing()
    }

    /// It printed nothing.
    #[track_caller]
    pub fn prints_nothing(&self) -> &Self {
        self.prints("")
    }

    /// It printed exactly this.
    #[track_caller]
    pub fn prints(&self, expected: &str) -> &Self {
        if self.stdout != expected {
            let (mut is, mut should) = (self.stdout.lines(), expected.lines());
            let equal = is
                .by_ref()
                .zip(should.by_ref())
                .take_while(|(is, should)| is == should);
            let equal = equal.count();
            let line = |text: &str| text.lines().nth(equal).unwrap_or("(its end)").to_owned();
            let (is, should) = (line(&self.stdout), line(expected));
            panic!("stdout should have, after {equal} lines: {should}\nbut has: {is}\n{self}");
        }
        self
    }

    /// It printed these events.
    #[track_caller]
    pub fn prints_events(&self, expected: &[Event]) -> &Self {
        let text = |event: &Event| event.text.clone() + "\n";
        self.prints(&expected.iter().map(text).collect::<String>())
    }

    /// The ids of the events that it printed, in their order.
    pub fn ids(&self) -> Vec<String> {
        ids(&self.stdout)
    }

    /// It made so many requests.
    #[track_caller]
    pub fn asks(&self, count: usize) -> &Self {
        let made = self.asked.len();
        self.holds(
            made == count,
            format_args!("it should have made {count} requests, not {made}"),
        )
    }

    /// It waited so long between this request and the next; the first is 1.
    #[track_caller]
    pub fn waits_after(&self, request: usize, time: Duration) -> &Self {
        let (before, after) = (self.asked[request - 1].at, self.asked[request].at);
        let waited = after.saturating_sub(before);
        self.holds(
            waited >= time,
            format_args!("it should wait {time:?}, not {waited:?}"),
        )
    }

    /// It never had more than so many MiB of memory (where that can be known).
    #[track_caller]
    pub fn stays_below(&self, mebibytes: u64) -> &Self {
        let peak = self.peak.unwrap_or_default();
        self.holds(
            peak < mebibytes * 1024,
            format_args!("it should take less than {mebibytes} MiB, not {peak} KiB"),
        )
    }

    /// No secret is in anything that it wrote: neither output, nor a file in its directory that was
    /// not made to hold it.
    #[track_caller]
    pub(super) fn keeps_secrets(&self, dir: &Path) {
        let has_none = |text: &str, place: &dyn fmt::Display| {
            let shown = SECRETS.iter().find(|secret| text.contains(**secret));
            self.holds(
                shown.is_none(),
                format_args!("no secret should be in {place}"),
            );
        };
        has_none(&self.stdout, &"stdout");
        has_none(&self.stderr, &"stderr");
        for entry in fs::read_dir(dir).expect("the directory can be read") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_file() && !MADE_FOR_SECRETS.iter().any(|made| name.starts_with(made)) {
                let text = fs::read(&path).unwrap_or_default();
                has_none(&String::from_utf8_lossy(&text), &path.display());
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            cwd,
            how,
            took,
            stdout,
            stderr,
            asked,
            ..
        } = self;
        let rule = "=".repeat(79);
        let (stdout, stderr) = (shortened(stdout), shortened(stderr));
        writeln!(
            f,
            "{rule}\ncommand: {line}\ncwd: {}\n{how} after {took:?}",
            cwd.display()
        )?;
        writeln!(
            f,
            "stdout: {stdout}\nstderr: {stderr}\nasked, {} times:",
            asked.len()
        )?;
        let requests: Vec<_> = asked.iter().map(Request).map(|it| it.to_string()).collect();
        writeln!(f, "{}\n{rule}", shortened(&requests.join("\n")))
    }
}

/// A request on one line.
struct Request<'a>(&'a Asked);

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Asked {
            connection,
            at,
            method,
            path,
            query,
            ..
        } = self.0;
        write!(
            f,
            "{at:>9.3?} (connection {connection}) {method} {path}?{query}"
        )
    }
}

/// A text's first and last lines, with a count of the others.
fn shortened(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    match lines.len() {
        0 => "(nothing)".to_owned(),
        1..=30 => format!("\n{}", lines.join("\n")),
        count => {
            let (first, last) = (lines[..15].join("\n"), lines[count - 15..].join("\n"));
            format!("\n{first}\n[{} lines more]\n{last}", count - 30)
        }
    }
}
