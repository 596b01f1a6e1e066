//! Certificates: whom the command trusts, and how it shows its own.

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
            r#"not valid for name "localhost"; certificate is only valid for DnsName("other.example.com")"#,
        ),
        (authority.certify(&[], |_| {}), "not valid for any names"),
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
