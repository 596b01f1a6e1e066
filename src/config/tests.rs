//! Which configuration arguments and environment mean together.

use std::collections::HashMap;

use super::*;
use crate::cli;
use crate::config::values::{parse_header, parse_headers};
use crate::secret::Secret;
use crate::time;

/// Reads a command line in the usual environment, with these variables changed.
fn config_in(line: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let mut all = HashMap::from([("TFC_ORG_TOKEN", "t0ken"), ("HOME", "/home/ann")]);
    all.extend(variables.iter().copied());
    let environment = |name: &str| Some(all.get(name)?.into());
    let words = line.split_whitespace().map(ToOwned::to_owned);
    match cli::parse(words)? {
        cli::Command::Run(args) => {
            let now = time::parse("2026-01-02T03:04:05Z").unwrap();
            Config::new(&args, &environment, now)
        }
        cli::Command::Print(text) => panic!("{text}"),
    }
}

fn config(line: &str) -> Result<Config, String> {
    config_in(line, &[])
}

fn checkpoint(line: &str, variables: &[(&str, &str)]) -> Result<CheckpointPlace, String> {
    config_in(line, variables).map(|config| config.checkpoint.unwrap())
}

#[test]
fn defaults() {
    let config = config("").unwrap();
    assert_eq!(config.endpoint.to_string(), "https://app.terraform.io");
    assert_eq!((config.page_size, config.patience.retries), (1000, 5));
    assert_eq!(
        (config.overlap.as_secs(), config.patience.timeout.as_secs()),
        (600, 30)
    );
    assert_eq!(config.patience.deadline, None);
    assert_eq!((config.limits.events, config.limits.bytes), (1000, 1 << 20));
    assert_eq!(config.destination, Destination::Stdout);
    let place = config.checkpoint.unwrap();
    assert!(place.create_parents && !place.required && place.lock_wait.is_zero());
}

#[test]
fn the_environment_decides_where_an_unnamed_checkpoint_lies() {
    let at_home = "/home/ann/.local/state/tfc-audit/checkpoint.json";
    let xdg = ("XDG_STATE_HOME", "/state");
    let systemd = ("STATE_DIRECTORY", "/var/lib/tfc-audit:/var/lib/other");
    for (variables, expected) in [
        (&[][..], at_home),
        (&[("XDG_STATE_HOME", "relative")], at_home),
        (
            &[xdg, ("STATE_DIRECTORY", "")],
            "/state/tfc-audit/checkpoint.json",
        ),
        (&[xdg, systemd], "/var/lib/tfc-audit/checkpoint.json"),
    ] {
        let place = checkpoint("", variables).unwrap();
        assert_eq!(place.path.to_str(), Some(expected));
    }
    let named = checkpoint("-c x", &[systemd]).unwrap();
    assert_eq!(named.path.to_str(), Some("x"));
    assert!(!named.create_parents);
    let message = checkpoint("", &[("HOME", "")]).unwrap_err();
    for remedy in ["--checkpoint", "$XDG_STATE_HOME", "$HOME"] {
        assert!(message.contains(remedy), "{message}");
    }
}

#[test]
fn options_that_contradict_or_lack_each_other_are_refused() {
    let lines = [
        ("--until 1h", "--until goes with --no-checkpoint"),
        (
            "--no-checkpoint --since 1h --until 2h",
            "--until is not after --since",
        ),
        ("--since 2030-01-01T00:00:00Z", "--since lies in the future"),
        (
            "-c ./src/../x --post http://127.0.0.1 --dead-letter x",
            "--dead-letter names the same file as the checkpoint: x",
        ),
        (
            "-c x --metrics ./x.lock",
            "--metrics names the same file as the checkpoint's lock",
        ),
        (
            "--no-checkpoint --checkpoint x",
            "--checkpoint and --no-checkpoint",
        ),
        (
            "--no-checkpoint --require-checkpoint",
            "--require-checkpoint and",
        ),
        (
            "--no-checkpoint --lock-wait 1s",
            "--lock-wait and --no-checkpoint",
        ),
        (
            "--no-checkpoint --overlap 1m",
            "--overlap and --no-checkpoint",
        ),
        (
            "--check --dry-run",
            "--check and --dry-run exclude each other",
        ),
        ("--token-file x", "both --token-file and $TFC_ORG_TOKEN"),
        (
            "--post http://localhost:1 --exec cat",
            "--post and --exec exclude",
        ),
        ("--format json", "--format goes with --post"),
        ("--exec cat --format json", "--format goes with --post"),
        ("--header a:b", "--header goes with --post"),
        ("--gzip", "--gzip goes with --post"),
        ("--label a=b", "--label goes with --post"),
        ("--allow-plain-http", "--allow-plain-http goes with --post"),
        (
            "--client-cert x --client-key y",
            "--client-cert goes with --post",
        ),
        (
            "--batch-events 5",
            "--batch-events goes with --post or --exec",
        ),
        (
            "--batch-bytes 5",
            "--batch-bytes goes with --post or --exec",
        ),
        ("--exec=", "--exec: the command is empty"),
        (
            "--post http://localhost:1 --label a=b",
            "--label goes with --format",
        ),
        (
            "--post http://localhost:1 --format loki --label a=b --label a=c",
            "--label: \"a\" is given more than once",
        ),
        (
            "--post http://localhost:1 --format loki --label a-b=c",
            "--label: \"a-b\"",
        ),
        (
            "--post https://localhost --client-cert x",
            "--client-cert goes with",
        ),
        (
            "--post https://localhost --client-key y",
            "--client-key goes with",
        ),
        (
            "--post http://localhost:1 --client-cert x --client-key y",
            "over https only",
        ),
    ];
    for (line, fault) in lines {
        let message = config(line).expect_err(line);
        assert!(message.contains(fault), "{line}: {message}");
    }
}

#[test]
fn addresses_and_headers_are_refused_without_being_shown() {
    for (line, fault) in [
        (
            "--format elasticsearch --post https://es.example.com:9200",
            "has no index or data stream",
        ),
        (
            "--format elasticsearch --post https://es.example.com:9200/_bulk?hunter2",
            "has no index or data stream",
        ),
        (
            "--endpoint app.terraform.io",
            "has no scheme: add https:// in front of it",
        ),
        (
            "--endpoint https://app.terraform.io/api/v2",
            "has a path: give only its scheme, host and port",
        ),
        (
            "--endpoint ftp://app.terraform.io",
            "is not an http or https address",
        ),
        ("--endpoint http://app.terraform.io", "over https only"),
        ("--endpoint http://localhost.example.com", "over https only"),
        (
            "--endpoint https://user:hunter2@app.terraform.io",
            "holds a user name",
        ),
        (
            "--endpoint https://app.terraform.io/?token=hunter2",
            "has a query",
        ),
        ("--endpoint https://app.terraform.io/#x", "has a fragment"),
        ("--endpoint https://app.terraform.io:https", "is not"),
        (
            "--endpoint https://app.terraform.io:65536",
            "has a port that is not",
        ),
        (
            "--endpoint https://app.terraform.io:",
            "has a port that is not",
        ),
        ("--endpoint http://[::1]x", "has a port that is not"),
        ("--post=", "has no scheme"),
        ("--post localhost:1/hunter2", "has no scheme"),
        ("--post https://user:hunter2@localhost", "holds a user name"),
        (
            "--post http://localhost:1 --header hunter2",
            "is not of the form",
        ),
        (
            "--post http://localhost:1 --header :hunter2",
            "has a name that is not",
        ),
        (
            "--post http://localhost:1 --header a\u{e9}:hunter2",
            "has a name that is not",
        ),
        (
            "--post http://localhost:1 --header a:hünter2\u{7f}",
            "has a value",
        ),
        (
            "--post http://localhost:1 --header Content-Length:5",
            "by the program itself",
        ),
        (
            "--post http://localhost:1 --header @",
            "is not the name of a file",
        ),
        (
            "--post http://siem.example.com --header Authorization:hunter2",
            "--allow-plain-http",
        ),
    ] {
        let message = config(line).expect_err(line);
        assert!(message.contains(fault), "{line}: {message}");
        assert!(
            !message.contains("nter2") && !message.contains('\n'),
            "{message}"
        );
    }
}

#[test]
fn since_is_a_time_or_counts_back_from_now() {
    for (since, expected) in [
        ("36h", "2025-12-31T15:04:05.000Z"),
        ("2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00.000Z"),
        ("2025-12-31", "2025-12-31T00:00:00.000Z"),
    ] {
        let config = config(&format!("--since {since}")).unwrap();
        assert_eq!(time::format(config.since.unwrap()), expected);
    }
}

#[test]
fn an_address_has_one_spelling() {
    for (text, spelling) in [
        ("https://app.terraform.io", "https://app.terraform.io"),
        ("HTTPS://App.Terraform.IO:443/", "https://app.terraform.io"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ] {
        let endpoint = config(&format!("--endpoint {text}")).unwrap().endpoint;
        assert_eq!(endpoint.to_string(), spelling, "{text}");
    }
    for text in ["http://localhost:1", "http://127.1.2.3", "http://[::1]:1"] {
        assert!(Url::parse(text).unwrap().is_loopback(), "{text}");
    }
}

fn post_of(line: &str) -> Box<Post> {
    match config(line).unwrap().destination {
        Destination::Post(post) => post,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_receivers_query_is_sent_and_never_shown() {
    let post =
        post_of("--post https://intake.example.com/api/v2/logs?key=hunter2 --format json-array");
    let shown = "https://intake.example.com/api/v2/logs";
    assert_eq!(post.url.expose(), format!("{shown}?key=hunter2"));
    assert_eq!(post.url.to_string(), shown);
    assert!(!format!("{post:?}").contains("hunter2"));
}

#[test]
fn destinations() {
    assert_eq!(
        config("--exec cat").unwrap().destination,
        Destination::Exec("cat".into())
    );
    let loki = post_of("--post http://loki.example.com:3100 --format loki --label env=a=b");
    assert_eq!(
        loki.url.to_string(),
        "http://loki.example.com:3100/loki/api/v1/push"
    );
    assert_eq!(loki.labels, [("env".to_owned(), "a=b".to_owned())]);
    let plain = post_of(
        "--post http://siem.example.com --header X-Key:hunter2 --allow-plain-http --header @file",
    );
    assert_eq!(
        plain.headers,
        [
            Header::Given("X-Key".into(), Secret::new("hunter2".into())),
            Header::File("file".into())
        ]
    );
}

#[test]
fn a_token_is_taken_without_white_space_around_it() {
    let with = |token: &str| config_in("", &[("TFC_ORG_TOKEN", token)]);
    for token in ["hunter2", "hunter2\n", " hunter2\r\n"] {
        let expected = TokenSource::Environment(Secret::new("hunter2".into()));
        assert_eq!(with(token).unwrap().token, expected);
        assert!(!format!("{:?}", with(token).unwrap()).contains("hunter2"));
    }
    for (token, fault) in [
        ("hunter2\r\nX: y", "holds a character"),
        ("hunter 2", "holds a character"),
        ("hünter2", "holds a character"),
        ("TFC_ORG_TOKEN=hunter2", "is a line of shell"),
        ("export TFC_ORG_TOKEN=hunter2", "is a line of shell"),
        ("\"hunter2\"", "is in quotes"),
        ("'hunter2'", "is in quotes"),
        ("Bearer hunter2", "begins with Bearer"),
    ] {
        let message = with(token).unwrap_err();
        assert!(message.starts_with("$TFC_ORG_TOKEN"), "{message}");
        assert!(
            message.contains(fault) && !message.contains("nter"),
            "{message}"
        );
    }
}

#[test]
fn an_empty_token_variable_counts_as_not_set() {
    for token in ["", "\n", " "] {
        let variables = [("TFC_ORG_TOKEN", token)];
        let config = config_in("--token-file x", &variables).unwrap();
        assert_eq!(config.token, TokenSource::File("x".into()));
        let message = config_in("", &variables).unwrap_err();
        assert!(message.starts_with("no token"), "{message}");
    }
}

#[test]
fn a_header_without_a_credential_is_refused() {
    for (text, fault) in [
        ("Authorization:", "has no value"),
        ("X-Api-Key: \t", "has no value"),
        ("Authorization: Splunk ", "has no credential"),
        ("Proxy-Authorization: Basic", "has no credential"),
        ("authorization: bearer", "has no credential"),
    ] {
        assert!(parse_header(text).unwrap_err().contains(fault), "{text}");
    }
    for text in ["Authorization: hunter2", "X-Kind: Splunk"] {
        assert!(parse_header(text).is_ok(), "{text}");
    }
}

#[test]
fn a_file_of_headers_may_have_comments_but_not_be_empty() {
    let headers = parse_headers("# Splunk\n\n  X-A: 1\r\n\t# X-B: 2\nX-C: 3").unwrap();
    let names: Vec<_> = headers.iter().map(|header| header.0.as_str()).collect();
    assert_eq!(names, ["X-A", "X-C"]);
    for text in ["", "\n\n", "# X-A: 1"] {
        assert_eq!(parse_headers(text).unwrap_err(), "holds no header");
    }
    assert!(
        parse_headers("X-A: 1\nhunter2")
            .unwrap_err()
            .starts_with("a line is not")
    );
}

#[test]
fn what_does_not_fit_into_a_request_is_refused() {
    let text = |length| "x".repeat(length);
    assert!(parse_token(&text(8192)).is_ok() && parse_token(&text(8193)).is_err());
    let header = |length| parse_header(&format!("A: {}", text(length)));
    assert!(header(8192).is_ok() && header(8193).is_err());
}
