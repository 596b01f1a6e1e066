//! README and manual page against the program: options and exit codes, in both directions, and the
//! command lines that they show.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::support::takes;

/// What is no option of ours: cargo's, systemctl's, the demonstration's, and a name that stands for
/// any.
const FOREIGN: [&str; 6] = [
    "--example",
    "--locked",
    "--path",
    "--now",
    "--serve",
    "--name",
];

fn text(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect(path)
}

/// What stands between two marks, the second of which may be the text's end.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).expect(start);
    rest.split_once(end).map_or(rest, |(part, _)| part)
}

/// Everything in a text that looks like a long option.
fn long_options(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.split(|c| !is_name(c))
        .filter(|word| word.starts_with("--") && word.len() > 2 && !word.starts_with("---"))
        .map(|word| word.trim_end_matches('-').to_owned())
        .collect()
}

/// Our options in a text, wherever they stand.
fn mentioned(text: &str) -> BTreeSet<String> {
    let mut options = long_options(text);
    options.retain(|option| !FOREIGN.contains(&option.as_str()));
    options
}

/// The manual page with its `.Fl -name` written as `--name`.
fn manual() -> String {
    text("man/tfc-audit.1").replace("Fl -", "Fl --")
}

/// The program's own list: the lines of its help that begin with an option.
fn help() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_tfc-audit"))
        .arg("--help")
        .output()
        .expect("the program runs");
    let help = String::from_utf8(output.stdout).expect("the help is UTF-8");
    between(&help, "\nOptions:\n", "\nNotes:\n")
        .lines()
        .filter(|line| line.starts_with("  -"))
        .flat_map(|line| long_options(line.split("   ").next().unwrap_or(line)))
        .collect()
}

/// The codes of `error::Exit`, from its source, since an enum cannot list itself.
fn exit_codes() -> BTreeSet<u8> {
    let source = text("src/error.rs");
    between(&source, "pub enum Exit {", "\n}")
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .map(|(_, code)| code.parse().expect("a code"))
        .collect()
}

#[test]
fn the_readme_has_each_option_in_its_table_and_no_other_anywhere() {
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
fn the_manual_page_has_each_option_in_its_lists_and_no_other_anywhere() {
    let manual = manual();
    let items = manual.lines().filter(|line| line.starts_with(".It Fl "));
    let lists: BTreeSet<_> = items.flat_map(long_options).collect();
    assert_eq!(lists, help());
    assert_eq!(mentioned(&manual), help());
}

#[test]
fn the_manual_page_shows_each_option_in_its_synopsis() {
    let manual = manual();
    let synopsis = between(&manual, ".Sh SYNOPSIS", ".Sh ");
    let mut expected = help();
    // Shown by their short names.
    for short in ["--checkpoint", "--verbose", "--help"] {
        expected.remove(short);
    }
    assert_eq!(long_options(synopsis), expected);
}

#[test]
fn both_have_each_exit_code_and_no_other() {
    let readme = text("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| "));
    let table: BTreeSet<u8> = rows
        .filter_map(|row| row.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(table, exit_codes());

    let manual = manual();
    let items = between(&manual, ".Sh EXIT STATUS", ".Sh ")
        .lines()
        .filter_map(|line| line.strip_prefix(".It ")?.parse().ok());
    assert_eq!(items.collect::<BTreeSet<u8>>(), exit_codes());
}

/// The command lines in a text of shell commands that are ours, continuation lines joined.
fn command_lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim_start);
    lines
        .filter(|line| line.starts_with("tfc-audit "))
        .map(str::to_owned)
        .collect()
}

/// Has a shell run a command line, redirections and pipes included, with a program in our place that
/// tells the arguments it was given.
fn arguments(line: &str) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let place = dir.path().join("tfc-audit");
    fs::write(
        &place,
        "#!/bin/sh\nfor word; do printf '%s\\0' \"$word\"; done >told\n",
    )
    .expect("a program");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).expect("it can be run");
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(dir.path())
        .env("PATH", path)
        .output();
    output.expect("sh runs");
    let told = fs::read_to_string(dir.path().join("told")).expect(line);
    let told = told.split_terminator('\0').map(str::to_owned);
    told.collect()
}

#[test]
fn every_command_line_that_is_shown_is_one_that_the_program_takes() {
    let readme = text("README.md")
        .replace("```crontab\n*/5 * * * * /usr/local/bin/", "```sh\n")
        // That is not there.
        .replace("/var/log/tfc-audit/", "");
    let blocks = readme.split("```sh\n").skip(1);
    let readme: String = blocks.map(|block| between(block, "", "```")).collect();
    let manual = text("man/tfc-audit.1")
        .replace(".Dl ", "")
        .replace("\\e", "\\")
        .replace("\n$ ", "\n");
    let recipes: String = fs::read_dir(format!("{}/fixtures/recipes", env!("CARGO_MANIFEST_DIR")))
        .expect("there are recipes")
        .map(|entry| fs::read_to_string(entry.expect("an entry").path()).expect("a text"))
        .collect();
    let recipes = recipes.replace("\n#", "\n");
    for (text, least) in [(readme, 10), (manual, 10), (recipes, 2)] {
        let lines = command_lines(&text);
        assert!(lines.len() >= least, "{lines:?}");
        for line in lines {
            takes(arguments(&line)).expect(&line);
        }
    }
}

#[test]
fn the_readme_names_each_recipe_and_none_that_is_not_there() {
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
fn the_manual_page_has_each_metric_and_no_other() {
    let metrics = |text: &str| -> BTreeSet<String> {
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let words = text.split(|c| !is_name(c)).map(str::to_owned);
        let is_metric = |word: &String| word.len() > "tfc_audit_".len();
        words
            .filter(|word| word.starts_with("tfc_audit_") && is_metric(word))
            .collect()
    };
    let source = text("src/report/metrics.rs");
    let written = metrics(between(&source, "fn gauges(", "#[cfg(test)]"));
    assert_eq!(written.len(), 15);
    assert_eq!(metrics(&manual()), written);
}

#[test]
fn the_readme_names_each_crate_that_runs_and_no_other() {
    // In a package of cargo's, Cargo.toml is not as it was written.
    let written = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml.orig");
    let manifest = fs::read_to_string(written).unwrap_or_else(|_| text("Cargo.toml"));
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
