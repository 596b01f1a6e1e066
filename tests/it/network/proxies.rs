//! Proxies: their choice, their credentials, and faults on the way.

use super::*;

/// `us@er:hunter2%` in base 64, as a proxy receives it.
const CREDENTIALS: &str = "dXNAZXI6aHVudGVyMiU=";
/// The same as a variable has it.
const ENCODED: &str = "us%40er:hunter2%25";
/// An address where nothing listens.
const NOBODY: &str = "http://127.0.0.1:1";

/// A service and a receiver with names that only proxies know.
struct Far {
    bench: Bench,
    receiver: Receiver,
    service: Relay,
    trusted: String,
}

impl Far {
    fn new() -> Self {
        let bench = bench();
        let authority = Authority::new("company");
        let identity = authority.certify(&[FAR, "0.0.0.0", "localhost"], |_| {});
        let service = Relay::tls(&identity, None, port(&bench.api.url()));
        let trusted = write(&bench, "company.pem", &authority.pem());
        let receiver = Receiver::start(Format::Ndjson, Rules::default());
        Self {
            bench,
            receiver,
            service,
            trusted,
        }
    }

    /// A proxy that connects to the service.
    fn proxy(&self, credentials: Option<&'static str>) -> Relay {
        Relay::proxy(credentials, self.service.port())
    }

    #[track_caller]
    fn run(&self, host: &str, args: &[&str], variables: &[(&str, &str)]) -> Outcome {
        let variables = [variables, &[("SSL_CERT_FILE", &self.trusted)]].concat();
        let args = [&["--retries=0"], args].concat();
        run(&self.bench, &format!("https://{host}"), &args, &variables)
    }

    #[track_caller]
    fn is_complete(&self, run: &Outcome) {
        run.code(0)
            .silent()
            .prints(&self.bench.api.with(|world| world.expected()));
    }
}

/// The service is an https address and the receiver an http one.
#[test]
fn service_and_receiver_each_have_their_own_proxy() {
    let far = Far::new();
    let to_receiver = || Relay::proxy(None, port(&far.receiver.url()));
    for (https, http) in [
        ("HTTPS_PROXY", "HTTP_PROXY"),
        ("https_proxy", "http_proxy"),
        ("HTTPS_PROXY", "ALL_PROXY"),
        ("all_proxy", "http_proxy"),
    ] {
        let (a, b) = (far.proxy(None), to_receiver());
        let before = far.receiver.count();
        let args = ["--post", "http://siem.example.com:8088/in"];
        let variables = [(https, a.url()), (http, b.url())];
        let variables = variables
            .each_ref()
            .map(|(name, url)| (*name, url.as_str()));
        let run = far.run(FAR, &args, &variables);
        run.code(0).silent();
        assert_eq!(far.receiver.count(), before + 1, "{run}");
        assert!(
            a.lines()
                .iter()
                .all(|line| line == "CONNECT source.example.com:443 HTTP/1.1")
        );
        assert_eq!(b.lines(), ["CONNECT siem.example.com:8088 HTTP/1.1"]);
        // The token goes through the tunnel, and the proxy does not see it.
        for head in a.heads().into_iter().chain(b.heads()) {
            assert!(!head.headers.contains_key("authorization"), "{head:?}");
        }
    }
}

#[test]
fn only_the_proxy_gets_its_credentials() {
    let far = Far::new();
    let proxy = far.proxy(Some(CREDENTIALS));
    let address = proxy
        .url()
        .replace("http://", &format!("http://{ENCODED}@"));
    far.is_complete(&far.run(FAR, &[], &[("HTTPS_PROXY", &address)]));
    assert!(
        far.service
            .heads()
            .iter()
            .all(|head| !head.headers.contains_key("proxy-authorization"))
    );
    for wrong in ["", "http://us%40er:hunter2x@", "http://hunter2@"] {
        let proxy = far.proxy(Some(CREDENTIALS));
        let address = proxy.url().replace("http://", wrong);
        far.run(FAR, &["--retries=3"][..0], &[("https_proxy", &address)])
            .fails(
                5,
                "the proxy answered 407: it needs a user name and a password, so set $https_proxy",
            )
            .asks(0);
        assert_eq!(proxy.heads().len(), 1, "a retry could lock the user out");
    }
}

#[test]
fn credentials_of_a_proxy_that_come_back_are_masked() {
    let far = Far::new();
    let said = format!("you sent Proxy-Authorization: Basic {CREDENTIALS} for us@er:hunter2%");
    let echo = Step::answer(502, &[], &said);
    far.receiver.with(|rules| rules.script.push_back(echo));
    let to_receiver = Relay::proxy(Some(CREDENTIALS), port(&far.receiver.url()));
    let address = to_receiver.url().replace("//", &format!("//{ENCODED}@"));
    let to_service = far.proxy(None);
    let service = to_service.url();
    let variables = [("HTTPS_PROXY", &*service), ("HTTP_PROXY", &*address)];
    far.run(FAR, &["--post", "http://siem.example.com/in"], &variables)
        .fails(6, "Basic *** for us@er:***");
}

#[test]
fn loopback_addresses_and_hosts_of_no_proxy_are_never_proxied() {
    let far = Far::new();
    let everywhere = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"].map(|name| (name, NOBODY));
    let service = format!("localhost:{}", far.service.port());
    let args = ["--post", &far.receiver.url()];
    far.run(&service, &args, &everywhere).code(0).silent();
    assert_eq!(far.receiver.count(), 1);

    // Another address of this machine, for which only NO_PROXY avoids the proxy.
    let service = format!("0.0.0.0:{}", far.service.port());
    let exempt = [
        ("HTTPS_PROXY", NOBODY),
        ("NO_PROXY", "example.com, 0.0.0.0/8"),
    ];
    far.is_complete(&far.run(&service, &[], &exempt));
    far.run(&service, &[], &exempt[..1])
        .fails(5, "through the proxy http://127.0.0.1:1");
}

#[test]
fn a_variable_that_names_no_proxy_is_a_usage_error() {
    let far = Far::new();
    for value in [
        "http://us:hunter2@127.0.0.1:port",
        "socks5://us:hunter2@127.0.0.1:1",
        "http://us:hunter2/@127.0.0.1:1",
        "http://",
    ] {
        let run = far.run(FAR, &[], &[("HTTPS_PROXY", value)]);
        run.fails(2, "$HTTPS_PROXY ").asks(0);
        // An address that needs no proxy does not use the variable.
        far.is_complete(&far.run(
            &format!("localhost:{}", far.service.port()),
            &[],
            &[("HTTPS_PROXY", value)],
        ));
    }
}

/// A proxy that answers CONNECT with `bytes`.
fn saying(bytes: &'static [u8]) -> Relay {
    Relay::answering(move |stream| stream.write_all(bytes))
}

#[test]
fn a_proxy_that_does_not_connect_is_named_with_the_reason() {
    let far = Far::new();
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(200));
    let cases: [(Relay, &str, bool); 8] = [
        (
            saying(b"HTTP/1.1 403 Forbidden\r\n\r\nno"),
            "the proxy answered 403",
            true,
        ),
        (
            saying(b"HTTP/1.1 302 Go\r\nLocation: http://portal.example.com/?hunter2\r\n\r\n"),
            "the proxy answered 302",
            true,
        ),
        (
            saying(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
            "the proxy answered 502",
            false,
        ),
        (saying(b"\x1b[2J<html>"), "not valid HTTP", false),
        (
            saying(b"HTTP/1.1 200 \x1b[2J\r\n\r\n"),
            "not valid HTTP",
            false,
        ),
        (saying(b""), "proxy", false),
        (saying(many.leak().as_bytes()), "not valid HTTP", false),
        (
            Relay::answering(|stream| {
                loop {
                    stream.write_all(&[b'a'; 1000])?;
                }
            }),
            "not valid HTTP",
            false,
        ),
    ];
    for (proxy, reason, permanent) in cases {
        let address = proxy.url();
        let run = far.run(FAR, &[], &[("HTTPS_PROXY", &address)]);
        run.fails(5, &format!("through the proxy {address}: "))
            .says(reason);
        run.holds(
            run.stderr.contains("gave up") != permanent,
            "only a temporary failure is retried",
        );
    }
}

/// ureq allows the whole time again for each byte of such an answer.
#[test]
fn a_proxy_that_answers_byte_by_byte_is_left_in_time_and_a_retry_works() {
    let far = Far::new();
    let (first, service) = (AtomicBool::new(true), far.service.port());
    let proxy = Relay::start(move |mut stream, note| {
        if first.swap(false, Ordering::Relaxed) {
            stream.write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
            loop {
                stream.write_all(b"a")?;
                thread::sleep(Duration::from_millis(50));
            }
        }
        Relay::connect(stream, None, service, note)
    });
    let mut command = far.bench.clean(PROGRAM);
    let endpoint = format!("https://{FAR}");
    command.args(["--no-checkpoint", "--timeout=2s", "--endpoint", &endpoint]);
    command.envs([
        ("HTTPS_PROXY", proxy.url()),
        ("SSL_CERT_FILE", far.trusted.clone()),
    ]);
    far.is_complete(&far.bench.start(command).finish());
}
