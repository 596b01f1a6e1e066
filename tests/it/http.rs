//! The service's answers other than pages: refusals, temporary failures, and nonsense.

use std::time::Duration;

use crate::stand_in::{Step, World, events};
use crate::support::{Bench, at_once, minutes_ago, now};

/// 250 events, and a step for each of the first requests.
fn bench(steps: impl IntoIterator<Item = Step>) -> Bench {
    let mut world = World::new(events(250, now(), 2));
    for (request, step) in (1..).zip(steps) {
        world.script(request, step);
    }
    Bench::new(world)
}

/// An answer with this status, header and body.
fn status(code: u16, header: (&str, &str), body: &str) -> Step {
    Step::Status {
        code,
        headers: vec![(header.0.to_owned(), header.1.to_owned())],
        body: body.to_owned(),
    }
}

#[test]
fn a_refused_token_exits_4() {
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
fn each_request_names_the_program_and_carries_the_token() {
    let bench = bench([]);
    for asked in &bench.run(&[]).asked {
        let agent = concat!("tfc-audit/", env!("CARGO_PKG_VERSION"));
        assert_eq!(asked.header("user-agent"), agent);
        assert_eq!(asked.header("authorization"), "Bearer test-token");
        assert!(asked.header("accept-encoding").contains("gzip"));
    }
}

/// At the first page or the last, a retry after a temporary failure loses and repeats nothing.
macro_rules! is_retried {
    ($($name:ident: $step:expr, $timeout:expr;)*) => {$(
        #[test]
        fn $name() {
            at_once([1, 3], |request| {
                let bench = bench([]);
                bench.script(request, $step);
                let run = bench.run(&["--page-size=100", $timeout]);
                run.code(0).silent();
                run.holds(run.asked.len() >= 4, "it should ask once more than for three pages");
                bench.has_all();
                bench.is_settled();
            });
        }
    )*};
}

is_retried! {
    an_answer_that_does_not_come_is_retried: Step::Stall(Duration::from_secs(3)), "--timeout=1s";
    a_body_that_trickles_is_retried: Step::Trickle(Duration::from_secs(3)), "--timeout=1s";
}

#[test]
fn a_failure_that_stays_exits_5() {
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

/// The beginning of such an answer is shown on one line.
#[test]
fn an_undocumented_answer_is_shown() {
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
        bench.run(&["--retries=0"]).fails(5, shown).asks(1);
        bench.delivers_all();
    }
}

/// The rate limit is one for all connections. Until the 429 has arrived, each of the three others may
/// send two more requests; without a pause they send twelve.
#[test]
fn a_429_pauses_all_connections_for_the_time_that_it_names_or_for_a_second() {
    let named = &[("x-ratelimit-reset", "2")][..];
    at_once([(named, 2), (&[], 1)], |(headers, seconds)| {
        let bench = Bench::new(World {
            delay: Duration::from_millis(100),
            ..World::new(events(2_000, minutes_ago(1), 2))
        });
        bench.script(10, Step::rate_limited(headers));
        let run = bench.run(&["--page-size=100", "--connections=4"]);
        run.code(0).silent();
        let (limited, later) = (&run.asked[9], &run.asked[10..]);
        let end = limited.at + Duration::from_secs(seconds);
        let during_pause = later.iter().take_while(|asked| asked.at < end).count();
        run.holds(
            during_pause <= 6 && later.len() > 10,
            format_args!("{during_pause} requests came during the pause"),
        );
        bench.has_all();
    });
}

/// Without it each 429 would slow the run down further.
#[test]
fn a_limit_that_only_a_429_names_sets_the_pace() {
    let bench = Bench::of(events(1_500, minutes_ago(1), 2));
    let named = [("x-ratelimit-limit", "10"), ("x-ratelimit-reset", "0.01")];
    bench.script(1, Step::rate_limited(&named));
    let run = bench.run(&["--page-size=100"]);
    run.code(0).silent();
    // Nine a second.
    let took = run.asked[11].at.saturating_sub(run.asked[1].at);
    run.holds(took >= Duration::from_millis(950), format_args!("{took:?}"));
}

/// Some proxies repeat the request on their error pages, and in redirects.
#[test]
fn a_token_that_the_answer_repeats_is_not_shown() {
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
