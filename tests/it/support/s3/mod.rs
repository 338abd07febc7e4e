//! An S3 server of the real protocol inside the test process, for pgkeep as a child process, for clients in the test,
//! for curl.
//!
//! The crate `s3s` speaks the protocol and checks the signatures (key, secret, signed bytes of the body, time); what
//! is stored lies in memory. As strict as the strictest of R2 and B2: what one of the two refuses is refused here
//! (chunked signing, newer checksum headers, small or unequal parts). Upload ids and continuation tokens hold
//! `+ / = &` and spaces, as R2's may: one that is sent back without being percent-encoded is not found.

mod bucket;
pub(crate) mod client;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use s3s::config::{HotReloadConfigProvider, S3Config};
use s3s::service::S3ServiceBuilder;
use tokio_util::sync::CancellationToken;

use bucket::Contents;
pub(crate) use bucket::{Bucket, Listed, Upload};

/// How the server behaves; may be changed while it runs, see [`S3::change`].
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "they are switches, each on its own")]
pub(crate) struct Options {
    /// As B2: what is overwritten or deleted stays as an older version until that version is deleted. A conditional
    /// PUT is answered 501, as B2 does; without versions it works, as with R2.
    pub(crate) versions: bool,
    /// Most entries on a page of any listing; S3 itself: 1000.
    pub(crate) page_size: usize,
    /// Whether upload ids hold characters that mean something in a URL.
    pub(crate) hostile_upload_ids: bool,
    /// Smallest part but the last, bytes; S3 itself: 5 MiB.
    pub(crate) smallest_part: usize,
    /// Parts but the last must be of one size, as R2 wants it.
    pub(crate) equal_parts: bool,
    /// The keys may write, but not delete (nor abort an upload).
    pub(crate) deny_deletes: bool,
    /// The keys may read, but not write.
    pub(crate) deny_writes: bool,
    /// Every request counts as signed too long ago, as if the client's clock were off.
    pub(crate) clock_is_off: bool,
    /// The region that requests must be signed for; none: any.
    pub(crate) region: Option<String>,
    /// By how much the clock in the answers' heads is ahead.
    pub(crate) clock_ahead: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            versions: false,
            page_size: 1000,
            hostile_upload_ids: true,
            smallest_part: 5 << 20,
            equal_parts: true,
            deny_deletes: false,
            deny_writes: false,
            clock_is_off: false,
            region: None,
            clock_ahead: Duration::ZERO,
        }
    }
}

impl Options {
    /// As a bucket of B2 is: with versions.
    pub(crate) fn b2() -> Self {
        Self { versions: true, ..Self::default() }
    }
}

/// A user: an access key, its secret, and the buckets that it may use.
struct User {
    secret_key: String,
    buckets: BTreeSet<String>,
}

/// All that the server knows.
struct State {
    options: Options,
    users: BTreeMap<String, User>,
    buckets: BTreeMap<String, Contents>,
    requests: BTreeMap<String, u64>,
    /// Numbers versions and uploads.
    next: u64,
}

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    // A test that panicked while it looked has changed nothing.
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The running server; ends with this value.
pub(crate) struct S3 {
    state: Shared,
    config: Arc<HotReloadConfigProvider>,
    address: SocketAddr,
    access_key: String,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl S3 {
    /// Starts one as R2 is: without versions. There is no bucket yet.
    pub(crate) fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts one that behaves so.
    pub(crate) fn with(options: Options) -> Self {
        let clock_is_off = options.clock_is_off;
        let state = State {
            options,
            users: BTreeMap::new(),
            buckets: BTreeMap::new(),
            requests: BTreeMap::new(),
            next: 1,
        };
        let state = Arc::new(Mutex::new(state));
        let config = Arc::new(HotReloadConfigProvider::default());

        let mut builder = S3ServiceBuilder::new(service::Service::new(Arc::clone(&state)));
        builder.set_auth(service::Users(Arc::clone(&state)));
        builder.set_access(service::Rights(Arc::clone(&state)));
        builder.set_config(Arc::clone(&config) as _);
        let service = builder.build();

        let stop = CancellationToken::new();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen on loopback");
        listener.set_nonblocking(true).expect("set a listener");
        let address = listener.local_addr().expect("ask for the port");
        let ended = stop.clone();
        let shared = Arc::clone(&state);
        // A runtime and a thread of its own: a test may block in waiting for a child while the child talks to it.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("start a runtime");
            runtime.block_on(serve(listener, service, shared, ended));
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        let mut s3 = Self { state, config, address, access_key: String::new(), stop, thread: Some(thread) };
        (s3.access_key, _) = s3.new_user("FIRST");
        s3.change(|options| options.clock_is_off = clock_is_off);
        s3
    }

    /// `http://127.0.0.1:PORT`, path style.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first user's key; all buckets made by [`S3::bucket`] are its.
    pub(crate) fn access_key(&self) -> &str {
        &self.access_key
    }

    /// The first user's secret.
    pub(crate) fn secret_key(&self) -> String {
        lock(&self.state).users[&self.access_key].secret_key.clone()
    }

    /// Another user, who may use no bucket yet: access key and secret.
    pub(crate) fn second_user(&self) -> (String, String) {
        self.new_user("SECOND")
    }

    fn new_user(&self, name: &str) -> (String, String) {
        let mut state = lock(&self.state);
        let access_key = format!("{name}{:08}", state.users.len());
        // As real ones, it holds what must be quoted in files and URLs.
        let secret_key = format!("{name}/secret+{:08}=", super::unique());
        let user = User { secret_key: secret_key.clone(), buckets: BTreeSet::new() };
        state.users.insert(access_key.clone(), user);
        (access_key, secret_key)
    }

    /// Lets a user use a bucket.
    pub(crate) fn allow(&self, access_key: &str, bucket: &str) {
        let mut state = lock(&self.state);
        let user = state.users.get_mut(access_key).expect("a user of this server");
        user.buckets.insert(bucket.to_owned());
    }

    /// A bucket of the first user's, made if there is none of this name; its contents can be looked at and changed
    /// without asking the protocol.
    #[track_caller]
    pub(crate) fn bucket(&self, name: &str) -> Bucket {
        assert!(
            s3s::path::check_bucket_name(name),
            "S3 wants a bucket's name to have 3 letters and more: {name}"
        );
        lock(&self.state).buckets.entry(name.to_owned()).or_default();
        self.allow(&self.access_key, name);
        Bucket { state: Arc::clone(&self.state), name: name.to_owned() }
    }

    /// Removes a bucket with all that is in it.
    pub(crate) fn remove_bucket(&self, name: &str) {
        lock(&self.state).buckets.remove(name);
    }

    /// Changes how the server behaves from the next request on.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Options)) {
        let mut state = lock(&self.state);
        change(&mut state.options);
        let mut config = S3Config::default();
        if state.options.clock_is_off {
            config.presigned_url_max_skew_time_secs = 0;
        }
        self.config.update(Arc::new(config));
    }

    /// How many requests with a good signature came in since the start or the last [`S3::forget_requests`], by the
    /// operation's name in S3's reference (`PutObject`, `ListObjectsV2`, ...).
    pub(crate) fn requests(&self) -> BTreeMap<String, u64> {
        lock(&self.state).requests.clone()
    }

    /// How many there were of one operation.
    pub(crate) fn requests_of(&self, operation: &str) -> u64 {
        lock(&self.state).requests.get(operation).copied().unwrap_or_default()
    }

    /// Counts from nought again.
    pub(crate) fn forget_requests(&self) {
        lock(&self.state).requests.clear();
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    service: s3s::service::S3Service,
    state: Shared,
    stop: CancellationToken,
) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("listen");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let _ = stream.set_nodelay(true);
        let mut http = http1::Builder::new();
        // An idle connection stays: what is between must not lose a request to one that was just closed.
        http.header_read_timeout(None);
        let (service, state) = (service.clone(), Arc::clone(&state));
        let told = move |request: hyper::Request<hyper::body::Incoming>| {
            let (answer, ahead) = (Service::call(&service, request), lock(&state).options.clock_ahead);
            async move {
                let mut answer = answer.await?;
                if !ahead.is_zero() {
                    let date = (chrono::Utc::now() + ahead).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
                    answer.headers_mut().insert("date", date.parse().expect("a date"));
                }
                Ok::<_, <s3s::service::S3Service as Service<hyper::Request<hyper::body::Incoming>>>::Error>(
                    answer,
                )
            }
        };
        let connection = http.serve_connection(TokioIo::new(stream), service_fn(told));
        // How a connection ends is the client's affair.
        tokio::spawn(async move { drop(connection.await) });
    }
}
