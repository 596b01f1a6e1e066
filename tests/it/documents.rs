//! README and man page fit the program: options, exit codes, metrics, crates and command lines.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::support::configure;

/// Options of cargo, curl, systemctl and the demonstration, and `--name` for any option.
const FOREIGN: [&str; 7] = [
    "--example",
    "--locked",
    "--path",
    "--now",
    "--serve",
    "--name",
    "--data-urlencode",
];

fn text(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect(path)
}

/// The text between `start` and `end`, or between `start` and the text's end.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).expect(start);
    rest.split_once(end).map_or(rest, |(part, _)| part)
}

/// All words of a text that look like a long option.
fn long_options(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.split(|c| !is_name(c))
        .filter(|word| word.starts_with("--") && word.len() > 2 && !word.starts_with("---"))
        .map(|word| word.trim_end_matches('-').to_owned())
        .collect()
}

/// The program's options in a text, in prose and code alike.
fn mentioned(text: &str) -> BTreeSet<String> {
    let mut options = long_options(text);
    options.retain(|option| !FOREIGN.contains(&option.as_str()));
    options
}

/// The man page with each `.Fl -name` written as `--name`.
fn man_page() -> String {
    text("man/tfc-audit.1").replace("Fl -", "Fl --")
}

/// What the program prints with this option.
fn printed(option: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tfc-audit"))
        .arg(option)
        .output()
        .expect("the program runs");
    String::from_utf8(output.stdout).expect("the text is UTF-8")
}

/// The options of `--help`, which stand at the same column.
fn help() -> BTreeSet<String> {
    between(&printed("--help"), "", "\nExamples:\n")
        .lines()
        .filter_map(|line| line.get(6..)?.split(' ').next())
        .filter(|word| word.starts_with("--"))
        .map(str::to_owned)
        .collect()
}

/// The codes of `error::Exit`, read from the source code, since an enum cannot list itself.
fn exit_codes() -> BTreeSet<u8> {
    let source = text("src/error.rs");
    between(&source, "pub enum Exit {", "\n}")
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .map(|(_, code)| code.parse().expect("a code"))
        .collect()
}

#[test]
fn the_readme_lists_every_option_and_mentions_no_other() {
    let readme = text("README.md");
    let rows = readme
        .lines()
        .filter(|line| line.starts_with("| `-"))
        .filter_map(|line| line.split('|').nth(1));
    let table: BTreeSet<_> = rows.flat_map(long_options).collect();
    assert_eq!(table, help());
    assert_eq!(mentioned(&readme), help());
}

#[test]
fn the_man_page_describes_every_option_and_mentions_no_other() {
    let man_page = man_page();
    let items = man_page.lines().filter(|line| line.starts_with(".It Fl "));
    let lists: BTreeSet<_> = items.flat_map(long_options).collect();
    assert_eq!(lists, help());
    assert_eq!(mentioned(&man_page), help());
}

#[test]
fn the_synopsis_shows_every_option() {
    let man_page = man_page();
    let synopsis = between(&man_page, ".Sh SYNOPSIS", ".Sh ");
    let mut expected = help();
    // The synopsis shows their short names.
    for short in ["--checkpoint", "--verbose", "--version", "--help"] {
        expected.remove(short);
    }
    assert_eq!(long_options(synopsis), expected);
}

#[test]
fn readme_man_page_and_help_list_exactly_the_exit_codes() {
    let help = printed("--help");
    let lines = between(&help, "\nExit codes:\n", "\n\n").lines();
    let codes = lines.filter_map(|line| line.split_whitespace().next()?.parse().ok());
    assert_eq!(codes.collect::<BTreeSet<u8>>(), exit_codes());

    let readme = text("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| "));
    let table: BTreeSet<u8> = rows
        .filter_map(|row| row.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(table, exit_codes());

    let man_page = man_page();
    let items = between(&man_page, ".Sh EXIT STATUS", ".Sh ")
        .lines()
        .filter_map(|line| line.strip_prefix(".It ")?.parse().ok());
    assert_eq!(items.collect::<BTreeSet<u8>>(), exit_codes());
}

/// The lines of a shell script that run the program, with continuation lines joined.
fn command_lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim_start);
    lines
        .filter(|line| line.starts_with("tfc-audit "))
        .map(str::to_owned)
        .collect()
}

/// The arguments that a shell passes to the program for a command line.
///
/// The shell runs the whole line, redirections and pipes included, with a script in the program's
/// place that writes its arguments to a file.
fn arguments(line: &str) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let script = dir.path().join("tfc-audit");
    fs::write(
        &script,
        "#!/bin/sh\nfor word; do printf '%s\\0' \"$word\"; done >arguments\n",
    )
    .expect("the script can be written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it can be run");
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(dir.path())
        .env("PATH", path)
        .output();
    output.expect("sh runs");
    let arguments = fs::read_to_string(dir.path().join("arguments")).expect(line);
    let arguments = arguments.split_terminator('\0').map(str::to_owned);
    arguments.collect()
}

#[test]
fn the_program_accepts_every_documented_command_line() {
    let readme = text("README.md")
        .replace("```crontab\n*/5 * * * * /usr/local/bin/", "```sh\n")
        // A directory that the test does not have.
        .replace(r#">>"$HOME/audit/"#, r#">>""#);
    let blocks = readme.split("```sh\n").skip(1);
    let readme: String = blocks.map(|block| between(block, "", "```")).collect();
    let man_page = text("man/tfc-audit.1")
        .replace(".Dl ", "")
        .replace("\\e", "\\")
        .replace("\n$ ", "\n");
    let recipes: String = fs::read_dir(format!("{}/fixtures/recipes", env!("CARGO_MANIFEST_DIR")))
        .expect("there are recipes")
        .map(|entry| fs::read_to_string(entry.expect("an entry").path()).expect("a text"))
        .collect();
    let recipes = recipes.replace("\n#", "\n");
    for (text, least) in [
        (readme, 10),
        (man_page, 10),
        (recipes, 2),
        (printed("--help"), 3),
    ] {
        let lines = command_lines(&text);
        assert!(lines.len() >= least, "{lines:?}");
        for line in lines {
            configure(arguments(&line)).expect(&line);
        }
    }
}

#[test]
fn the_program_prints_the_man_page_itself() {
    assert_eq!(printed("--man"), text("man/tfc-audit.1"));
}

#[test]
fn the_readme_links_exactly_the_recipes() {
    let readme = text("README.md");
    let named: BTreeSet<_> = readme
        .split("](fixtures/recipes/")
        .skip(1)
        .map(|rest| between(rest, "", ")").to_owned())
        .collect();
    let there: BTreeSet<_> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/recipes"))
        .expect("there are recipes")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    assert_eq!(named, there);
}

#[test]
fn the_man_page_lists_exactly_the_metrics() {
    let metrics = |text: &str| -> BTreeSet<String> {
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let words = text.split(|c| !is_name(c)).map(str::to_owned);
        let is_metric = |word: &String| word.len() > "tfc_audit_".len();
        words
            .filter(|word| word.starts_with("tfc_audit_") && is_metric(word))
            .collect()
    };
    let source = text("src/report/metrics.rs");
    let written = metrics(between(&source, "const METRICS", "#[cfg(test)]"));
    assert_eq!(written.len(), 14);
    assert_eq!(metrics(&man_page()), written);
}

#[test]
fn the_readme_lists_exactly_the_crates_in_the_program() {
    // `cargo package` rewrites Cargo.toml and keeps the original under this name.
    let original = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml.orig");
    let manifest = fs::read_to_string(original).unwrap_or_else(|_| text("Cargo.toml"));
    let crates: BTreeSet<_> = between(&manifest, "\n[dependencies]\n", "\n[")
        .lines()
        .filter_map(|line| Some(line.split_once(" = ")?.0))
        .collect();
    let readme = text("README.md");
    let table: BTreeSet<_> = between(&readme, "\n## Crates\n", "\n## ")
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    assert_eq!(table, crates);
}
