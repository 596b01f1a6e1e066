//! Relays between the command and the stand-ins: a TLS server with certificates of its own
//! authority, a proxy, or a peer that answers as a test likes.
//!
//! Each is a [`Relay`], which serves every connection with one function, in its own thread.

#![allow(dead_code, reason = "each test target that includes this uses a part")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, crypto::ring};

/// A peer that takes longer hangs, even on a busy machine.
const TOO_LONG: Duration = Duration::from_secs(600);

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Head {
    /// The first line.
    pub line: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The whole head as it was received.
    text: String,
}

impl Head {
    /// Reads a head. `None` if the peer sends no more.
    pub fn read(reader: &mut impl BufRead) -> Option<Self> {
        let mut text = String::new();
        while !text.ends_with("\r\n\r\n") {
            if reader.read_line(&mut text).ok()? == 0 {
                return None;
            }
        }
        let mut lines = text.lines();
        let line = lines.next()?.to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        let headers = headers.collect();
        Some(Self {
            line,
            headers,
            text,
        })
    }

    /// Reads the body of the request, if it has a `Content-Length`.
    pub fn read_body(&self, reader: &mut impl Read) -> io::Result<Vec<u8>> {
        let length = self.headers.get("content-length");
        let length = length.map_or(Ok(0), |length| length.parse());
        let mut body = vec![0; length.map_err(io::Error::other)?];
        reader.read_exact(&mut body)?;
        Ok(body)
    }
}

/// A listener on the loopback address, until it is dropped.
pub struct Relay {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    /// The heads of the requests that were read.
    heads: Arc<Mutex<Vec<Head>>>,
}

impl Relay {
    /// Serves each connection with `serve`, which may fail: the peer can leave at any time.
    pub fn start<S>(serve: S) -> Self
    where
        S: Fn(TcpStream, &dyn Fn(&Head)) -> io::Result<()> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let stopping = Arc::new(AtomicBool::new(false));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let relay = Self {
            address,
            stopping: Arc::clone(&stopping),
            heads: Arc::clone(&heads),
        };
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                let (serve, heads) = (Arc::clone(&serve), Arc::clone(&heads));
                thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(TOO_LONG));
                    let _ = stream.set_write_timeout(Some(TOO_LONG));
                    let note = |head: &Head| {
                        let mut heads = heads.lock().unwrap_or_else(PoisonError::into_inner);
                        heads.push(head.clone());
                    };
                    let _ = serve(stream, &note);
                });
            }
        });
        relay
    }

    /// A peer that reads each request, and lets `answer` write the answer.
    pub fn answering<A>(answer: A) -> Self
    where
        A: Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    {
        Self::start(move |mut stream, note| {
            let mut reader = BufReader::new(stream.try_clone()?);
            while let Some(head) = Head::read(&mut reader) {
                note(&head);
                head.read_body(&mut reader)?;
                answer(&mut stream)?;
                // Further bytes would be another answer.
                stream.shutdown(Shutdown::Write)?;
            }
            Ok(())
        })
    }

    /// A TLS server with this identity that forwards requests to another port. With an authority, it
    /// asks for a client certificate that the authority has signed.
    pub fn tls(identity: &Identity, clients: Option<&Authority>, behind: u16) -> Self {
        let config = Arc::new(identity.server(clients));
        Self::start(move |stream, note| {
            let connection =
                ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            let mut reader = BufReader::new(StreamOwned::new(connection, stream));
            while let Some(head) = Head::read(&mut reader) {
                note(&head);
                let body = head.read_body(&mut reader)?;
                let mut plain = TcpStream::connect(("127.0.0.1", behind))?;
                plain.write_all(&[head.text.as_bytes(), &body].concat())?;
                plain.shutdown(Shutdown::Write)?;
                let mut answer = Vec::new();
                plain.read_to_end(&mut answer)?;
                reader.get_mut().write_all(&answer)?;
            }
            Ok(())
        })
    }

    /// A proxy that connects to one port, whatever the request names. With credentials
    /// (`user:password` in base 64) it refuses requests without them.
    pub fn proxy(credentials: Option<&'static str>, behind: u16) -> Self {
        Self::start(move |stream, note| Self::connect(stream, credentials, behind, note))
    }

    /// Serves one connection as a proxy does.
    pub fn connect(
        mut stream: TcpStream,
        credentials: Option<&str>,
        behind: u16,
        note: &dyn Fn(&Head),
    ) -> io::Result<()> {
        let head = Head::read(&mut BufReader::with_capacity(1, &stream));
        let head = head.ok_or(io::ErrorKind::UnexpectedEof)?;
        note(&head);
        let given = head.headers.get("proxy-authorization");
        let given = given.and_then(|value| value.strip_prefix("Basic "));
        if credentials.is_some() && given != credentials {
            let refusal = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"r\"\r\n\r\n";
            return stream.write_all(refusal.as_bytes());
        }
        let mut server = TcpStream::connect(("127.0.0.1", behind))?;
        stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        let (mut from, mut to) = (stream.try_clone()?, server.try_clone()?);
        let up = thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            to.shutdown(Shutdown::Write)
        });
        let _ = io::copy(&mut server, &mut stream);
        stream.shutdown(Shutdown::Both)?;
        let _ = up.join();
        Ok(())
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of the requests so far.
    pub fn heads(&self) -> Vec<Head> {
        let heads = self.heads.lock();
        heads.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first lines of the requests so far.
    pub fn lines(&self) -> Vec<String> {
        self.heads().into_iter().map(|head| head.line).collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address); // wakes the listener
    }
}

/// An authority, which signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names. `change` may change it before it is signed.
    pub fn certify(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        Identity::new(names, change, Some(self))
    }
}

/// A certificate with its key.
pub struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Identity {
    /// A certificate for these names that is signed by itself.
    pub fn self_signed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::new(names, change, None)
    }

    fn new(
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
        authority: Option<&Authority>,
    ) -> Self {
        let names: Vec<String> = names.iter().copied().map(str::to_owned).collect();
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = match authority {
            Some(authority) => params.signed_by(&key, &*authority.0),
            None => params.self_signed(&key),
        };
        Self {
            certificate: certificate.expect("a certificate"),
            key,
        }
    }

    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    fn server(&self, clients: Option<&Authority>) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.der().clone()).expect("a root");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        builder
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .expect("a certificate and its key")
    }
}
