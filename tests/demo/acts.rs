//! The acts: the command runs, and what it did is shown and checked.

use std::collections::BTreeSet;
use std::error::Error;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use time::UtcDateTime;

use crate::receiver::{self, Format, Receiver, Rules};
use crate::stand_in::{Event, PATH, StandIn, Step, World, ids, sample_events};
use crate::table;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// An event of the later acts: its age in seconds, who, what, on what.
type Brief = (u64, &'static str, [&'static str; 2], &'static str);

/// Events that happen after the first two runs.
const LATER: [Brief; 8] = [
    (280, "bob", ["workspace", "create"], "dns-prod"),
    (279, "bob", ["var", "create"], "dns-prod"),
    (240, "carol", ["team", "add_member"], "dave"),
    (180, "dave", ["run", "create"], "dns-prod"),
    (151, "dave", ["policy_check", "overridden"], "dns-prod"),
    (150, "dave", ["run", "apply"], "dns-prod"),
    (90, "carol", ["authentication_token", "create"], "ci-deploy"),
    (30, "bob", ["ssh_key", "destroy"], "legacy-vcs"),
];
/// Events that arrive while a run reads.
const MEANWHILE: [Brief; 3] = [
    (2, "mallory", ["authentication_token", "create"], "exfil"),
    (1, "mallory", ["state_version", "show"], "networking-prod"),
    (0, "mallory", ["workspace", "destroy"], "networking-prod"),
];

/// Shows the five acts.
pub fn show() -> Result {
    let scene = Scene::new()?;
    let result = scene.play();
    std::fs::remove_dir_all(&scene.directory)?;
    result
}

/// The service and the place where the command runs.
struct Scene {
    api: StandIn,
    now: UtcDateTime,
    directory: PathBuf,
}

/// What a run left.
struct Run {
    stdout: String,
    code: Option<i32>,
}

impl Scene {
    fn new() -> Result<Self> {
        let now = UtcDateTime::now();
        let directory = std::env::temp_dir().join(format!("tfc-audit-demo-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let first = sample_events(now - Duration::from_secs(300));
        let api = StandIn::start(World {
            date: Some(now),
            ..World::new(first)
        });
        Ok(Self {
            api,
            now,
            directory,
        })
    }

    fn play(&self) -> Result {
        println!("The service is a stand-in for HCP Terraform's Audit Trails API, at");
        println!("{}{PATH}", self.api.url());
        println!("The command prints each event as a line of JSON, here shown as a row.");

        title("1. Everything: the first run delivers all events, oldest first");
        let first = self.run("--checkpoint a.json", "", None)?;
        println!("\nThe last of these lines, as the command printed it:");
        println!("{}", first.stdout.lines().last().unwrap_or_default());

        title("2. Nothing: the next run finds no new event");
        let second = self.run("--checkpoint a.json", "", None)?;

        title("3. Meanwhile: eleven new events, of which three arrive between two pages");
        println!(
            "The service counts pages from the newest event: each arrival pushes older events"
        );
        println!("to the next page. Here a page has 10 events, usually 1000.\n");
        self.api
            .with(|world| world.insert(events(1000, &LATER, self.now)));
        let arrivals = Step::Insert(events(2000, &MEANWHILE, self.now));
        let second_page = self.api.count() + 2;
        self.api.with(|world| world.script(second_page, arrivals));
        let small_pages = "--checkpoint a.json --page-size 10";
        let third = self.run(small_pages, "... three events arrive\n", None)?;
        println!("\nThe next run:");
        let fourth = self.run(small_pages, "", None)?;

        let printed = [first, second, third, fourth];
        let has_succeeded = printed.iter().all(|run| run.code == Some(0));
        expect(has_succeeded, "each run ends with exit code 0")?;
        let lines = printed.map(|run| run.stdout).concat();
        self.compare("Standard output", &ids(&lines))?;

        title("4. The receiver is down: the run says so, and the next one goes on there");
        println!("A receiver with a checkpoint of its own. It accepts ten events, and then none");
        println!("until the second run.\n");
        self.outage()?;

        title("5. The checkpoint: how far the runs to standard output got");
        self.checkpoint()?;

        println!("\nTo try it by hand, with nothing to compile:");
        println!("{} --serve", shown(&std::env::current_exe()?));
        Ok(())
    }

    /// The fourth act.
    fn outage(&self) -> Result {
        let down = receiver::Step::answer(503, &[], "down for maintenance");
        let script = [receiver::Step::Usual, down.clone(), down].into();
        let rules = Rules {
            script,
            ..Rules::default()
        };
        let receiver = Receiver::start(Format::Ndjson, rules);
        let arguments = format!(
            "--checkpoint b.json --post {} --batch-events 10 --retries 1",
            receiver.url()
        );
        let down = self.run(&arguments, "", Some(&receiver))?;
        println!("\nThe next run:");
        let up = self.run(&arguments, "", Some(&receiver))?;
        let codes_are_right = [down.code, up.code] == [Some(6), Some(0)];
        expect(codes_are_right, "the run fails with 6, the next succeeds")?;
        self.compare("The receiver", &receiver.delivered_ids())
    }

    /// Runs the command in the scene's directory, and shows what it asked for, what it printed and how
    /// it ended. `meanwhile` is shown after the first request.
    fn run(&self, arguments: &str, meanwhile: &str, receiver: Option<&Receiver>) -> Result<Run> {
        let endpoint = self.api.url();
        println!("$ tfc-audit --verbose --endpoint {endpoint} {arguments}");
        self.api.clear_requests();
        let before = receiver.map_or(0, Receiver::count);
        let output = Command::new(std::env::current_exe()?)
            .arg0(crate::COMMAND)
            .args(["--verbose", "--endpoint", &endpoint])
            .args(arguments.split(' '))
            .current_dir(&self.directory)
            .env("TFC_ORG_TOKEN", self.api.with(|world| world.token.clone()))
            .output()?;
        for (number, asked) in self.api.requests().iter().enumerate() {
            println!("request: {}", asked.readable_query().replace('&', " "));
            if number == 0 {
                print!("{meanwhile}");
            }
        }
        let posts = receiver.map(Receiver::received).unwrap_or_default();
        for request in posts.iter().skip(before) {
            println!("receiver: {request}");
        }
        let stdout = String::from_utf8(output.stdout)?;
        if !stdout.is_empty() {
            table::print(&stdout);
        }
        print!("{}", String::from_utf8_lossy(&output.stderr));
        let code = output.status.code();
        println!("exit code {}", code.unwrap_or(-1));
        Ok(Run { stdout, code })
    }

    /// Compares what arrived with what the service lists.
    fn compare(&self, place: &str, arrived: &[String]) -> Result {
        let listed = self.api.with(|world| world.events.clone());
        let distinct: BTreeSet<_> = arrived.iter().collect();
        let is_lost = |event: &&Event| !distinct.contains(&event.id);
        let lost = listed.iter().filter(is_lost).count();
        let twice = arrived.len() - distinct.len();
        let (has, of) = (distinct.len(), listed.len());
        println!("\n{place} has {has} of {of} events: {lost} lost, {twice} twice");
        let is_complete = lost == 0 && twice == 0;
        expect(is_complete, "no event is lost and none comes twice")
    }

    /// The fifth act.
    fn checkpoint(&self) -> Result {
        let text = std::fs::read_to_string(self.directory.join("a.json"))?;
        let checkpoint: Value = serde_json::from_str(&text)?;
        let line = |name: &str, meaning: &str| {
            let value = match &checkpoint[name] {
                Value::Object(ids) => {
                    let ids = ids.values().filter_map(Value::as_array).flatten();
                    format!("{} IDs", ids.count())
                }
                value => value.as_str().unwrap_or("null").to_owned(),
            };
            println!("{name:16} {value:25} {meaning}");
        };
        line("organization_id", "whose events these are");
        line("last_timestamp", "the newest event delivered");
        line("boundary_start", "the next run looks from here on");
        line("boundary_ids", "delivered since then");
        line("completed_at", "the last complete run");
        Ok(())
    }
}

/// A path as it is typed in the current directory.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here)
        .unwrap_or(path)
        .display()
        .to_string()
}

fn title(text: &str) {
    println!("\n== {text}\n");
}

/// Ends the demonstration unless it shows this.
fn expect(holds: bool, promise: &str) -> Result {
    if holds {
        Ok(())
    } else {
        Err(format!("this did not hold: {promise}").into())
    }
}

/// The events of this list, numbered from `first`.
fn events(first: u64, list: &[Brief], now: UtcDateTime) -> Vec<Event> {
    let event = |(n, &(age, who, [kind, action], on_what)): (u64, &Brief)| {
        let plain = Event::new(n, now - Duration::from_secs(age));
        let mut value: Value = serde_json::from_str(&plain.text).expect("an event is JSON");
        value["auth"]["description"] = who.into();
        value["resource"]["type"] = kind.into();
        value["resource"]["action"] = action.into();
        value["resource"]["meta"] = serde_json::json!({ "workspace": on_what });
        Event::from_json(&value.to_string())
    };
    (first..).zip(list).map(event).collect()
}
