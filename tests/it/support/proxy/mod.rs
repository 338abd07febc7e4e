//! A proxy between a client and an HTTP server that does, when told to, what networks and services do at times: be
//! slow, be silent, break off, refuse, lie.
//!
//! Plain HTTP/1.1 on loopback, connections kept alive. What is to go wrong, with which requests and how often, is a
//! [`Rule`]; rules come and go while the proxy runs. The first rule that fits a request is applied to it. A request's
//! signature stays good, since its `Host` header is passed on as it is.

mod http;
mod link;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use http::Request;
pub(crate) use link::Link;

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The connection is reset as soon as the request's head is there (over a long or narrow line: closed).
    Reset,
    /// The request is swallowed and never answered; the connection stays open.
    Stall,
    /// So many bytes of the request's body are passed on, then both sides lose the connection.
    CutRequest(u64),
    /// So many bytes of the answer's body are passed on, under a head that promises all, then the connection is lost.
    CutAnswer(u64),
    /// The answer's body ends after so many bytes, and its head says that this is all.
    Truncate(u64),
    /// The request arrives and is carried out; its answer is lost with the connection.
    LoseAnswer,
    /// Not passed on; answered with this status and an error in S3's words.
    Status {
        status: u16,
        code: &'static str,
        /// Seconds in a `Retry-After` header.
        retry_after: Option<u64>,
    },
    /// Not passed on; answered 200 with this body.
    Answer(Vec<u8>),
    /// The true answer, but each byte of its body with a bit flipped.
    WrongBody,
    /// The answer comes so late.
    Late(Duration),
    /// The answer's body comes in pieces of so many bytes, with a pause after each.
    Trickle { bytes: usize, pause: Duration },
}

impl Fault {
    /// 500, as S3 says it.
    pub(crate) fn internal_error() -> Self {
        Self::Status { status: 500, code: "InternalError", retry_after: None }
    }

    /// 503, as S3 and B2 ask for less; with seconds in `Retry-After` or without that header.
    pub(crate) fn slow_down(retry_after: Option<u64>) -> Self {
        Self::Status { status: 503, code: "SlowDown", retry_after }
    }

    /// 200, and an error in the body: what S3 allows itself for completions, copies and multi-deletes.
    pub(crate) fn error_with_200(code: &str) -> Self {
        Self::Answer(http::error_body(code).into_bytes())
    }
}

/// Which of the requests that fit a rule it is applied to.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Each,
    /// Counted from 1.
    Only(u64),
    UpTo(u64),
    From(u64),
}

/// A fault and the requests that it befalls.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    fault: Fault,
    method: Option<String>,
    target: String,
    turn: Turn,
    fitting: u64,
    applied: u64,
}

impl Rule {
    /// The fault with every request.
    pub(crate) fn new(fault: Fault) -> Self {
        Self { fault, method: None, target: String::new(), turn: Turn::Each, fitting: 0, applied: 0 }
    }

    /// Only with requests of this method whose path and query, as they come over the wire, contain this text; both
    /// may be empty.
    pub(crate) fn on(mut self, method: &str, target: &str) -> Self {
        self.method = Some(method.to_owned()).filter(|method| !method.is_empty());
        target.clone_into(&mut self.target);
        self
    }

    /// Only with the k-th request that fits, counted from 1.
    pub(crate) fn only(mut self, k: u64) -> Self {
        self.turn = Turn::Only(k);
        self
    }

    /// Only with the first k requests that fit.
    pub(crate) fn first(mut self, k: u64) -> Self {
        self.turn = Turn::UpTo(k);
        self
    }

    /// Only with the k-th request that fits and all that follow.
    pub(crate) fn from(mut self, k: u64) -> Self {
        self.turn = Turn::From(k);
        self
    }

    fn befalls(&mut self, request: &Request) -> bool {
        let fits = self.method.as_ref().is_none_or(|method| *method == request.method)
            && request.target.contains(&self.target);
        if !fits {
            return false;
        }
        self.fitting += 1;
        let befalls = match self.turn {
            Turn::Each => true,
            Turn::Only(k) => self.fitting == k,
            Turn::UpTo(k) => self.fitting <= k,
            Turn::From(k) => self.fitting >= k,
        };
        self.applied += u64::from(befalls);
        befalls
    }
}

struct State {
    link: Link,
    rules: Vec<Rule>,
    seen: Vec<String>,
    /// Parts of uploads that are under way now, and the most that ever were.
    parts: (usize, usize),
}

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running proxy; ends with this value.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Shared,
    /// Whether it shall listen.
    listens: watch::Sender<bool>,
    /// Whether it does.
    listening: watch::Receiver<bool>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts one before this server; nothing goes wrong yet.
    pub(crate) fn before(server: SocketAddr) -> Self {
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen on loopback");
        socket.set_nonblocking(true).expect("set a listener");
        let address = socket.local_addr().expect("ask for the port");
        let state = Arc::new(Mutex::new(State {
            link: Link::default(),
            rules: Vec::new(),
            seen: Vec::new(),
            parts: (0, 0),
        }));
        let stop = CancellationToken::new();
        let (listens, wanted) = watch::channel(true);
        let (report, listening) = watch::channel(true);
        let served =
            Serving { state: Arc::clone(&state), server, address, wanted, report, stop: stop.clone() };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("start a runtime");
            runtime.block_on(served.serve(socket));
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        Self { address, state, listens, listening, stop, thread: Some(thread) }
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a rule, behind those that there are.
    pub(crate) fn fail(&self, rule: Rule) {
        lock(&self.state).rules.push(rule);
    }

    /// Takes all rules away.
    pub(crate) fn heal(&self) {
        lock(&self.state).rules.clear();
    }

    /// How often a rule was applied since the last [`Proxy::heal`].
    pub(crate) fn faults(&self) -> u64 {
        lock(&self.state).rules.iter().map(|rule| rule.applied).sum()
    }

    /// Sets how long and how narrow the line is, for connections made from now on.
    pub(crate) fn set_link(&self, link: Link) {
        lock(&self.state).link = link;
    }

    /// The requests so far, `METHOD /path?query`, those with a fault included.
    pub(crate) fn seen(&self) -> Vec<String> {
        lock(&self.state).seen.clone()
    }

    /// The most parts of uploads that ever were under way at once.
    pub(crate) fn parts_at_once(&self) -> usize {
        lock(&self.state).parts.1
    }

    /// Stops listening, and breaks all connections: from when this returns, new ones are refused.
    pub(crate) fn go_away(&mut self) {
        self.set_listening(false);
    }

    /// Listens again, on the same port.
    pub(crate) fn come_back(&mut self) {
        self.set_listening(true);
    }

    fn set_listening(&mut self, listens: bool) {
        self.listens.send_replace(listens);
        // The thread answers at once unless it is gone.
        for _ in 0..1000 {
            if *self.listening.borrow() == listens {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the proxy does not answer");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the proxy's thread has.
struct Serving {
    state: Shared,
    server: SocketAddr,
    address: SocketAddr,
    wanted: watch::Receiver<bool>,
    report: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Serving {
    async fn serve(mut self, socket: std::net::TcpListener) {
        let mut listener = Some(TcpListener::from_std(socket).expect("listen"));
        let mut open = self.stop.child_token();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if *self.wanted.borrow_and_update() {
                        if listener.is_none() {
                            listener = Some(TcpListener::bind(self.address).await.expect("listen again"));
                        }
                    } else {
                        listener = None;
                        open.cancel();
                        open = self.stop.child_token();
                    }
                    self.report.send_replace(listener.is_some());
                }
                client = accepted(listener.as_ref()) => {
                    let Some(client) = client else { continue };
                    let (state, server, open) = (Arc::clone(&self.state), self.server, open.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = open.cancelled() => {}
                            // How a connection ends is what the test looks at, from the other side.
                            ended = http::connection(client, server, &state) => drop(ended),
                        }
                    });
                }
            }
        }
    }
}

async fn accepted(listener: Option<&TcpListener>) -> Option<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.ok().map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}
