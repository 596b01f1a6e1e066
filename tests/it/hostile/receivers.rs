//! Hostile receivers, and redirects.

use super::*;

#[test]
fn redirects_are_not_followed_and_shown_without_secrets() {
    let elsewhere = Relay::answering(answer(200, "", page("")));
    let host = elsewhere.url().replace("http://", "");
    let locations = [
        (
            301,
            format!("http://hunter2:hunter2@{host}/login?hunter2#hunter2"),
            format!("http://{host}/login;"),
        ),
        (
            302,
            format!("//hunter2@{host}?hunter2"),
            format!("//{host};"),
        ),
        (303, "/login?hunter2".to_owned(), "/login;".to_owned()),
        (
            307,
            "/\u{9b}2J\u{e9}#hunter2".to_owned(),
            r"/\u{9b}2Jé;".to_owned(),
        ),
        (308, elsewhere.url(), format!("{};", elsewhere.url())),
    ];
    for (code, location, shown) in locations {
        let header = format!("Location: {location}\r\n");
        let reason = format!("answered {code} to {shown}");
        the_service(answer(code, &header, ""), 5, &reason);
        let reason = format!("answered {code}: it leads to {shown}");
        the_receiver(answer(code, &header, ""), &["ndjson"], 7, &reason);
    }
    assert_eq!(elsewhere.heads().len(), 0);
}

#[test]
fn endless_bodies_of_a_receiver_end_the_run() {
    let judged = &["elasticsearch", "splunk-hec"][..];
    // These formats are acknowledged by the status alone.
    let by_status = &["ndjson", "json-array"][..];
    let large = "the answer is larger than 16 MiB";
    let late = "no complete answer in time";
    let busy = "answered 503: busy busy";
    let blanks = vec![b' '; 1 << 16];
    let open = "HTTP/1.1 200 OK\r\n\r\n{";
    let unavailable = "HTTP/1.1 503 No\r\n\r\nbusy";
    let cases = [
        (endless(open, blanks.clone(), 0), judged, 6, large),
        (answer(200, GZIP, bomb("{", 40)), judged, 6, large),
        (endless(open, " ", 50), judged, 6, late),
        (endless(open, blanks, 0), by_status, 0, ""),
        (endless(open, " ", 50), by_status, 0, ""),
        (endless(unavailable, " busy", 50), by_status, 6, busy),
    ];
    at_once(cases, |(answer, formats, code, reason)| {
        the_receiver_within(SOON, answer, formats, code, reason);
    });
}

#[test]
fn hostile_answers_of_a_receiver_refuse_the_batch() {
    let items = |item: &str| format!(r#"{{"errors":true,"items":[{item}]}}"#);
    let refused = r#"{"create":{"status":400,"error":{"reason":"@"}}}"#;
    let long = refused.replace('@', &"r".repeat(1 << 20));
    for (body, code) in [
        (
            items(&vec![r#"{"create":{"status":400}}"#; 300_000].join(",")),
            7,
        ),
        (items(&vec!["{}"; 5_000_000].join(",")), 7),
        (items(&nested(1_000_000)), 7),
        (items(&[long.as_str(); 5].join(",")), 7),
        (nested(1_000_000), 7),
        ("\0".repeat(1000), 7),
    ] {
        the_receiver(answer(200, "", body), &["elasticsearch"], code, "answered ");
    }
    for body in [
        format!(r#"{{"code":{}}}"#, nested(1_000_000)),
        format!(r#"{{"code":{}}}"#, "9".repeat(1 << 20)),
    ] {
        the_receiver(answer(200, "", body), &["splunk-hec"], 7, "answered 200: ");
    }
}
