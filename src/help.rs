//! The help: the options in groups, then examples and exit codes.
//!
//! argh itself prints one list of all options below a usage line of eight lines. So the text is a file,
//! which reads as it is printed. The tests compare it with argh: no option is missing, and the words
//! are those of [`Args`](crate::cli::Args).

/// The text of `--help`.
pub const TEXT: &str = include_str!("help.txt");

#[cfg(test)]
mod tests {
    use argh::{ArgsInfo, FlagInfo, FlagInfoKind};

    use super::*;
    use crate::cli::Args;

    /// The column at which descriptions begin.
    const COLUMN: usize = 28;
    /// The most characters in a line.
    const WIDTH: usize = 80;

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
                Some(line) if line.len() + word.len() < WIDTH => {
                    *line = format!("{line} {word}");
                }
                _ => lines.push(format!("{:COLUMN$}{word}", "")),
            }
        }
        lines.join("\n") + "\n"
    }

    #[test]
    fn an_option_is_described_in_the_words_of_argh() {
        // argh has a text of its own for `--help`.
        for flag in Args::get_args_info().flags.iter().skip(1) {
            let entry = entry(flag);
            assert!(TEXT.contains(&entry), "help.txt should have:\n{entry}");
        }
    }

    #[test]
    fn the_help_lists_exactly_the_options_that_argh_knows() {
        let (options, _) = TEXT.split_once("Examples:").unwrap();
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
        for (title, first) in [
            ("Service", "--endpoint"),
            ("Checkpoint", "--checkpoint"),
            ("Delivery", "--post"),
            ("Operation", "--check"),
        ] {
            let (_, group) = TEXT.split_once(&format!("\n{title}:\n")).expect(title);
            assert!(group.lines().next().unwrap().contains(first), "{title}");
        }
    }

    #[test]
    fn no_line_is_longer_than_a_terminal_is_wide() {
        assert_eq!(TEXT.lines().find(|line| line.len() > WIDTH), None);
    }
}
