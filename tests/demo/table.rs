//! Events as a table: when, who, what, on what.

use serde_json::Value;

/// Prints the events of an NDJSON output, in its order, below a head.
pub fn print(ndjson: &str) {
    row(["TIME", "WHO", "WHAT", "ON WHAT"]);
    for line in ndjson.lines() {
        let event: Value = serde_json::from_str(line).expect("an event is JSON");
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        let time = text("/timestamp").and_then(|time| time.get(11..19));
        let who = match text("/auth/type") {
            Some("System") => Some("(system)"),
            _ => text("/auth/description"),
        };
        let [kind, action] = ["/resource/type", "/resource/action"].map(&text);
        let what = format!("{} {}", kind.unwrap_or("?"), action.unwrap_or("?"));
        // Events name their object in different ways.
        let names = ["workspace/name", "workspace", "payload/workspace/name"]
            .into_iter()
            .chain(["user", "team", "task_name", "deployment", "organization"])
            .find_map(|name| text(&format!("/resource/meta/{name}")));
        let on_what = names.or(text("/resource/id"));
        row([
            time.unwrap_or("?"),
            who.unwrap_or("?"),
            &what,
            on_what.unwrap_or("?"),
        ]);
    }
}

fn row([time, who, what, on_what]: [&str; 4]) {
    let who: String = who.chars().take(14).collect();
    println!("{time:8}  {who:14}  {what:31}  {on_what}");
}
