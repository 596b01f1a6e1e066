//! The recipes for schedulers and programs are run, and each line of options delivers.

#![expect(clippy::unwrap_used, reason = "a malformed recipe has to fail")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;

use crate::receiver::{Format, Receiver, Rules};
use crate::stand_in::{events, ids, sample_events};
use crate::support::{Bench, PROGRAM, TOKEN, configure, minutes_ago, now};

fn path_of(recipe: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/recipes")
        .join(recipe)
}

pub fn recipe(name: &str) -> String {
    fs::read_to_string(path_of(name)).expect(name)
}

/// Writes a shell script to the directory `bin` of the bench, and returns its path.
fn program(bench: &Bench, name: &str, script: &str) -> PathBuf {
    let path = bench.path("bin").join(name);
    fs::create_dir_all(bench.path("bin")).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The command with the directory `bin` of the bench before the others in its PATH.
fn with_programs(bench: &Bench, mut command: Command) -> Command {
    let bin = bench.path("bin");
    command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    command
}

/// Stand-ins for the command lines of three clouds. Each copies the file that it uploads to the
/// directory `bucket`, named after its key with `:` for `/`, and then runs the commands `last`.
fn clouds(bench: &Bench, last: &str) {
    // FILE s3://BUCKET/KEY are the last two arguments, also those of gcloud.
    let copy = r#"for to; do from=$before before=$to; done
        mkdir -p bucket && cp "$from" "bucket/$(printf %s "${to#*://}" | tr / :)""#;
    let aws = format!("[ \"$1 $2\" = \"s3 cp\" ] || exit 9\n{copy}\n{last}");
    let gcloud = format!("[ \"$1 $2\" = \"storage cp\" ] || exit 9\n{copy}\n{last}");
    let az = r#"[ "$1 $2 $3" = "storage blob upload" ] || exit 9
        for word; do case $before in --file) from=$word ;; --name) to=$word ;; esac; before=$word; done
        mkdir -p bucket && cp "$from" "bucket/$(printf %s "$to" | tr / :)""#;
    program(bench, "aws", &aws);
    program(bench, "gcloud", &gcloud);
    program(bench, "az", &format!("{az}\n{last}"));
}

/// The arguments in each `TFC_AUDIT_OPTIONS` line of `options`, commented out or not.
fn options() -> Vec<Vec<String>> {
    let text = recipe("options");
    text.lines()
        .filter_map(|line| {
            let line = line.trim_start_matches('#');
            let value = line.strip_prefix("TFC_AUDIT_OPTIONS=\"")?;
            Some(words(value.strip_suffix('"')?))
        })
        .collect()
}

/// Splits a text at white space outside of single quotes, as systemd does with `$NAME`.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
fn every_line_of_options_delivers_each_event_once() {
    let lines = options();
    let named = lines.iter().filter_map(|line| format_of(line));
    let formats: BTreeSet<_> = named.map(Format::name).collect();
    // All except `ndjson`, which is the default, and `json`, which has no product.
    assert_eq!(formats.len(), Format::ALL.len() - 2, "{formats:?}");
    for mut line in lines {
        let bench = Bench::of(sample_events(minutes_ago(1)));
        fs::write(bench.path("secret_headers"), "X-Key: k3y-of-receiver\n").unwrap();
        clouds(&bench, "");
        let format = format_of(&line).unwrap_or(Format::Ndjson);
        let receiver = Receiver::start(format, Rules::default());
        let posts = line.iter().any(|word| word == "--post");
        let is_url = |word: &String| word.starts_with("https://") || word.starts_with("http://");
        for word in &mut line {
            if is_url(word) {
                let (_, rest) = word.split_once("://").unwrap();
                let path = &rest[rest.find('/').unwrap_or(rest.len())..];
                let origin = receiver.url();
                let origin = origin.strip_suffix(format.path()).unwrap();
                *word = format!("{origin}{path}");
            }
            let scripts = format!("{}/", path_of("").display());
            *word = word.replace("/usr/local/lib/tfc-audit/", &scripts);
            *word = word.replace("/var/lib/tfc-audit/NAME/spool", "bucket");
        }
        let arguments: Vec<&str> = line.iter().map(String::as_str).collect();
        for _ in 0..2 {
            let run = bench.start(with_programs(&bench, bench.command(&arguments)));
            // In the second run `--since` has no effect, about which only `-v` warns.
            run.finish().code(0).prints_nothing().silent();
        }
        let delivered = if posts {
            let has_headers = line.iter().any(|word| word == "@secret_headers");
            let expected = if has_headers { "k3y-of-receiver" } else { "" };
            for post in receiver.received() {
                assert_eq!(post.header("x-key"), expected, "{line:?}");
            }
            receiver.delivered_ids()
        } else {
            stored(&bench)
        };
        assert_eq!(delivered, ids_in_order(&bench), "{line:?}");
    }
}

#[test]
fn a_shell_reads_each_line_of_options_as_systemd_does() {
    let bench = Bench::of(Vec::new());
    for line in recipe("options").lines() {
        let line = line.trim_start_matches('#');
        let Some(value) = line.strip_prefix("TFC_AUDIT_OPTIONS=\"") else {
            continue;
        };
        let value = value.strip_suffix('"').unwrap();
        let mut shell = bench.clean("/bin/sh");
        shell.args(["-c", &format!("printf '%s\\0' {value}")]);
        let output = shell.output().unwrap();
        let read = String::from_utf8(output.stdout).unwrap();
        let read: Vec<_> = read.split_terminator('\0').map(str::to_owned).collect();
        assert_eq!(read, words(value));
    }
}

/// The format that a line of options names.
fn format_of(line: &[String]) -> Option<Format> {
    let is_named = |format: &Format| line.iter().any(|word| word == format.name());
    Format::ALL.into_iter().find(is_named)
}

/// The IDs of all events of the API, in the order of their delivery.
fn ids_in_order(bench: &Bench) -> Vec<String> {
    bench.in_order().into_iter().map(|event| event.id).collect()
}

/// The IDs of the events in the directory `bucket`, whose objects are read in the order of their names.
fn stored(bench: &Bench) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(bench.path("bucket"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let mut all = String::new();
    for name in names {
        let mut file = fs::File::open(&name).unwrap();
        if name.extension().is_some_and(|it| it == "gz") {
            GzDecoder::new(file).read_to_string(&mut all).unwrap();
        } else {
            file.read_to_string(&mut all).unwrap();
        }
    }
    ids(&all)
}

/// What each script of `--exec` needs as its arguments.
const SCRIPTS: [(&str, &str); 4] = [
    ("s3.sh", "s3://example-audit/tfc"),
    ("gcs.sh", "gs://example-audit/tfc"),
    ("azure-blob.sh", "exampleaudit tfc"),
    ("spool.sh", "bucket"),
];

#[test]
fn no_script_stores_half_a_batch() {
    for (script, arguments) in SCRIPTS {
        let bench = Bench::of(Vec::new());
        clouds(&bench, "");
        let mut shell = with_programs(&bench, bench.clean("/bin/sh"));
        let text = include_str!("../../fixtures/events.ndjson");
        fs::write(bench.path("part"), &text[..text.len() / 2]).unwrap();
        let command = format!("{} {arguments} <part", path_of(script).display());
        shell.args(["-c", &command]);
        shell.env("TFC_AUDIT_COUNT", text.lines().count().to_string());
        shell.env("TFC_AUDIT_FIRST_TIMESTAMP", "2026-01-02T03:04:05.000Z");
        shell.env("TFC_AUDIT_BATCH_ID", "b");
        let run = bench.start(shell).finish();
        run.code(1).prints_nothing();
        let got = text[..text.len() / 2].matches('\n').count();
        let said = format!("{script}: got {got} of {} events", text.lines().count());
        assert!(run.stderr.starts_with(&said), "{}", run.stderr);
        let there = fs::read_dir(bench.path("bucket")).map_or(0, Iterator::count);
        assert_eq!(there, 0, "{script}");
    }
}

#[test]
fn a_batch_that_is_sent_again_replaces_its_object() {
    for (script, arguments) in &SCRIPTS[..3] {
        let bench = Bench::of(events(50, now(), 1));
        let command = format!("{} {arguments}", path_of(script).display());
        let arguments = ["--exec", &command, "--batch-events=20", "--retries=0"];
        let run = || {
            let command = with_programs(&bench, bench.command(&arguments));
            bench.start(command).finish()
        };
        // The second object is stored, but the upload fails all the same.
        clouds(&bench, r#"[ "$(ls bucket | wc -l)" -ne 2 ]"#);
        run().code(6);
        clouds(&bench, "");
        run().code(0).silent();
        assert_eq!(stored(&bench), ids_in_order(&bench));
        let days: BTreeSet<_> = bench
            .in_order()
            .iter()
            .map(|event| crate::stand_in::stamp(event.time)[..10].to_owned())
            .collect();
        let names = fs::read_dir(bench.path("bucket")).unwrap();
        for name in names.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
            let (_, key) = name.split_once("day=").expect(&name);
            let (day, batch) = key.split_once(':').expect(&name);
            assert!(
                days.contains(day) && batch.ends_with(".ndjson.gz"),
                "{name}"
            );
        }
    }
}

/// A stand-in for `curl` notes what it is asked, and answers as Microsoft's login does, or fails.
#[test]
fn azures_token_is_renewed_or_the_old_one_stays() {
    let bench = Bench::of(Vec::new());
    let here = bench.path("").display().to_string();
    let script = recipe("azure-token.sh")
        .replace("/etc/azure-token", &format!("{here}/client"))
        .replace("/etc/tfc-audit", &format!("{here}/etc"));
    fs::create_dir_all(bench.path("client")).unwrap();
    fs::create_dir_all(bench.path("etc/acme")).unwrap();
    let client = "AZURE_TENANT=t1\nAZURE_CLIENT=c1\nAZURE_SECRET='s~1 $x'\n";
    fs::write(bench.path("client/acme"), client).unwrap();
    let run = || {
        let mut shell = with_programs(&bench, bench.clean("/bin/sh"));
        shell.args(["-c", &script, "azure-token.sh", "acme"]);
        bench.start(shell).finish()
    };
    let headers = bench.path("etc/acme/headers");
    let answer = r#"{"token_type":"Bearer","expires_in":3599,"access_token":"eyJ.a-b_c"}"#;
    program(
        &bench,
        "curl",
        &format!("echo \"$*\" >words; cat >asked; echo '{answer}'"),
    );
    run().code(0).silent();
    let written = fs::read_to_string(&headers).unwrap();
    assert_eq!(written, "Authorization: Bearer eyJ.a-b_c\n");
    let mode = fs::metadata(&headers).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let asked = fs::read_to_string(bench.path("asked")).unwrap();
    for part in [
        "https://login.microsoftonline.com/t1/oauth2/v2.0/token",
        "client_id=c1",
        "client_secret=s~1 $x",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    let words = fs::read_to_string(bench.path("words")).unwrap();
    assert!(!words.contains("s~1"), "{words}");
    for failure in ["exit 22", "echo '{\"error\":\"invalid_client\"}'"] {
        program(&bench, "curl", &format!("cat >asked; {failure}"));
        let run = run();
        run.code(1);
        assert!(run.stderr.contains("got no token"), "{}", run.stderr);
        assert_eq!(fs::read_to_string(&headers).unwrap(), written);
    }
}

/// `sh` runs the line, with the environment that the file and cron set, for two organizations.
#[test]
fn the_cron_line_delivers_and_a_second_run_at_once_only_says_so() {
    let bench = Bench::of(events(50, now(), 1));
    let text = recipe("crontab");
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    let [path, "MAILTO=root", entry] = lines[..] else {
        panic!("{lines:?}")
    };
    let command = entry.strip_prefix("*/5 * * * * tfc-audit ").unwrap();
    // cron replaces it by a line break.
    assert!(!command.contains('%'));

    let mut command = command.to_owned();
    for parent in ["etc", "var/lib", "var/log"] {
        let directory = format!("/{parent}/tfc-audit");
        assert!(command.contains(&directory), "{directory}");
        let here = bench.path(parent);
        command = command.replace(&directory, &here.display().to_string());
        fs::create_dir_all(here).unwrap();
    }
    for name in ["acme", "globex"] {
        fs::create_dir_all(bench.path("etc").join(name)).unwrap();
        fs::create_dir_all(bench.path("var/lib").join(name)).unwrap();
        fs::write(bench.path("etc").join(name).join("token"), TOKEN).unwrap();
    }
    program(
        &bench,
        "tfc-audit",
        &format!("exec {PROGRAM} --endpoint {} \"$@\"", bench.api.url()),
    );
    // The test must not write to the system log.
    program(
        &bench,
        "logger",
        r#"[ "$1 $2 $3" = "--socket-errors=off -s -t" ] && exec sed "s/^/$4: /" >&2"#,
    );
    let path = path.replace("PATH=", &format!("{}:", bench.path("bin").display()));
    let run = || {
        let mut cron = bench.clean("/bin/sh");
        cron.env_clear()
            .env("PATH", &path)
            .env("HOME", "/nonexistent");
        cron.env("LOGNAME", "tfc-audit")
            .env("SHELL", "/bin/sh")
            .args(["-c", &command]);
        bench.start(cron).finish()
    };
    for _ in 0..2 {
        run().code(0).silent().prints_nothing();
        for file in ["acme.ndjson", "globex.ndjson"] {
            let delivered = fs::read_to_string(bench.path("var/log").join(file)).unwrap();
            assert_eq!(delivered, bench.api.with(|world| world.expected()));
        }
    }
    let lock = fs::File::open(bench.path("var/lib/acme/checkpoint.json.lock")).unwrap();
    fs2::FileExt::lock_exclusive(&lock).unwrap();
    let run = run();
    run.prints_nothing();
    let said: Vec<_> = run.stderr.lines().collect();
    assert!(
        said.len() == 1
            && said[0].starts_with("tfc-audit@acme: ")
            && said[0].contains("another run holds the lock"),
        "{said:?}"
    );
}

/// `bash -e` runs the delivery step, as GitHub does.
#[test]
fn the_workflow_delivers_and_without_a_checkpoint_only_if_first_is_ticked() {
    let bench = Bench::of(sample_events(minutes_ago(1)));
    let text = recipe("github-actions.yml");
    let (_, step) = text.split_once("name: Deliver what is new").unwrap();
    let (environment, script) = step.split_once("run: |\n").unwrap();
    let script = script
        .lines()
        .map_while(|line| line.strip_prefix("          "));
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let script = script.collect::<Vec<_>>().join("\n");
    let script = script.replace("https://vector.example.com:8080/", &receiver.url());
    fs::write(bench.path("script"), script).unwrap();
    let program = program(
        &bench,
        "tfc-audit",
        &format!("exec {PROGRAM} --endpoint {} \"$@\"", bench.api.url()),
    );
    fs::create_dir_all(bench.path("command")).unwrap();
    std::os::unix::fs::symlink(program.parent().unwrap(), bench.path("command/bin")).unwrap();
    for name in ["TFC_ORG_TOKEN", "RECEIVER_HEADERS", "FIRST"] {
        assert!(environment.contains(&format!("{name}: ${{{{ ")), "{name}");
    }
    let run = |first: &str| {
        let mut bash = bench.clean("bash");
        bash.args(["-e", "script"])
            .env("PATH", "/usr/bin:/bin")
            .env("FIRST", first);
        bash.env("RUNNER_TEMP", bench.path(""))
            .env("RECEIVER_HEADERS", "X-Key: k\nX-More: m");
        bench.start(bash).finish()
    };
    for unticked in ["", "false"] {
        let run = run(unticked);
        run.code(8).prints_nothing().asks(0);
        run.holds(
            run.stderr.contains("--require-checkpoint"),
            "stderr should say why",
        );
    }
    run("true").code(0);
    run("").code(0);
    assert_eq!(receiver.delivered_ids(), ids_in_order(&bench));
    let first = &receiver.received()[0];
    assert_eq!((first.header("x-key"), first.header("x-more")), ("k", "m"));
    // The step ends as the command does, except that 3 is a success.
    for (code, expected) in [(3, 0), (6, 6)] {
        self::program(&bench, "tfc-audit", &format!("exit {code}"));
        run("").code(expected);
    }
}

#[test]
fn the_program_accepts_the_options_of_the_unit_and_the_cron_job() {
    let unit = recipe("tfc-audit@.service");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=tfc-audit "));
    let line = line.unwrap().strip_suffix(" $TFC_AUDIT_OPTIONS").unwrap();
    for options in options() {
        configure(words(line).into_iter().chain(options)).unwrap();
    }
    let job = recipe("kubernetes.yaml");
    let (_, arguments) = job.split_once("              args:\n").unwrap();
    let arguments = arguments
        .lines()
        .map_while(|line| line.strip_prefix("                - "));
    let arguments: Vec<_> = arguments.map(str::to_owned).collect();
    assert!(arguments.len() > 3, "{arguments:?}");
    configure(arguments).unwrap();
}
