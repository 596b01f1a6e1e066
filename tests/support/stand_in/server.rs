//! The stand-in's server: reads requests, and sends the answers of a world.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flate2::{Compression, write::GzEncoder};

use super::{Step, World, add_header};

/// A request that was received.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The number of its connection, from 1.
    pub connection: usize,
    /// The time when its head was complete, since the start of the stand-in.
    pub at: Duration,
    pub method: String,
    pub path: String,
    /// The query as it was sent, with its percent-encoding. Empty if there is none.
    pub query: String,
    /// The decoded `since`.
    pub since: Option<String>,
    /// `page[number]`, if it is a number.
    pub page_number: Option<usize>,
    /// `page[size]`, if it is a number.
    pub page_size: Option<usize>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Asked {
    /// The query without percent-encoding, for people.
    pub fn readable_query(&self) -> String {
        decoded(&self.query)
    }

    /// The value of the header `name` (in lower case). Empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Reads the head of a request. `None` if the client sends no more. Bodies are not expected.
    fn read(reader: &mut impl BufRead, connection: usize, began: Instant) -> Option<Self> {
        let mut lines = reader.lines().map_while(Result::ok);
        let first = lines.next()?;
        let mut headers = BTreeMap::new();
        loop {
            let line = lines.next()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next()?, words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let parameters: BTreeMap<String, String> = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let number = |name| parameters.get(name)?.parse().ok();
        Some(Self {
            connection,
            at: began.elapsed(),
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            since: parameters.get("since").cloned(),
            page_number: number("page[number]"),
            page_size: number("page[size]"),
            headers,
        })
    }
}

/// How an answer is sent. Except after the first two, the connection closes.
#[derive(Default)]
pub(super) enum Sending {
    #[default]
    Whole,
    /// This message, which was rendered before.
    Rendered(Arc<[u8]>),
    Half,
    Spread(Duration),
    Nothing(Duration),
}

/// An answer, and how it is sent.
#[derive(Default)]
pub(super) struct Reply {
    pub(super) code: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    pub(super) sending: Sending,
    pub(super) delay: Duration,
    pub(super) gzip: bool,
}

impl Reply {
    /// The head and the body in bytes.
    fn parts(&self) -> (String, Vec<u8>) {
        let (mut headers, mut body) = (self.headers.clone(), self.body.as_bytes().to_vec());
        if self.gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            let compressed = encoder.write_all(&body).and_then(|()| encoder.finish());
            body = compressed.expect("writing to memory cannot fail");
            add_header(&mut headers, "Content-Encoding", "gzip");
        }
        add_header(&mut headers, "Content-Length", &body.len().to_string());
        let mut head = format!("HTTP/1.1 {} Stand-in\r\n", self.code);
        for (name, value) in &headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        (head + "\r\n", body)
    }

    /// Sends the answer. Returns whether the connection can serve another request.
    fn send(self, mut stream: &TcpStream, shared: &Shared) -> io::Result<bool> {
        shared.wait(self.delay);
        let (head, body) = self.parts();
        let mut message = head.into_bytes();
        match self.sending {
            Sending::Rendered(message) => {
                stream.write_all(&message)?;
                return Ok(true);
            }
            Sending::Whole => {
                message.extend(body);
                stream.write_all(&message)?;
                return Ok(true);
            }
            Sending::Half => {
                message.extend(&body[..body.len() / 2]);
                stream.write_all(&message)?;
            }
            Sending::Spread(time) => {
                stream.write_all(&message)?;
                for piece in body.chunks(body.len().div_ceil(20).max(1)) {
                    shared.wait(time / 20);
                    stream.write_all(piece)?;
                }
            }
            Sending::Nothing(time) => shared.wait(time),
        }
        Ok(false)
    }
}

/// The data that all threads share.
struct Shared {
    began: Instant,
    state: Mutex<State>,
    stopped: Condvar,
}

/// The parameters of an answer of a frozen world: page number, page size, `since`, and whether it is
/// compressed.
type Place = (Option<usize>, Option<usize>, Option<String>, bool);

/// The data that changes while the stand-in runs.
struct State {
    world: World,
    asked: Vec<Asked>,
    /// How many requests were received, with those that were cleared from `asked`.
    count: usize,
    /// When the requests of the last second were answered, other than with 429 for their number.
    recent: Vec<Duration>,
    /// How many requests were answered with 429 for their number.
    refused: usize,
    /// The rendered answers, if the world is frozen.
    frozen: Option<BTreeMap<Place, Arc<[u8]>>>,
    /// The open connections, which close when the stand-in stops.
    open: BTreeMap<usize, TcpStream>,
    stopping: bool,
}

impl State {
    /// The reply to the latest request.
    fn respond(&mut self, asked: &Asked) -> Reply {
        let is_refused = self.is_beyond_limit(asked.at);
        let (world, count) = (&mut self.world, self.count);
        if is_refused {
            self.refused += 1;
            world.script(count, Step::rate_limited(&[("x-ratelimit-reset", "1")]));
        }
        let Some(rendered) = self.frozen.as_mut().filter(|_| !is_refused) else {
            return world.respond(count, asked);
        };
        let gzip = world.gzip && asked.header("accept-encoding").contains("gzip");
        let (number, size) = (asked.page_number, asked.page_size);
        let place = (number, size, asked.since.clone(), gzip);
        let message = rendered.entry(place).or_insert_with(|| {
            let (head, body) = world.respond(count, asked).parts();
            [head.into_bytes(), body].concat().into()
        });
        Reply {
            sending: Sending::Rendered(Arc::clone(message)),
            delay: world.delay,
            ..Reply::default()
        }
    }

    /// Tells if a request at this time is one too many for the world's `rate_limit`.
    fn is_beyond_limit(&mut self, at: Duration) -> bool {
        let Some(limit) = self.world.rate_limit else {
            return false;
        };
        let second = Duration::from_secs(1);
        self.recent.retain(|&before| before + second > at);
        let is_beyond = self.recent.len() >= limit as usize;
        if !is_beyond {
            self.recent.push(at);
        }
        is_beyond
    }
}

impl Shared {
    /// Locks the state, also after a test failed while it held the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits this long, or until the stand-in stops.
    fn wait(&self, time: Duration) {
        if !time.is_zero() {
            let running = |state: &mut State| !state.stopping;
            let _ = self.stopped.wait_timeout_while(self.lock(), time, running);
        }
    }

    /// Accepts connections until the stand-in stops, and returns when all have ended.
    fn listen(&self, listener: &TcpListener) {
        thread::scope(|scope| {
            for (stream, connection) in listener.incoming().zip(1..) {
                let mut state = self.lock();
                if state.stopping {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let twin = stream.try_clone().expect("a socket can be cloned");
                state.open.insert(connection, twin);
                scope.spawn(move || {
                    let _ = self.converse(&stream, connection); // the client may leave at any time
                    let _ = stream.shutdown(Shutdown::Both); // its twin would keep it open
                    self.lock().open.remove(&connection);
                });
            }
        });
    }

    /// Answers the requests of one connection.
    fn converse(&self, stream: &TcpStream, connection: usize) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(asked) = Asked::read(&mut reader, connection, self.began) {
            let reply = {
                let state = &mut *self.lock();
                state.count += 1;
                state.asked.push(asked.clone());
                state.respond(&asked)
            };
            let more = reply.send(stream, self)?;
            if !more || asked.method != "GET" || asked.header("connection") == "close" {
                break;
            }
        }
        Ok(())
    }
}

/// The running server. Dropping it ends its threads. It panics if a scripted step was not reached,
/// because then the test has shown nothing.
pub struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Serves `world` on a free port of the loopback address.
    pub fn start(world: World) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            began: Instant::now(),
            state: Mutex::new(State {
                world,
                asked: Vec::new(),
                count: 0,
                recent: Vec::new(),
                refused: 0,
                frozen: None,
                open: BTreeMap::new(),
                stopping: false,
            }),
            stopped: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let listening = Some(thread::spawn(move || theirs.listen(&listener)));
        Self {
            address,
            shared,
            listening,
        }
    }

    /// The address for `--endpoint`, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Freezes the world: each answer is rendered once, kept, and sent in one write, so that a bench
    /// does not measure the stand-in. Every request counts as valid.
    pub fn freeze(&self) {
        self.shared.lock().frozen = Some(BTreeMap::new());
    }

    /// The requests since the start or since [`StandIn::clear_requests`], in the order of their
    /// numbers.
    pub fn requests(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// Clears the list of requests. Their numbers stay in use: scripts count from the start.
    pub fn clear_requests(&self) {
        self.shared.lock().asked.clear();
    }

    /// The number of the latest request, counted from the start.
    pub fn count(&self) -> usize {
        self.shared.lock().count
    }

    /// How many requests were answered with 429, since they were beyond the world's `rate_limit`.
    pub fn refused(&self) -> usize {
        self.shared.lock().refused
    }

    /// Reads or changes the world, between two requests.
    pub fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.shared.lock().world)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        for stream in state.open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.stopped.notify_all();
        let _ = TcpStream::connect(self.address); // wakes the listener
        let ended = self.listening.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the stand-in panicked");
            let state = self.shared.lock();
            let (left, count) = (&state.world.script, state.count);
            assert!(left.is_empty(), "after {count} requests, unused: {left:?}");
        }
    }
}

/// A name or value of a query, percent-decoded.
fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let hex = piece
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(hex.unwrap_or(b'%'));
        bytes.extend(&piece.as_bytes()[if hex.is_some() { 2 } else { 0 }..]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
