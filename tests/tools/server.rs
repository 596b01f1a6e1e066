//! Servers that run beside a test.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::needs::{found, nginx, tenzir};
use crate::support::{Bench, free_port};

/// A server that takes longer to listen or to write does not work. Long enough for a machine that
/// other builds keep busy.
pub const TOO_LONG: Duration = Duration::from_secs(600);

/// A server that ends with the test.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    /// Starts a command in `dir` and waits until it listens at this port.
    pub fn start(dir: &Path, name: &str, port: u16, mut command: Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let output = || File::create(&log).expect("a log can be made");
        command
            .current_dir(dir)
            .env("HOME", dir)
            .stdin(Stdio::null());
        let child = command.stdout(output()).stderr(output()).spawn();
        let mut server = Self {
            child: child.expect("the server can be started"),
            port,
        };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait().expect("a child can be waited for");
            if ended.is_some() || began.elapsed() > TOO_LONG {
                let log = fs::read_to_string(&log).unwrap_or_default();
                panic!("{name} does not listen ({ended:?}): {log}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Tenzir with this input, which writes each event to the file `stored`.
    pub fn tenzir(bench: &Bench, source: impl Fn(u16) -> String) -> Self {
        let (port, stored) = (free_port(), bench.path("stored"));
        let source = source(port);
        let stored = stored.display();
        let mut command = Command::new(found(tenzir));
        command.arg(format!("{source}\nto_file \"{stored}\" {{ write_ndjson }}"));
        Self::start(&bench.path(""), "tenzir", port, command)
    }

    /// nginx that passes requests on to the port `behind`, as these lines say.
    pub fn nginx(bench: &Bench, behind: u16, listen: &str, lines: &str) -> Self {
        let (port, dir) = (free_port(), bench.path("").display().to_string());
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|name| format!("{name}_temp_path {dir}/nginx-{name};"));
        let text = format!(
            "daemon off; master_process off; pid {dir}/nginx.pid; error_log stderr;
            events {{}}
            http {{
                access_log off; {}
                server {{
                    listen 127.0.0.1:{port} {listen}; {lines}
                    location / {{ proxy_pass http://127.0.0.1:{behind}; }}
                }}
            }}",
            temporary.join(" ")
        );
        let path = bench.path("nginx.conf");
        fs::write(&path, text).expect("it can be written");
        let mut command = Command::new(found(nginx));
        command.args(["-e", "stderr", "-c"]).arg(path);
        Self::start(&bench.path(""), "nginx", port, command)
    }

    /// The address of a path at this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}
