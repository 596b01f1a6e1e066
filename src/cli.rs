//! The command line: every option with its range and its help text, which names the default.
//! The tests compare these texts with `help.txt`.
//!
//! Only single values are judged here; [`crate::config`] decides what they mean together. Headers,
//! addresses and commands stay plain text until then, since they may hold secrets and a message
//! about a wrong value shows it.

#![allow(rustdoc::bare_urls, reason = "the help texts are not Markdown")]

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use ::time::UtcDateTime;
use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, FromArgs};
use strsim::levenshtein;

use crate::format::{FORMATS, Format, Label};
use crate::help;
use crate::time;

/// The service's address.
const ENDPOINT: &str = "https://app.terraform.io";
/// Seconds of a day, the longest that some spans may be.
const DAY: u64 = 24 * 60 * 60;
/// For spans without an upper limit, in seconds.
const NO_LIMIT: u64 = u64::MAX;
/// The text of `--version`.
const VERSION: &str = concat!("tfc-audit ", env!("CARGO_PKG_VERSION"), "\n");
/// The manual page, so that it is there wherever the program is.
const MANUAL: &str = include_str!("../man/tfc-audit.1");

/// Ship HCP Terraform's audit trail: every new event once, oldest first.
///
/// Events go to standard output as NDJSON. A checkpoint file remembers which events were delivered,
/// so that each run continues where the last one ended.
#[derive(ArgsInfo, FromArgs)]
#[expect(clippy::doc_markdown, reason = "the help texts are not Markdown")]
pub struct Args {
    /// the service's address (https://app.terraform.io)
    #[argh(option, arg_name = "url", default = "ENDPOINT.to_owned()")]
    pub endpoint: String,

    /// read the organization's token from this file, - for standard input ($TFC_ORG_TOKEN)
    #[argh(option, arg_name = "file", from_str_fn(file))]
    pub token_file: Option<PathBuf>,

    /// events per page, 1 to 1000 (1000)
    #[argh(option, arg_name = "n", default = "1000", from_str_fn(number::<_, 1, 1000>))]
    pub page_size: u64,

    /// how many pages of a backlog to request at once, 1 to 16 (8)
    #[argh(option, arg_name = "n", default = "8", from_str_fn(number::<_, 1, 16>))]
    pub connections: u64,

    /// the checkpoint file ($STATE_DIRECTORY/checkpoint.json, else
    /// $XDG_STATE_HOME/tfc-audit/checkpoint.json, else ~/.local/state/tfc-audit/checkpoint.json)
    #[argh(option, short = 'c', arg_name = "file", from_str_fn(file))]
    pub checkpoint: Option<PathBuf>,

    /// neither read nor write a checkpoint, and take no lock: to look at events or send them again
    #[argh(switch)]
    pub no_checkpoint: bool,

    /// fail with exit code 8 if there is no checkpoint
    #[argh(switch)]
    pub require_checkpoint: bool,

    /// where a first run starts: an RFC 3339 time, a date, or a span back from now (everything
    /// retained)
    #[argh(option, arg_name = "when")]
    pub since: Option<When>,

    /// with --no-checkpoint: only events before this time
    #[argh(option, arg_name = "when")]
    pub until: Option<When>,

    /// how far each run looks back for events that appear late (10m; 1s to 24h)
    #[argh(option, arg_name = "span", from_str_fn(span::<1, DAY>))]
    pub overlap: Option<Duration>,

    /// how long to wait for another run to end (0s)
    #[argh(option, arg_name = "span", from_str_fn(span::<0, NO_LIMIT>))]
    pub lock_wait: Option<Duration>,

    /// deliver by HTTP POST to this address instead of to standard output
    #[argh(option, arg_name = "url")]
    pub post: Option<String>,

    /// for --post: ndjson, json-array, json, splunk-hec, elasticsearch, loki or otlp (ndjson)
    #[argh(option, arg_name = "format", from_str_fn(format))]
    pub format: Option<Format>,

    /// for --post: add 'NAME: VALUE' to each request; @FILE reads them from a file, one a line;
    /// may be repeated
    #[argh(option, arg_name = "header")]
    pub header: Vec<String>,

    /// for --post: compress bodies
    #[argh(switch)]
    pub gzip: bool,

    /// a label of the loki stream, metadata or a field for splunk-hec, or an attribute of the otlp
    /// resource; may be repeated
    #[argh(option, arg_name = "key=value", from_str_fn(label))]
    pub label: Vec<Label>,

    /// for --post: show this certificate (PEM) to a receiver that asks for one
    #[argh(option, arg_name = "file", from_str_fn(file))]
    pub client_cert: Option<PathBuf>,

    /// for --post: its private key (PEM, not encrypted)
    #[argh(option, arg_name = "file", from_str_fn(file))]
    pub client_key: Option<PathBuf>,

    /// let --header values go over plain http to a receiver that is not on this machine
    #[argh(switch)]
    pub allow_plain_http: bool,

    /// deliver each batch to the standard input of sh -c COMMAND; exit 0 acknowledges it
    #[argh(option, arg_name = "command")]
    pub exec: Option<String>,

    /// the most events in a batch (1000)
    #[argh(option, arg_name = "n", from_str_fn(number::<_, 1, { 1 << 30 }>))]
    pub batch_events: Option<usize>,

    /// the most bytes in a batch, before compression (1048576)
    #[argh(option, arg_name = "n", from_str_fn(number::<_, 1, { 1 << 30 }>))]
    pub batch_bytes: Option<usize>,

    /// put events that the receiver refuses for good, or that cannot be read, into this file, and go on
    #[argh(option, arg_name = "file", from_str_fn(file))]
    pub dead_letter: Option<PathBuf>,

    /// write fields whose type varies between events with one type (implied by elasticsearch)
    #[argh(switch)]
    pub normalize: bool,

    /// try everything that a run with these options needs, report each, and deliver nothing
    #[argh(switch)]
    pub check: bool,

    /// print what would be delivered, in its format, and leave the checkpoint alone
    #[argh(switch)]
    pub dry_run: bool,

    /// stop cleanly before this much time has passed (no limit)
    #[argh(option, arg_name = "span", from_str_fn(span::<1, NO_LIMIT>))]
    pub max_time: Option<Duration>,

    /// the longest that one HTTP request may take (30s; 1s to 24h)
    #[argh(option, arg_name = "span", default = "Duration::from_secs(30)", from_str_fn(span::<1, DAY>))]
    pub timeout: Duration,

    /// how often to retry a request after a temporary failure, 0 to 1000 (5)
    #[argh(option, arg_name = "n", default = "5", from_str_fn(number::<_, 0, 1000>))]
    pub retries: u32,

    /// write the run's figures to this file for Prometheus, whatever the outcome
    #[argh(option, arg_name = "file", from_str_fn(file))]
    pub metrics: Option<PathBuf>,

    /// say on standard error what was done
    #[argh(switch, short = 'v')]
    pub verbose: bool,

    /// print the version
    #[argh(switch, short = 'V')]
    pub version: bool,

    /// print the manual page: tfc-audit --man | man -l -
    #[argh(switch)]
    pub man: bool,
}

/// The two things that a command line can ask for.
pub enum Command {
    /// A run, or its rehearsal with `--check`.
    Run(Box<Args>),
    /// Only this text on standard output: the help, the manual page or the version.
    Print(&'static str),
}

/// Reads a command line, without the program's name.
///
/// # Errors
/// One line that names the wrong option, shows the value and says which values are possible.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let parsed = spell_out(arguments).and_then(|words| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match Args::from_args(&["tfc-audit"], &words) {
            Ok(args) if args.version => Ok(Command::Print(VERSION)),
            Ok(args) if args.man => Ok(Command::Print(MANUAL)),
            Ok(args) => Ok(Command::Run(Box::new(args))),
            Err(exit) if exit.status.is_ok() => Ok(Command::Print(help::TEXT)),
            Err(exit) => Err(fault(exit.output.trim_end(), &words)),
        }
    });
    parsed.map_err(|fault| format!("{fault} (see tfc-audit --help)"))
}

/// Checks that each word is an option or an option's value, and writes all options in the way that
/// argh knows: by their long names, with the value as the next word.
///
/// # Errors
/// If a word is neither, if a switch has a value, or if an option follows where a value has to be. A
/// script's unset variable leaves such a gap, and `-c --dry-run` must not become a run that delivers.
fn spell_out(arguments: impl IntoIterator<Item = String>) -> Result<Vec<String>, String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = None;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (&*argument, None),
        };
        let flag = option(name).ok_or_else(|| unknown(name, before))?;
        before = Some(flag.long);
        words.push(flag.long.to_owned());
        words.push(match (flag.kind == FlagInfoKind::Switch, value) {
            (true, None) => continue,
            (true, Some(_)) => return Err(format!("{name} takes no value")),
            (false, Some(value)) => value,
            (false, None) => {
                let next = arguments.next();
                let next = next.ok_or_else(|| format!("{name} needs a value"))?;
                if next.starts_with("--") || option(&next).is_some() {
                    return Err(format!(
                        "{name} needs a value, and an option follows (a value that begins with -- is written --NAME=VALUE)"
                    ));
                }
                next
            }
        });
    }
    Ok(words)
}

/// The options as argh knows them.
static INFO: LazyLock<CommandInfoWithArgs> = LazyLock::new(Args::get_args_info);

/// The option that a word names, if it names one. `-vv` is `-v`.
fn option(word: &str) -> Option<&'static FlagInfo<'static>> {
    let letters = word.strip_prefix('-')?;
    let is_verbose = letters.starts_with('v') && letters.bytes().all(|letter| letter == b'v');
    INFO.flags.iter().find(|flag| match flag.long {
        "--verbose" if is_verbose => true,
        "--help" if word == "-h" => true,
        long => word == long || flag.short.is_some_and(|short| letters == short.to_string()),
    })
}

/// Rewrites argh's error about a value. Whatever else can be wrong was found before.
fn fault(output: &str, words: &[&str]) -> String {
    let of_value = words.windows(2).find_map(|pair| {
        let (option, value) = (pair[0], pair[1]);
        let before = format!("Error parsing option '{option}' with value '{value}': ");
        match output.strip_prefix(&before)? {
            "duplicate values provided" => Some(format!("{option} is given more than once")),
            fault => Some(format!("{option}: {fault}")),
        }
    });
    of_value.unwrap_or_else(|| output.to_owned())
}

/// The message for an argument that is neither an option nor the value of the option `before` it. It
/// does not repeat what may be secret, such as half of a header that was not quoted.
fn unknown(argument: &str, before: Option<&str>) -> String {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '-' || argument.len() == 2;
    if argument.starts_with('-') && argument.chars().all(is_name) {
        return match nearest(argument) {
            Some(known) => format!("unknown option {argument}: did you mean {known}?"),
            None => format!("unknown option {argument}"),
        };
    }
    match before {
        Some(option) => {
            format!("unexpected argument after {option}: quote values that contain spaces")
        }
        None => "unexpected first argument: options begin with --".to_owned(),
    }
}

/// The known option that was probably meant: the word is its beginning, or differs in two letters.
fn nearest(word: &str) -> Option<&'static str> {
    let names = || INFO.flags.iter().map(|flag| flag.long);
    let begun = names().filter(|name| word.len() > 3 && name.starts_with(word));
    let similar = names().min_by_key(|name| levenshtein(word, name));
    let shortest = begun.min_by_key(|name| name.len());
    shortest.or(similar.filter(|name| levenshtein(word, name) <= 2))
}

/// A time of `--since` or `--until`.
#[derive(Clone, Copy)]
pub enum When {
    /// This time, in UTC.
    At(UtcDateTime),
    /// This long before the run.
    Ago(Duration),
}

impl When {
    /// Returns the time itself, for a run that begins at `now`.
    pub fn resolve(self, now: UtcDateTime) -> UtcDateTime {
        match self {
            Self::At(time) => time,
            Self::Ago(span) => time::before(now, span),
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = time::parse(text).or_else(|| time::parse(&format!("{text}T00:00:00Z")));
        let span = || time::parse_span(text).ok().map(Self::Ago);
        time.map(Self::At).or_else(span).ok_or_else(|| format!("{text:?} is neither a time such as 2026-01-02T03:04:05Z, nor a date, nor a span such as 90s, 10m, 36h or 7d"))
    }
}

/// Reads a number within these limits.
fn number<T: TryFrom<u64>, const LEAST: u64, const MOST: u64>(text: &str) -> Result<T, String> {
    text.parse()
        .ok()
        .filter(|number| (LEAST..=MOST).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("{text:?} is not a number from {LEAST} to {MOST}"))
}

/// Reads a span within these limits, in seconds.
fn span<const LEAST: u64, const MOST: u64>(text: &str) -> Result<Duration, String> {
    let span = time::parse_span(text)?;
    if (LEAST..=MOST).contains(&span.as_secs()) {
        return Ok(span);
    }
    let most = match MOST {
        NO_LIMIT => String::new(),
        seconds => format!(" and at most {}h", seconds / 3600),
    };
    Err(format!("{text:?} is out of range: at least {LEAST}s{most}"))
}

/// Reads the name of a file.
///
/// # Errors
/// If it is empty, as a script's unset variable is, or a directory's.
pub fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.ends_with('/') {
        return Err(format!("{text:?} is not the name of a file"));
    }
    Ok(text.into())
}

fn format(text: &str) -> Result<Format, String> {
    let known = FORMATS.iter().find(|known| known.0 == text);
    known.map(|known| known.1).ok_or_else(|| {
        let names = FORMATS.map(|known| known.0).join(", ");
        format!("{text:?} is not one of {names}")
    })
}

fn label(text: &str) -> Result<Label, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not of the form KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &[&str]) -> Result<Command, String> {
        parse(line.iter().map(ToString::to_string))
    }

    fn run(line: &[&str]) -> Args {
        match args(line).unwrap() {
            Command::Run(args) => *args,
            Command::Print(text) => panic!("{text}"),
        }
    }

    fn message(line: &[&str]) -> String {
        args(line).err().expect("an error")
    }

    #[test]
    fn a_value_follows_an_equals_sign_or_is_the_next_word() {
        for line in [
            &["--page-size", "5", "--token-file", "-"][..],
            &["--page-size=5", "--token-file=-"],
        ] {
            let args = run(line);
            assert_eq!(args.page_size, 5);
            assert_eq!(args.token_file, Some("-".into()));
        }
        for line in [&["-c", "a=b"][..], &["--checkpoint=a=b"]] {
            assert_eq!(run(line).checkpoint, Some("a=b".into()));
        }
    }

    #[test]
    fn a_value_that_looks_like_an_option_is_taken_only_after_an_equals_sign() {
        assert_eq!(
            run(&["--checkpoint=--x=y"]).checkpoint,
            Some("--x=y".into())
        );
        assert_eq!(run(&["-c", "./--x"]).checkpoint, Some("./--x".into()));
        for line in [
            &["-c", "--dry-run"][..],
            &["--metrics", "--check"],
            &["--dead-letter", "--dry-run"],
            &["-c", "--x"],
            &["--header", "--gzip=yes"],
            &["-c", "-v"],
        ] {
            let message = message(line);
            let expected = format!("{} needs a value, and an option follows", line[0]);
            assert!(message.starts_with(&expected), "{message}");
        }
    }

    #[test]
    fn repeated_and_short_switches_are_understood() {
        for line in ["-v", "-vv", "-vvv"] {
            assert!(run(&[line]).verbose, "{line}");
        }
        assert!(
            matches!(args(&["-V"]), Ok(Command::Print(text)) if text.starts_with("tfc-audit "))
        );
    }

    #[test]
    fn a_message_names_the_argument_and_what_was_probably_meant() {
        for (line, expected) in [
            (
                &["--sicne", "1h"][..],
                "unknown option --sicne: did you mean --since?",
            ),
            (
                &["--token", "hunter2"],
                "unknown option --token: did you mean --token-file?",
            ),
            (
                &["--token=hunter2"],
                "unknown option --token: did you mean --token-file?",
            ),
            (&["--chec"], "unknown option --chec: did you mean --check?"),
            (&["--qwertyuiop"], "unknown option --qwertyuiop"),
            (&["-C", "a"], "unknown option -C"),
            (&["--verbose=true"], "--verbose takes no value"),
            (
                &["help"],
                "unexpected first argument: options begin with --",
            ),
            (
                &["--check", "--post", "http://a", "hunter2"],
                "unexpected argument after --post: quote values that contain spaces",
            ),
            (&["-c"], "-c needs a value"),
            (
                &["-c", "a", "-c", "b"],
                "--checkpoint is given more than once",
            ),
        ] {
            assert_eq!(message(line), format!("{expected} (see tfc-audit --help)"));
        }
    }

    #[test]
    fn a_switch_takes_no_value() {
        for flag in Args::get_args_info().flags {
            let switch = flag.long;
            // Nothing may follow the help.
            if flag.kind != FlagInfoKind::Switch || switch == "--help" {
                continue;
            }
            assert!(args(&[switch, "--page-size=5"]).is_ok(), "{switch}");
            assert!(args(&[&format!("{switch}=yes")]).is_err(), "{switch}");
        }
    }

    #[test]
    fn a_wrong_value_is_shown_with_its_option_and_the_range() {
        for (line, expected) in [
            (
                &["--page-size", "0"][..],
                r#"--page-size: "0" is not a number from 1 to 1000"#,
            ),
            (
                &["--overlap=25h"],
                r#"--overlap: "25h" is out of range: at least 1s and at most 24h"#,
            ),
            (
                &["--max-time=0s"],
                r#"--max-time: "0s" is out of range: at least 1s"#,
            ),
            (
                &["-c", "it's': \n/"],
                r#"--checkpoint: "it's': \n/" is not the name of a file"#,
            ),
            (
                &["--format=csv"],
                r#"--format: "csv" is not one of ndjson, json-array, json, splunk-hec, elasticsearch, loki, otlp"#,
            ),
        ] {
            let expected = format!("{expected} (see tfc-audit --help)");
            assert_eq!(message(line), expected);
        }
    }

    #[test]
    fn a_value_out_of_range_or_of_another_form_is_refused() {
        for line in [
            "--checkpoint=",
            "--checkpoint=dir/",
            "--since=yesterday",
            "--overlap=0s",
            "--overlap=1",
            "--page-size=1001",
            "--page-size=-1",
            "--retries=x",
            "--timeout=0s",
            "--batch-events=0",
            "--batch-bytes=1073741825",
            "--label=a",
            "--label==b",
        ] {
            let message = message(&[line]);
            let (option, _) = line.split_once('=').unwrap();
            assert!(message.starts_with(&format!("{option}: \"")), "{message}");
        }
    }

    #[test]
    fn an_error_is_one_line_without_secrets() {
        for line in [
            &["--page-sise", "5"][..],
            &["--page-size"],
            &["--page-size=1", "--page-size=2"],
            &[
                "--post=https://a/?key=hunter2",
                "--post=https://a/?key=hunter2",
            ],
            &["--header", "Authorization:", "hunter2"],
            &["-HAuthorization: hunter2"],
            &["--header Authorization: hunter2"],
        ] {
            let message = message(line);
            assert!(
                !message.contains('\n') && !message.contains("hunter2"),
                "{message}"
            );
            assert!(message.ends_with("(see tfc-audit --help)"), "{message}");
        }
    }

    #[test]
    fn help_manual_and_version_only_print() {
        for line in [&["--help"][..], &["-h"], &["-v", "--help"]] {
            assert!(
                matches!(args(line), Ok(Command::Print(text)) if text.contains("--require-checkpoint"))
            );
        }
        for (option, start) in [("--version", "tfc-audit 0."), ("--man", ".Dd ")] {
            assert!(matches!(args(&[option]), Ok(Command::Print(text)) if text.starts_with(start)));
        }
    }
}
