//! The help: the options in groups, as argh describes them, then examples and exit codes.
//!
//! argh itself prints one list of all options below a usage line of eight lines. Names and
//! descriptions still come from argh, so that no option can be missing here.

use argh::{ArgsInfo, FlagInfo, FlagInfoKind};

use crate::cli::Args;

/// The title of each group, and the option that it begins with: groups follow the fields of [`Args`].
const GROUPS: [(&str, &str); 4] = [
    ("Service", "--endpoint"),
    ("Checkpoint", "--checkpoint"),
    ("Delivery", "--post"),
    ("Operation", "--check"),
];
/// The column at which descriptions begin.
const COLUMN: usize = 28;
/// The most characters in a line.
const WIDTH: usize = 80;

const START: &str = "\
Usage: tfc-audit [OPTIONS]

Ships HCP Terraform's audit trail: every event that no earlier run has
delivered, oldest first. Events go to standard output as NDJSON, by --post to an
HTTP receiver, or by --exec to a program. A checkpoint file remembers how far
the runs got. Spans are written 90s, 10m, 36h or 7d. Defaults are in brackets.
";

const END: &str = r"  -h, --help                print this help

Examples:
  # A look at the last hour, which remembers nothing
  tfc-audit --no-checkpoint --since 1h
  # New events into a file
  tfc-audit -v --token-file token -c audit.json >> audit.ndjson
  # Try everything that a delivery to Splunk needs; without --check, deliver
  tfc-audit --check --post https://splunk.example.com:8088 \
      --format splunk-hec --header @headers

Exit codes:
    0  all delivered, also when there was nothing new
    1  anything not listed
    2  usage or configuration
    3  --max-time was reached and more remains
    4  the service refused the token, or the organization has no audit trails
    5  the service failed, after the retries, or broke its contract
    6  the receiver failed, after the retries, or the program of --exec failed
    7  the receiver refused events permanently
    8  the checkpoint cannot be trusted or cannot be written
   75  another run holds the lock
  141  the reader of standard output went away

The manual page says more: man tfc-audit, or tfc-audit --man | man -l -
";

/// Returns the text of `--help`.
pub fn text() -> String {
    // argh lists `--help` first, with a text of its own.
    let options = Args::get_args_info().flags.iter().skip(1).map(|flag| {
        let group = GROUPS.iter().find(|group| group.1 == flag.long);
        let title = group.map(|(title, _)| format!("\n{title}:\n"));
        title.unwrap_or_default() + &entry(flag)
    });
    START.to_owned() + &options.collect::<String>() + END
}

/// Returns an option's lines: its names and its value's, and beside them the description.
fn entry(flag: &FlagInfo) -> String {
    let short = flag.short.map(|short| format!("-{short},"));
    let short = short.unwrap_or_default();
    let value = match flag.kind {
        FlagInfoKind::Option { arg_name } => arg_name.to_uppercase(),
        FlagInfoKind::Switch => String::new(),
    };
    let names = format!("  {short:3} {} {value}", flag.long);
    let mut lines = vec![format!("{names:0$}", COLUMN - 1)];
    for word in flag.description.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH => *line = format!("{line} {word}"),
            _ => lines.push(format!("{:COLUMN$}{word}", "")),
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_exactly_the_options_that_argh_knows() {
        let help = text();
        let (options, _) = help.split_once("Examples:").unwrap();
        let names = options
            .lines()
            .filter_map(|line| line.get(6..)?.split(' ').next());
        let mut listed: Vec<_> = names.filter(|name| name.starts_with("--")).collect();
        let mut known: Vec<_> = Args::get_args_info()
            .flags
            .iter()
            .map(|flag| flag.long)
            .collect();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(listed, known);
    }

    #[test]
    fn every_group_has_its_options() {
        let help = text();
        for (title, first) in GROUPS {
            let (_, group) = help.split_once(&format!("\n{title}:\n")).expect(title);
            assert!(group.lines().next().unwrap().contains(first), "{title}");
        }
    }

    #[test]
    fn no_line_is_longer_than_a_terminal_is_wide() {
        let long = text()
            .lines()
            .find(|line| line.len() > WIDTH)
            .map(str::to_owned);
        assert_eq!(long, None);
    }
}
