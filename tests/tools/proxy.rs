//! The way through a real proxy: tinyproxy, with a password and without one.

use std::fs;
use std::process::Command;

use crate::needs::{found, tinyproxy};
use crate::receiver::{Format, Receiver, Rules};
use crate::relay::{Authority, Relay};
use crate::server::Server;
use crate::stand_in::{events, ids};
use crate::support::{Bench, PROGRAM, free_port, now};

/// A name of this machine that the proxy can find. The program takes it for another machine, and
/// so uses the proxy.
const ELSEWHERE: &str = "0.0.0.0";

pub fn tinyproxy_connects_with_the_right_password() {
    for password in [None, Some("hunter2")] {
        let bench = Bench::of(events(30, now(), 1));
        let authority = Authority::new("company");
        let identity = authority.certify(&[ELSEWHERE], |_| {});
        let trusted = bench.path("company.pem");
        fs::write(&trusted, authority.pem()).unwrap();
        let url = bench.api.url();
        let (_, behind) = url.rsplit_once(':').unwrap();
        let service = Relay::tls(&identity, None, behind.parse().unwrap());
        let receiver = Receiver::start(Format::Ndjson, Rules::default());

        let (port, dir) = (free_port(), bench.path("").display().to_string());
        let auth = password.map_or(String::new(), |it| format!("BasicAuth user {it}\n"));
        let content = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 10\nPidFile \"{dir}/pid\"\n{auth}"
        );
        fs::write(bench.path("headers.conf"), content).unwrap();
        let mut command = Command::new(found(tinyproxy));
        command.args(["-d", "-c", "headers.conf"]);
        let _proxy = Server::start(&bench.path(""), "tinyproxy", port, command);

        let run = |user: &str| {
            let address = format!("http://{user}127.0.0.1:{port}");
            let endpoint = format!("https://{ELSEWHERE}:{}", service.port());
            let receiver_url = receiver.url().replace("127.0.0.1", ELSEWHERE);
            let mut command = bench.clean(PROGRAM);
            command.args(["--no-checkpoint", "--retries=0", "--endpoint", &endpoint]);
            command.args(["--post", &receiver_url]);
            command.env("SSL_CERT_FILE", &trusted);
            command
                .env("HTTPS_PROXY", &address)
                .env("http_proxy", &address);
            bench.start(command).finish()
        };
        if let Some(password) = password {
            for user in ["", "user:hunter2x@", "other:hunter2@"] {
                run(user).fails(5, "the proxy answered 40");
            }
            run(&format!("user:{password}@")).code(0).silent();
        } else {
            run("").code(0).silent();
        }
        assert_eq!(receiver.count(), 1);
        let all = bench.api.with(|world| world.expected());
        assert_eq!(receiver.delivered_ids(), ids(&all));
    }
}
