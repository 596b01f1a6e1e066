//! The network between the command and the other side: certificates, proxies, and the ways that
//! secrets may take.

use std::fs;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, date_time_ymd};

use crate::receiver::{Format, Receiver, Rules, Step};
use crate::relay::{Authority, Identity, Relay};
use crate::stand_in::{events, ids};
use crate::support::{AN_HOUR, Bench, Outcome, PROGRAM, now};

/// The names of this machine.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];
/// A host that only a proxy can reach.
const FAR: &str = "source.example.com";

pub fn bench() -> Bench {
    Bench::of(events(30, now(), 1))
}

/// The port of an address that ends in it.
fn port(url: &str) -> u16 {
    let place = url.trim_start_matches("http://");
    let port = place.split('/').next().and_then(|it| it.rsplit_once(':'));
    port.expect("a port").1.parse().expect("a number")
}

/// A run with this endpoint, and without a checkpoint, because the endpoint differs each time.
#[track_caller]
pub fn run(bench: &Bench, endpoint: &str, args: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let mut command = bench.clean(PROGRAM);
    command.args(["--endpoint", endpoint, "--no-checkpoint"]);
    command.args(args).envs(variables.iter().copied());
    bench.start(command).finish()
}

/// Writes a file into the bench's directory and returns its path.
fn write(bench: &Bench, name: &str, content: &str) -> String {
    let path = bench.path(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("it can be made");
    fs::write(&path, content).expect("it can be written");
    path.display().to_string()
}

/// 0.0.0.0 is an address of this machine that is not known as one.
#[test]
fn no_secret_goes_over_plain_http_to_another_machine() {
    let bench = bench();
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let elsewhere = |url: &str| url.replace("127.0.0.1", "0.0.0.0");
    run(&bench, &elsewhere(&bench.api.url()), &[], &[])
        .fails(2, "over https only")
        .asks(0);
    let post = elsewhere(&receiver.url());
    let headers = format!("@{}", write(&bench, "headers", "X-Key: hunter2\n"));
    for header in ["X-Key: hunter2", &headers] {
        let args = ["--post", &post, "--header", header];
        run(&bench, &bench.api.url(), &args, &[])
            .fails(2, "--allow-plain-http")
            .asks(0);
        assert_eq!(receiver.count(), 0);
    }
    let args = ["--post", &post, "--header", &headers, "--allow-plain-http"];
    run(&bench, &bench.api.url(), &args, &[]).code(0).silent();
    assert_eq!(receiver.received()[0].header("x-key"), "hunter2");
    run(&bench, &bench.api.url(), &["--post", &post], &[])
        .code(0)
        .silent();
    assert_eq!(receiver.count(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn other_users_of_the_machine_see_no_secret_of_the_process() {
    let bench = bench();
    // Until the run is killed.
    bench.api.with(|world| world.delay = AN_HOUR);
    write(&bench, "token", "test-token\n");
    write(&bench, "headers", "Authorization: Bearer hunter2\n");
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let url = receiver.url();
    let args = ["--token-file=token", "--header=@headers", "--post", &url];
    let start = || {
        let mut command = bench.command(&args);
        command.env_remove("TFC_ORG_TOKEN");
        bench.start(command)
    };
    let mut running = start();
    running.has_asked(1);
    for name in ["cmdline", "environ", "comm"] {
        let path = format!("/proc/{}/{name}", running.child.id());
        let text = fs::read_to_string(path).expect("it is ours");
        assert!(
            !text.contains("test-token") && !text.contains("hunter2"),
            "{text}"
        );
    }
    running.child.kill().expect("it waits for the answer");
    running.finish();
    bench.api.with(|world| world.delay = Duration::ZERO);
    start().finish().code(0).silent();
    assert_eq!(
        receiver.received()[0].header("authorization"),
        "Bearer hunter2"
    );
}

#[test]
fn an_invalid_token_is_named_by_its_place_and_not_shown() {
    let bench = bench();
    let files = [
        "hunter2\nhunter2",
        "hunter2\r\nX: y",
        "hunter 2",
        "hünter2",
        "hunter2\0",
        "",
    ];
    for token in files {
        write(&bench, "token", token);
        let mut command = bench.command(&["--token-file=token"]);
        command.env_remove("TFC_ORG_TOKEN");
        let run = bench.start(command).finish();
        run.fails(2, "--token-file: the token in token ").asks(0);
        run.holds(!run.stderr.contains("nter"), "it should not be shown");
    }
    let mut command = bench.command(&["--token-file=token\u{1b}[2J\nx"]);
    command.env_remove("TFC_ORG_TOKEN");
    bench
        .start(command)
        .finish()
        .fails(2, r"token\u{1b}[2J\nx: No such file");
}

mod tls {
    use super::*;

    #[test]
    fn an_invalid_certificate_is_refused_with_the_reason() {
        let authority = Authority::new("company");
        let other = Authority::new("stranger");
        let cases = [
            (
                other.certify(&NAMES, |_| {}),
                "an authority that is not trusted here",
            ),
            (
                Identity::self_signed(&NAMES, |_| {}),
                "it is signed by itself",
            ),
            (
                Identity::self_signed(&NAMES, |params| {
                    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                }),
                "it is an authority's own (CA:TRUE)",
            ),
            (
                authority.certify(&NAMES, |params| {
                    params.not_after = date_time_ymd(2021, 1, 2);
                }),
                "it expired at 2021-01-02T00:00:00.000Z",
            ),
            (
                authority.certify(&NAMES, |params| {
                    params.not_before = date_time_ymd(3000, 1, 2);
                }),
                "it is not valid before 3000-01-02T00:00:00.000Z",
            ),
            (
                authority.certify(&["other.example.com"], |_| {}),
                "it is valid for other.example.com, not for localhost",
            ),
            (
                authority.certify(&[], |_| {}),
                "it names no host or address",
            ),
            (
                authority.certify(&NAMES, |params| {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                }),
                "invalid extensions",
            ),
        ];
        for (identity, reason) in cases {
            let bench = bench();
            let trusted = write(&bench, "company.pem", &authority.pem());
            let server = Relay::tls(&identity, None, port(&bench.api.url()));
            let url = format!("https://localhost:{}", server.port());
            let variables = [("SSL_CERT_FILE", trusted.as_str())];
            let source = run(&bench, &url, &[], &variables);
            source
                .fails(5, "the server's certificate is refused: ")
                .says(reason);
            source.holds(!source.stderr.contains("gave up"), "a retry would not help");
            let post = run(&bench, &bench.api.url(), &["--post", &url], &variables);
            post.fails(6, "the server's certificate is refused: ")
                .says(reason);
            assert_eq!(server.heads().len(), 0, "{source}");
        }
    }

    #[test]
    fn an_own_authority_is_trusted_by_file_by_directory_or_by_both() {
        let (authority, other) = (Authority::new("company"), Authority::new("other"));
        let identity = authority.certify(&NAMES, |_| {});
        let bench = bench();
        let server = Relay::tls(&identity, None, port(&bench.api.url()));
        let file = write(&bench, "company.pem", &authority.pem());
        let unlike = write(&bench, "other.pem", &other.pem());
        write(&bench, "certs/any-name.crt", &authority.pem());
        let directory = bench.path("certs").display().to_string();
        let (file, directory) = (
            ("SSL_CERT_FILE", file.as_str()),
            ("SSL_CERT_DIR", directory.as_str()),
        );
        let url = |host| format!("https://{host}:{}", server.port());
        let expected = bench.api.with(|world| world.expected());
        for (host, variables) in [
            ("localhost", &[file][..]),
            ("127.0.0.1", &[file]),
            ("localhost", &[directory]),
            (
                "localhost",
                &[("SSL_CERT_FILE", unlike.as_str()), directory],
            ),
        ] {
            let run = run(&bench, &url(host), &[], variables);
            run.code(0).silent().prints(&expected);
        }
    }

    #[test]
    fn a_machine_without_trusted_certificates_gets_a_remedy() {
        let bench = bench();
        let identity = Authority::new("company").certify(&NAMES, |_| {});
        let server = Relay::tls(&identity, None, port(&bench.api.url()));
        let url = format!("https://localhost:{}", server.port());
        let nonsense = write(&bench, "nonsense.pem", "no certificate");
        for (name, value) in [
            ("SSL_CERT_FILE", "/dev/null"),
            ("SSL_CERT_FILE", "no-such-file"),
            ("SSL_CERT_FILE", ""),
            ("SSL_CERT_FILE", &nonsense),
            ("SSL_CERT_DIR", "no-such-directory"),
        ] {
            run(&bench, &url, &[], &[(name, value)])
                .fails(5, "No CA certificates")
                .says("ca-certificates");
        }
    }

    #[test]
    fn a_server_that_speaks_no_tls_is_recognised() {
        let bench = bench();
        let server = Relay::start(|mut stream, _| {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
            io::copy(&mut stream, &mut io::sink()).map(|_| ())
        });
        let url = format!("https://localhost:{}", server.port());
        let authority = write(&bench, "company.pem", &Authority::new("company").pem());
        run(&bench, &url, &[], &[("SSL_CERT_FILE", &authority)])
            .fails(5, "the server does not speak TLS on this port");
    }

    /// A receiver that asks for a client certificate.
    struct Strict {
        bench: Bench,
        receiver: Receiver,
        server: Relay,
        authority: Authority,
        trusted: String,
    }

    impl Strict {
        fn new() -> Self {
            let bench = bench();
            let receiver = Receiver::start(Format::Ndjson, Rules::default());
            let authority = Authority::new("company");
            let identity = authority.certify(&NAMES, |_| {});
            let server = Relay::tls(&identity, Some(&authority), port(&receiver.url()));
            let trusted = write(&bench, "company.pem", &authority.pem());
            Self {
                bench,
                receiver,
                server,
                authority,
                trusted,
            }
        }

        #[track_caller]
        fn run(&self, args: &[&str]) -> Outcome {
            let url = format!("https://localhost:{}/in", self.server.port());
            let args = [&["--post", &url, "--retries=0"], args].concat();
            let variables = [("SSL_CERT_FILE", self.trusted.as_str())];
            run(&self.bench, &self.bench.api.url(), &args, &variables)
        }
    }

    #[test]
    fn a_receiver_that_asks_for_a_certificate_gets_it() {
        let strict = Strict::new();
        let client = strict.authority.certify(&["tfc-audit"], |_| {});
        let stranger = Authority::new("stranger").certify(&["tfc-audit"], |_| {});
        let certificate = write(&strict.bench, "client.pem", &client.certificate_pem());
        let key = write(&strict.bench, "client.key", &client.key_pem());
        let of_stranger = write(&strict.bench, "other.pem", &stranger.certificate_pem());
        let key_of_stranger = write(&strict.bench, "other.key", &stranger.key_pem());
        let both = write(
            &strict.bench,
            "both.key",
            &(client.key_pem() + &client.certificate_pem()),
        );

        // The server refuses while the client sends: the client sees the alert or a reset.
        let run = strict.run(&[]);
        let told = ["does the server ask for a client certificate", "broke off"];
        run.code(6).holds(
            told.iter().any(|it| run.stderr.contains(it)),
            "it should say why",
        );
        let run = strict.run(&[
            "--client-cert",
            &of_stranger,
            "--client-key",
            &key_of_stranger,
        ]);
        let told = [
            "does the server ask for a client certificate",
            "accept the client certificate",
        ];
        run.code(6).holds(
            told.iter().any(|it| run.stderr.contains(it)),
            "it should say why",
        );
        assert_eq!(strict.receiver.count(), 0);

        strict
            .run(&["--client-cert", &certificate, "--client-key", &key])
            .code(0)
            .silent();
        let all = strict.bench.api.with(|world| world.expected());
        assert_eq!(strict.receiver.delivered_ids(), ids(&all));
        strict
            .run(&["--client-cert", &both, "--client-key", &both])
            .code(0)
            .silent();
    }

    /// ureq would panic at some of these.
    #[test]
    fn a_certificate_and_a_key_that_do_not_fit_are_usage_errors() {
        let strict = Strict::new();
        let [client, other] = [(); 2].map(|()| strict.authority.certify(&["tfc-audit"], |_| {}));
        let at = |name: &str, content: &str| write(&strict.bench, name, content);
        let certificate = at("client.pem", &client.certificate_pem());
        let key = at("client.key", &client.key_pem());
        let other_key = at("other.key", &other.key_pem());
        let damage = |pem: &str| {
            let lines: Vec<_> = pem.lines().collect();
            [
                &lines[..1],
                &["A".repeat(lines[1].len()).as_str()],
                &lines[2..],
            ]
            .concat()
            .join("\n")
        };
        let broken = at("broken.pem", &damage(&client.certificate_pem()));
        let broken_key = at("broken.key", &damage(&client.key_pem()));
        let encrypted = at(
            "encrypted.key",
            &client.key_pem().replace("PRIVATE", "ENCRYPTED PRIVATE"),
        );
        let empty = at("empty.pem", "");
        for (certificate, key, fault) in [
            (
                &certificate,
                &other_key,
                "is not the key of the certificate in",
            ),
            (&certificate, &certificate, "--client-key: "),
            (&certificate, &encrypted, "an encrypted one cannot be used"),
            (&certificate, &broken_key, "--client-key: "),
            (&certificate, &empty, "holds no private key"),
            (&key, &key, "holds no certificate"),
            (&broken, &key, "holds no valid certificate"),
            (&empty, &key, "holds no certificate"),
            (
                &"no-such-file".to_owned(),
                &key,
                "--client-cert: no-such-file: No such file",
            ),
            (
                &certificate,
                &"no-such-file".to_owned(),
                "--client-key: no-such-file: No such file",
            ),
        ] {
            let run = strict.run(&["--client-cert", certificate, "--client-key", key]);
            run.fails(2, fault).asks(0);
        }
        assert_eq!(strict.server.heads().len(), 0);
    }
}

mod proxies {
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
}
