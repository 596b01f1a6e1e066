//! What was typed: the options as they stand on the command line, nothing decided yet.

#![allow(rustdoc::bare_urls, reason = "the help texts are no Markdown")]

use argh::FromArgs;

/// Ship HCP Terraform's audit trail: every new event once, oldest first.
///
/// Events go to standard output as NDJSON. What was delivered is remembered in a checkpoint file,
/// so that each run goes on where the last one ended.
#[derive(FromArgs, Default, Clone)]
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that was typed or not"
)]
#[expect(
    clippy::doc_markdown,
    reason = "these are the help texts, which are no Markdown"
)]
#[argh(help_triggers("-h", "--help"))]
#[argh(
    note = "Spans are written 90s, 10m, 36h or 7d. The token is read from $TFC_ORG_TOKEN or a file, \
               never from an argument. See tfc-audit(1) for exit codes, formats and recipes."
)]
pub struct Args {
    /// where the place reached is kept ($STATE_DIRECTORY/checkpoint.json, else
    /// $XDG_STATE_HOME/tfc-audit/checkpoint.json, else ~/.local/state/tfc-audit/checkpoint.json)
    #[argh(option, short = 'c', arg_name = "file")]
    pub checkpoint: Option<String>,

    /// neither read nor write a checkpoint, and take no lock: for an ad-hoc look or to send again
    #[argh(switch)]
    pub no_checkpoint: bool,

    /// fail with exit code 8 if there is no checkpoint
    #[argh(switch)]
    pub require_checkpoint: bool,

    /// where a first run starts: an RFC 3339 time, or a span back from now (everything retained)
    #[argh(option, arg_name = "when")]
    pub since: Option<String>,

    /// with --no-checkpoint: only events before this time
    #[argh(option, arg_name = "when")]
    pub until: Option<String>,

    /// how far each run looks back for events that appear late (10m; 1s to 24h)
    #[argh(option, arg_name = "span")]
    pub overlap: Option<String>,

    /// the service (https://app.terraform.io)
    #[argh(option, arg_name = "url")]
    pub endpoint: Option<String>,

    /// read the organization's token from this file, - for standard input ($TFC_ORG_TOKEN)
    #[argh(option, arg_name = "file")]
    pub token_file: Option<String>,

    /// events for each page, 1 to 1000 (1000)
    #[argh(option, arg_name = "n")]
    pub page_size: Option<String>,

    /// how many pages of a backlog are asked for at once, 1 to 16 (4)
    #[argh(option, arg_name = "n")]
    pub connections: Option<String>,

    /// how long to wait for another run to end (0s)
    #[argh(option, arg_name = "span")]
    pub lock_wait: Option<String>,

    /// stop cleanly before this much time has passed (no limit)
    #[argh(option, arg_name = "span")]
    pub max_time: Option<String>,

    /// for one HTTP request (30s)
    #[argh(option, arg_name = "span")]
    pub timeout: Option<String>,

    /// how often a request is tried again after a passing failure (5)
    #[argh(option, arg_name = "n")]
    pub retries: Option<String>,

    /// deliver by HTTP POST to this address instead of to standard output
    #[argh(option, arg_name = "url")]
    pub post: Option<String>,

    /// for --post: ndjson, json-array, json, splunk-hec, elasticsearch or loki (ndjson)
    #[argh(option, arg_name = "format")]
    pub format: Option<String>,

    /// for --post: add 'NAME: VALUE' to each request; @FILE reads them from a file, one a line;
    /// may be repeated
    #[argh(option, arg_name = "header")]
    pub header: Vec<String>,

    /// for --post: compress bodies
    #[argh(switch)]
    pub gzip: bool,

    /// a label KEY=VALUE of the loki stream, or metadata or a field for splunk-hec; may be repeated
    #[argh(option, arg_name = "label")]
    pub label: Vec<String>,

    /// for --post: show this certificate (PEM) to a receiver that asks for one
    #[argh(option, arg_name = "file")]
    pub client_cert: Option<String>,

    /// for --post: its private key (PEM, not encrypted)
    #[argh(option, arg_name = "file")]
    pub client_key: Option<String>,

    /// let --header values go over plain http to a receiver that is not on this machine
    #[argh(switch)]
    pub allow_plain_http: bool,

    /// deliver each batch to the standard input of sh -c COMMAND; exit 0 acknowledges it
    #[argh(option, arg_name = "command")]
    pub exec: Option<String>,

    /// the most events in a batch (1000)
    #[argh(option, arg_name = "n")]
    pub batch_events: Option<String>,

    /// the most bytes in a batch, before compression (1048576)
    #[argh(option, arg_name = "n")]
    pub batch_bytes: Option<String>,

    /// put a single event that the receiver refuses for good into this file, and go on
    #[argh(option, arg_name = "file")]
    pub dead_letter: Option<String>,

    /// give fields whose type varies between events one type (implied by elasticsearch)
    #[argh(switch)]
    pub normalize: bool,

    /// try everything that a run with these options needs, report each, and deliver nothing
    #[argh(switch)]
    pub check: bool,

    /// print what would be delivered, in its format, and leave the checkpoint alone
    #[argh(switch)]
    pub dry_run: bool,

    /// write the run's figures to this file for Prometheus, whatever the outcome
    #[argh(option, arg_name = "file")]
    pub metrics: Option<String>,

    /// say on standard error what was done
    #[argh(switch, short = 'v')]
    pub verbose: bool,

    /// print the version
    #[argh(switch)]
    pub version: bool,
}

/// The options that take no value: what follows one of them is another option.
const SWITCHES: [&str; 13] = [
    "--no-checkpoint",
    "--require-checkpoint",
    "--gzip",
    "--allow-plain-http",
    "--normalize",
    "--check",
    "--dry-run",
    "--verbose",
    "-v",
    "--version",
    "--help",
    "-h",
    "--",
];

/// What a command line asks for.
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
pub enum Command {
    /// A run.
    Run(Box<Args>),
    /// Only this text on standard output: the help or the version.
    Print(String),
}

/// Reads a command line, without the program's name.
///
/// # Errors
/// One line that says what is wrong with it.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let words = split_values(arguments);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match Args::from_args(&["tfc-audit"], &words) {
        Ok(args) if args.version => Ok(Command::Print(
            concat!("tfc-audit ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
        )),
        Ok(args) => Ok(Command::Run(Box::new(args))),
        Err(exit) if exit.status.is_ok() => Ok(Command::Print(exit.output)),
        Err(exit) => {
            let said = exit.output.split_whitespace().collect::<Vec<_>>().join(" ");
            // What is no option may be a secret that was not quoted.
            let said = match said.split_once("Unrecognized argument: ") {
                Some((_, word)) if !word.starts_with('-') => {
                    "there is an argument that is no option: is a value with blanks in quotes?"
                }
                _ => &said,
            };
            Err(format!("{said} (see tfc-audit --help)"))
        }
    }
}

/// Splits `--name=value`, which argh does not know, into the two words that it does. An option's
/// value is left alone, whatever it looks like.
fn split_values(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut words = Vec::new();
    let mut is_value = false;
    for argument in arguments {
        let option = !is_value && argument.starts_with('-');
        match argument.split_once('=') {
            Some((name, value)) if option && name.starts_with("--") => {
                words.extend([name.to_owned(), value.to_owned()]);
            }
            _ => {
                is_value = option && !SWITCHES.contains(&argument.as_str());
                words.push(argument);
            }
        }
    }
    words
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

    #[test]
    fn both_spellings() {
        let expected = Args {
            page_size: Some("5".into()),
            since: Some("2026-01-02T03:04:05+00:00".into()),
            ..Args::default()
        };
        assert_eq!(
            run(&["--page-size", "5", "--since", "2026-01-02T03:04:05+00:00"]),
            expected
        );
        assert_eq!(
            run(&["--page-size=5", "--since=2026-01-02T03:04:05+00:00"]),
            expected
        );
        assert_eq!(run(&["-c", "a=b"]).checkpoint.as_deref(), Some("a=b"));
        assert_eq!(
            run(&["--checkpoint=a=b"]).checkpoint.as_deref(),
            Some("a=b")
        );
    }

    #[test]
    fn a_value_may_look_like_an_option() {
        assert_eq!(
            run(&["--checkpoint", "--x=y", "-v"]),
            Args {
                checkpoint: Some("--x=y".into()),
                verbose: true,
                ..Args::default()
            }
        );
        assert_eq!(run(&["--token-file", "-"]).token_file.as_deref(), Some("-"));
        assert_eq!(run(&["--token-file=-"]).token_file.as_deref(), Some("-"));
        assert_eq!(
            run(&["--checkpoint", "--help"]).checkpoint.as_deref(),
            Some("--help")
        );
    }

    #[test]
    fn every_switch_is_known_to_take_no_value() {
        let Command::Print(help) = args(&["--help"]).unwrap() else {
            panic!()
        };
        let (usage, _) = help.split_once('\n').unwrap();
        // `[--switch]` as against `[--option <value>]`.
        let switches = usage
            .split(['[', ']'])
            .filter(|word| word.starts_with('-') && !word.contains('<'));
        for switch in switches {
            assert!(SWITCHES.contains(&switch), "{switch}");
            // Otherwise it would swallow the next option.
            assert!(args(&[switch, "--page-size=5"]).is_ok(), "{switch}");
            assert!(args(&[&format!("{switch}=yes")]).is_err(), "{switch}");
        }
    }

    #[test]
    fn an_error_is_one_line() {
        for line in [
            &["--page-sise", "5"][..],
            &["5"],
            &["--page-size"],
            &["--page-size=1", "--page-size=2"],
        ] {
            let message = args(line).unwrap_err();
            assert!(!message.contains('\n'), "{message}");
            assert!(message.ends_with("(see tfc-audit --help)"), "{message}");
        }
    }

    #[test]
    fn help_and_version_only_print() {
        for line in [&["--help"][..], &["-h"], &["-v", "--help"]] {
            assert!(
                matches!(args(line), Ok(Command::Print(text)) if text.contains("--require-checkpoint"))
            );
        }
        assert!(
            matches!(args(&["--version"]), Ok(Command::Print(text)) if text.starts_with("tfc-audit 0."))
        );
    }
}
