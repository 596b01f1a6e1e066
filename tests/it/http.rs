//! What the API answers other than pages: refusals, failures that pass, and nonsense.

use std::time::Duration;

use crate::stand_in::{Step, World, events};
use crate::support::{Bench, PROGRAM, minutes_ago, now};

/// 250 events, and what becomes of the first requests.
fn bench(steps: impl IntoIterator<Item = Step>) -> Bench {
    let mut world = World::new(events(250, now(), 2));
    for (request, step) in (1..).zip(steps) {
        world.script(request, step);
    }
    Bench::new(world)
}

/// This status with this body and header.
fn status(code: u16, header: (&str, &str), body: &str) -> Step {
    Step::Status {
        code,
        headers: vec![(header.0.to_owned(), header.1.to_owned())],
        body: body.to_owned(),
    }
}

#[test]
fn a_refused_token_is_an_error_of_its_own() {
    for (code, title) in [
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not found"),
    ] {
        let bench = bench([Step::error(code, title)]);
        let run = bench.run(&["-v"]);
        run.code(4).prints_nothing().asks(1);
        let named = format!("answered {code}: {{\"errors\":[{{\"status\":\"{code}\"");
        run.holds(
            run.stderr.contains(&named),
            format_args!("stderr should have {named}"),
        );
        bench.delivers_all();
    }
}

#[test]
fn a_refusal_in_the_middle_leaves_what_was_delivered() {
    let bench = bench([]);
    bench.script(18, Step::error(401, "unauthorized"));
    let run = bench.run(&["--page-size=10"]);
    run.code(4).says("401");
    run.holds(
        !run.stdout.is_empty(),
        "a stride should have been delivered",
    );
    bench.delivers_all();
}

#[test]
fn a_page_says_who_asks_and_how() {
    let bench = bench([]);
    for asked in &bench.run(&[]).asked {
        let agent = concat!("tfc-audit/", env!("CARGO_PKG_VERSION"));
        assert_eq!(asked.header("user-agent"), agent);
        assert_eq!(asked.header("authorization"), "Bearer test-token");
        assert!(asked.header("accept-encoding").contains("gzip"));
    }
}

/// What passes, at the first page or the last, is waited out, and nothing of the page is lost or repeated.
macro_rules! passes {
    ($($name:ident: $step:expr;)*) => {$(
        #[test]
        fn $name() {
            for request in [1, 3] {
                let bench = bench([]);
                bench.script(request, $step);
                let run = bench.run(&["--page-size=100", "--timeout=1s"]);
                run.code(0).silent().asks(4);
                bench.has_all();
                bench.is_settled();
            }
        }
    )*};
}

passes! {
    a_503_passes: Step::error(503, "unavailable");
    a_500_passes: Step::error(500, "internal error");
    a_408_passes: Step::error(408, "timeout");
    a_429_without_a_time_passes: Step::rate_limited(&[]);
    a_reset_passes: Step::Reset;
    a_truncated_body_passes: Step::Truncate;
    a_body_that_just_ends_passes: Step::Body(r#"{"data":[{"id":"a","#.to_owned());
    a_stall_passes: Step::Stall(Duration::from_secs(3));
    a_body_that_trickles_for_too_long_passes: Step::Trickle(Duration::from_secs(3));
}

#[test]
fn a_wait_that_is_named_is_honoured() {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let dated = Step::Status {
        code: 503,
        headers: vec![
            header("Date", "Fri, 02 Jan 2026 03:04:05 GMT"),
            header("Retry-After", "Fri, 02 Jan 2026 03:04:06 GMT"),
        ],
        body: String::new(),
    };
    let second = Duration::from_secs(1);
    let named = [
        (Step::rate_limited(&[("Retry-After", "1")]), second),
        (
            Step::rate_limited(&[("x-ratelimit-reset", "0.75")]),
            second * 3 / 4,
        ),
        (dated, second),
    ];
    for (step, wait) in named {
        let bench = bench([step]);
        bench.run(&[]).code(0).silent().asks(2).waits_after(1, wait);
        bench.has_all();
    }
}

/// A run that sleeps for hours only holds the lock.
#[test]
fn a_named_wait_of_hours_is_not_sat_out() {
    let bench = bench([Step::rate_limited(&[("Retry-After", "7200")])]);
    bench.run(&[]).fails(5, "7200 s").asks(1);
    bench.delivers_all();
}

#[test]
fn a_failure_that_stays_ends_the_run() {
    let bench = bench([]);
    bench
        .api
        .with(|world| world.always = Some((1, Step::error(503, "unavailable"))));
    bench
        .run(&["--retries=2"])
        .fails(5, "gave up after 3 attempts")
        .asks(3);
    bench.api.with(|world| world.always = None);
    bench.delivers_all();
}

#[test]
fn an_api_that_does_not_answer_is_an_error() {
    let bench = bench([]);
    let mut command = bench.clean(PROGRAM);
    command.args([
        "-c",
        "checkpoint.json",
        "--retries=0",
        "--endpoint",
        "http://127.0.0.1:1",
    ]);
    bench.start(command).finish().fails(5, "127.0.0.1:1");
}

/// Answers that will be the same next time: one line that shows what they began with.
#[test]
fn nonsense_is_shown_and_not_tried_again() {
    let html = "<!DOCTYPE html>\r\n<html>\x1b[2J<title>Sign in</title>";
    let event = r#"{"data":[{"id":"a","timestamp":"noon"}],"pagination":{}}"#;
    let answers = [
        (
            Step::Body(html.to_owned()),
            r"<!DOCTYPE html>\r\n<html>\u{1b}[2J<title>Sign in",
        ),
        (
            Step::Body(r#"{"data":[]}"#.to_owned()),
            "missing field `pagination`",
        ),
        (
            Step::Body(r#"{"pagination":{}}"#.to_owned()),
            "missing field `data`",
        ),
        (
            Step::Body(event.to_owned()),
            "event 1 of the page is not as documented (timestamp is not RFC 3339)",
        ),
        (status(204, ("X-Any", "1"), ""), "answered 204"),
        (
            status(501, ("X-Any", "1"), html),
            r"answered 501: <!DOCTYPE html>\r\n",
        ),
        (Step::error(400, "invalid since"), "answered 400"),
        (Step::error(422, "unprocessable"), "answered 422"),
    ];
    for (step, shown) in answers {
        let bench = bench([step]);
        bench.run(&[]).fails(5, shown).asks(1);
        bench.delivers_all();
    }
}

/// The rate limit is one for all connections: what one is told, all keep, and all wait a second if
/// it is not told for how long.
#[test]
fn a_429_slows_all_connections() {
    a_429_makes_them_wait(
        &[("x-ratelimit-reset", "1.5")],
        Duration::from_millis(1_500),
    );
    a_429_makes_them_wait(&[], Duration::from_secs(1));
}

fn a_429_makes_them_wait(headers: &[(&str, &str)], pause: Duration) {
    let bench = Bench::new(World {
        delay: Duration::from_millis(100),
        ..World::new(events(2_000, minutes_ago(1), 2))
    });
    bench.script(10, Step::rate_limited(headers));
    let run = bench.run(&["--page-size=100", "--connections=4"]);
    run.code(0).silent();
    let told = run.asked[9].at;
    // The answer takes its time, and those that were on their way may still arrive.
    let quiet = told + Duration::from_millis(190)..told + pause;
    let late = run.asked.iter().filter(|asked| quiet.contains(&asked.at));
    let late = late.count();
    run.holds(
        late == 0 && run.asked.len() > 20,
        format_args!("{late} requests came during the pause"),
    );
    bench.has_all();
}

/// No redirect takes the token anywhere, and what follows the `?` may be a secret too.
#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = bench([]);
    let location = format!("{}/login?code=hunter2#hunter2", elsewhere.api.url());
    for code in [301, 302, 303, 307, 308] {
        let bench = bench([status(code, ("Location", &location), "")]);
        let run = bench.run(&[]);
        run.fails(
            5,
            &format!("answered {code} to {}/login;", elsewhere.api.url()),
        )
        .asks(1);
        run.holds(
            !run.stderr.contains("hunter2"),
            "the query should not be shown",
        );
        assert_eq!(elsewhere.api.count(), 0, "{run}");
    }
}

/// Some proxies' error pages repeat the request, and some redirects.
#[test]
fn an_answer_that_repeats_the_token_does_not_show_it() {
    let moved = bench([status(302, ("Location", "/login/test-token/x"), "")]);
    moved.run(&[]).fails(5, "answered 302 to /login/***/x;");
    for code in [200, 400, 401, 503] {
        let repeated = "Authorization: Bearer test-token";
        let bench = bench([status(code, ("X-Any", repeated), repeated)]);
        let run = bench.run(&["--retries=0", "-v"]);
        run.holds(!run.stderr.is_empty(), "it should say why it failed")
            .asks(1);
    }
}
