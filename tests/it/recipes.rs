//! The recipes work. Those for schedulers are run; those for receivers are compared with the events
//! that are sent to them. `.ci/run` checks recipes for which there is a schema or a parser.

#![expect(clippy::unwrap_used, reason = "a malformed recipe has to fail")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::receiver::{Format, Receiver, Rules};
use crate::stand_in::{events, ids, sample_events};
use crate::support::{Bench, PROGRAM, TOKEN, minutes_ago, now, takes};

fn path_of(recipe: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/recipes")
        .join(recipe)
}

fn recipe(name: &str) -> String {
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

/// A stand-in for the AWS command line: `aws s3 cp … FILE s3://BUCKET/KEY` copies the file to the
/// directory `bucket`, named after the key with `:` for `/`. Then it runs the commands `last`.
fn aws(bench: &Bench, last: &str) {
    let script = r#"[ "$1 $2" = "s3 cp" ] || exit 9
        for to; do from=$before before=$to; done
        mkdir -p bucket && cp "$from" "bucket/$(printf %s "${to#s3://}" | tr / :)""#;
    program(bench, "aws", &format!("{script}\n{last}"));
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
        aws(&bench, "");
        let format = format_of(&line).unwrap_or(Format::Ndjson);
        let receiver = Receiver::start(format, Rules::default());
        let posts = line.iter().any(|word| word == "--post");
        for word in &mut line {
            if let Some((_, rest)) = word
                .split_once("://")
                .filter(|(it, _)| it.starts_with("http"))
            {
                let path = &rest[rest.find('/').unwrap_or(rest.len())..];
                let origin = receiver.url();
                let origin = origin.strip_suffix(format.path()).unwrap();
                *word = format!("{origin}{path}");
            }
            let script = path_of("s3.sh").display().to_string();
            *word = word.replace("/usr/local/lib/tfc-audit/s3.sh", &script);
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
        GzDecoder::new(fs::File::open(name).unwrap())
            .read_to_string(&mut all)
            .unwrap();
    }
    ids(&all)
}

#[test]
fn a_batch_that_is_sent_again_replaces_its_s3_object() {
    let bench = Bench::of(events(50, now(), 1));
    let command = format!("{} s3://example-audit/tfc", path_of("s3.sh").display());
    let arguments = ["--exec", &command, "--batch-events=20", "--retries=0"];
    let run = || {
        let command = with_programs(&bench, bench.command(&arguments));
        bench.start(command).finish()
    };
    // The second object is stored, but the upload fails all the same.
    aws(&bench, r#"[ "$(ls bucket | wc -l)" -ne 2 ]"#);
    run().code(6);
    aws(&bench, "");
    run().code(0).silent();
    assert_eq!(stored(&bench), ids_in_order(&bench));
    let days: BTreeSet<_> = bench
        .in_order()
        .iter()
        .map(|event| crate::stand_in::stamp(event.time)[..10].to_owned())
        .collect();
    let names = fs::read_dir(bench.path("bucket")).unwrap();
    for name in names.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
        let (day, batch) = name
            .strip_prefix("example-audit:tfc:day=")
            .and_then(|rest| rest.split_once(':'))
            .expect(&name);
        assert!(
            days.contains(day) && batch.ends_with(".ndjson.gz"),
            "{name}"
        );
    }
}

/// `sh` runs the line, with the environment that the file and cron set.
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
    let (schedule, command) = entry.split_at(entry.find("tfc-audit ").unwrap());
    assert_eq!(schedule, "*/5 * * * * ");
    let (user, command) = command.split_once(' ').unwrap();
    assert_eq!(user, "tfc-audit");
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
    fs::write(bench.path("etc/token"), TOKEN.to_owned() + "\n").unwrap();
    program(
        &bench,
        "tfc-audit",
        &format!("exec {PROGRAM} --endpoint {} \"$@\"", bench.api.url()),
    );
    // The test must not write to the system log.
    program(
        &bench,
        "logger",
        r#"[ "$*" = "-s -t tfc-audit" ] && exec sed "s/^/logged: /" >&2"#,
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
        let delivered = fs::read_to_string(bench.path("var/log/events.ndjson")).unwrap();
        assert_eq!(delivered, bench.api.with(|world| world.expected()));
    }
    let lock = fs::File::open(bench.path("var/lib/checkpoint.json.lock")).unwrap();
    fs2::FileExt::lock_exclusive(&lock).unwrap();
    let run = run();
    run.prints_nothing().asks(0);
    let said: Vec<_> = run.stderr.lines().collect();
    assert!(
        said.len() == 1
            && said[0].starts_with("logged: ")
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
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/tfc-audit "));
    let line = line.unwrap().strip_suffix(" $TFC_AUDIT_OPTIONS").unwrap();
    for options in options() {
        takes(words(line).into_iter().chain(options)).unwrap();
    }
    let job = recipe("kubernetes.yaml");
    let (_, arguments) = job.split_once("              args:\n").unwrap();
    let arguments = arguments
        .lines()
        .map_while(|line| line.strip_prefix("                - "));
    let arguments: Vec<_> = arguments.map(str::to_owned).collect();
    assert!(arguments.len() > 3, "{arguments:?}");
    takes(arguments).unwrap();
}

/// The `name = value` lines of a configuration file.
fn settings(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
        .collect()
}

#[test]
fn splunk_recipes_have_the_source_type_fields_and_time_of_sent_events() {
    let bench = Bench::of(sample_events(minutes_ago(1)));
    let receiver = Receiver::start(Format::Splunk, Rules::default());
    bench
        .run(&["--post", &receiver.url(), "--format=splunk-hec"])
        .code(0)
        .silent();
    let body = &receiver.received()[0].body;
    let sent = serde_json::Deserializer::from_str(body)
        .into_iter::<Value>()
        .next()
        .unwrap()
        .unwrap();
    let source_type = sent["sourcetype"].as_str().unwrap();
    let (inputs, props) = (recipe("splunk-inputs.conf"), recipe("splunk-props.conf"));
    assert!(props.contains(&format!("\n[{source_type}]\n")));
    assert!(settings(&inputs).contains(&("sourcetype", source_type)));

    let sent = sent_fields();
    let aliases = settings(&props)
        .into_iter()
        .filter(|(name, _)| name.starts_with("FIELDALIAS-"));
    let named: BTreeSet<_> = aliases
        .flat_map(|(_, value)| words(value))
        .filter(|word| word.contains('.'))
        .collect();
    assert!(
        !named.is_empty() && named.is_subset(&sent),
        "{named:?} {sent:?}"
    );

    // If a forwarder reads a file of events, Splunk finds each time after this prefix.
    let prefix = settings(&props)
        .into_iter()
        .find(|(name, _)| *name == "TIME_PREFIX")
        .unwrap()
        .1;
    let prefix = prefix.replace(r"\s*", "");
    for event in bench.in_order() {
        let (_, rest) = event.text.split_once(&prefix).expect(&event.text);
        assert!(
            rest.starts_with(&crate::stand_in::stamp(event.time)),
            "{rest}"
        );
    }
}

#[test]
fn loki_rules_query_only_labels_and_fields_that_are_sent() {
    let rules = recipe("loki-rules.yaml");
    let queries: Vec<_> = rules
        .lines()
        .filter(|line| line.contains("| json"))
        .filter(|line| line.contains('{'))
        .collect();
    assert_eq!(queries.len(), 3);
    // `| json` joins names by underscores.
    let sent: BTreeSet<_> = sent_fields()
        .iter()
        .map(|field| field.replace('.', "_"))
        .collect();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for query in queries {
        assert!(query.contains(r#"{job="tfc-audit"}"#), "{query}");
    }
    let named: BTreeSet<_> = rules
        .split(|c| !is_name(c))
        .filter(|word| {
            ["auth_", "resource_"]
                .iter()
                .any(|start| word.starts_with(start))
        })
        .map(str::to_owned)
        .collect();
    assert!(named.len() >= 3 && named.is_subset(&sent), "{named:?}");
}

#[test]
fn prometheus_rules_query_only_metrics_that_are_written() {
    let bench = Bench::of(events(3, now(), 1));
    let file = bench.path("tfc-audit-acme.prom");
    bench
        .run(&["--metrics", &file.display().to_string()])
        .code(0);
    let written = fs::read_to_string(file).unwrap();
    let names = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("tfc_audit_"))
            .map(str::to_owned)
            .collect()
    };
    let (asked, written) = (names(&recipe("prometheus-rules.yaml")), names(&written));
    assert!(
        asked.len() > 3 && asked.is_subset(&written),
        "{asked:?} {written:?}"
    );
}

/// The fields of the sample events, as dotted paths.
fn sent_fields() -> BTreeSet<String> {
    let mut sent = BTreeSet::new();
    for line in include_str!("../../fixtures/events.ndjson").lines() {
        leaves(&serde_json::from_str(line).unwrap(), "", &mut sent);
    }
    sent
}

/// The fields of a mapping as dotted paths with their types. Fields below a `flattened` field have no
/// mapping of their own.
fn fields(properties: &Value, prefix: &str, found: &mut BTreeSet<(String, String)>) {
    for (name, field) in properties.as_object().unwrap() {
        let path = format!("{prefix}{name}");
        match field.get("properties") {
            Some(inner) => fields(inner, &format!("{path}."), found),
            None => drop(found.insert((path, field["type"].as_str().unwrap().to_owned()))),
        }
    }
}

/// The dotted paths of an event's fields, where `resource.meta` is one field, as in the template.
fn leaves(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(inner) if prefix != "resource.meta" => {
            for (name, value) in inner {
                let dot = if prefix.is_empty() { "" } else { "." };
                leaves(value, &format!("{prefix}{dot}{name}"), found);
            }
        }
        _ => drop(found.insert(prefix.to_owned())),
    }
}

#[test]
fn the_index_template_maps_every_field_of_the_sample_events() {
    let template = recipe("elasticsearch-index-template.json");
    let template: Value = serde_json::from_str(&template).unwrap();
    assert_eq!(
        template["data_stream"],
        serde_json::json!({}),
        "events go to a data stream"
    );
    let mappings = &template["template"]["mappings"];
    assert_eq!(
        mappings["dynamic"], false,
        "a new field must not become a mapping"
    );
    let mut mapped = BTreeSet::new();
    fields(&mappings["properties"], "", &mut mapped);
    for (path, kind) in [
        ("@timestamp", "date"),
        ("resource.meta", "flattened"),
        ("version", "keyword"),
    ] {
        assert!(
            mapped.contains(&(path.to_owned(), kind.to_owned())),
            "{path} as {kind}"
        );
    }
    let mut sent = sent_fields();
    sent.insert("@timestamp".to_owned());
    let mapped: BTreeSet<_> = mapped.into_iter().map(|(path, _)| path).collect();
    assert_eq!(mapped, sent);
}
