//! A sidecar's HTTP/1 data path in one process: the server that clients speak to, a handler that does to
//! a request what an inbound sidecar does, and a pool towards a server that the target plays.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use weft_proxy::bounds::{Bounds, ProcessLimits};
use weft_proxy::http::answer::answer;
use weft_proxy::http::body::{RequestBody, ResponseBody};
use weft_proxy::http::client::{BoxFuture, Connect, H1Pool, PoolOptions, SendOptions};
use weft_proxy::http::server::{Excess, Handler, ServerOptions, serve};
use weft_proxy::http::upgrade::{self, Wanted};
use weft_proxy::http::{Version, headers};
use weft_proxy::net::closing::{self, Closing, ClosingSender};
use weft_proxy::outcome::{Failure, Origin, Outcome};
use weft_proxy::resilience::deadline::Deadline;

/// Bytes under way in one direction: more than any target makes.
const PIPE: usize = 256 * 1024;
/// Within this, all that is going to happen by itself has happened: longer than a head may take.
pub(crate) const QUIET: Duration = Duration::from_secs(30);
/// Between two pieces of a slow writer.
const PAUSE: Duration = Duration::from_millis(1);

/// Runs a target on a runtime of its own, whose time passes when nothing else can happen.
pub(crate) fn run(target: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime without I/O").block_on(target);
}

/// Hands the far end of each connection to the target.
pub(crate) struct Pipes(mpsc::UnboundedSender<DuplexStream>);

impl Connect for Pipes {
    type Io = DuplexStream;

    fn connect(&self) -> BoxFuture<Result<DuplexStream, Failure>> {
        let (near, far) = duplex(PIPE);
        let sent = self.0.send(far);
        Box::pin(async move {
            sent.map_err(|_| Failure::never(Outcome::ConnectRefused, "nobody listens"))?;
            Ok(near)
        })
    }
}

/// What came to the handler, in order.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Methods and targets of requests.
    pub(crate) handled: Vec<(String, String)>,
    /// Which of them were sent on.
    pub(crate) sent: Vec<usize>,
    /// Requests that were refused unread.
    pub(crate) refused: usize,
}

/// The handler.
pub(crate) struct Core {
    pool: H1Pool<Pipes>,
    pub(crate) log: Mutex<Log>,
    closing: Closing,
    _open: ClosingSender,
}

impl Core {
    /// A handler, and where its connections arrive.
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<DuplexStream>) {
        let (accept, streams) = mpsc::unbounded_channel();
        let (open, closing) = closing::channel();
        let core = Self {
            pool: H1Pool::new(Pipes(accept), PoolOptions::PLAIN),
            log: Mutex::default(),
            closing,
            _open: open,
        };
        (Arc::new(core), streams)
    }

    /// Takes a connection.
    pub(crate) fn serve(self: &Arc<Self>) -> (DuplexStream, JoinHandle<()>) {
        let (near, far) = duplex(PIPE);
        let (core, closing) = (Arc::clone(self), self.closing.clone());
        let options = ServerOptions::within(&Bounds::uncounted(ProcessLimits::DEFAULT));
        let task = tokio::spawn(serve(far, Version::Http1, core, closing, options));
        (near, task)
    }

    /// As an inbound sidecar does, without policy.
    async fn exchange(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let number = {
            let mut log = self.log.lock();
            let asked = (request.method().to_string(), request.uri().to_string());
            log.handled.push(asked);
            log.handled.len() - 1
        };
        let (head, body) = request.into_parts();
        headers::authority(&head)?;
        headers::one_length(&head)?;
        let mut request = Request::from_parts(head, RequestBody::from(body));
        let wanted = Wanted::take(&mut request);
        headers::strip_hop_by_hop(request.headers_mut(), wanted.is_some());
        headers::strip_ours(request.headers_mut());
        headers::prepare(&mut request)?;

        self.log.lock().sent.push(number);
        let sent = self.pool.send(request, SendOptions::default()).await;
        let mut response = sent.map_err(|error| error.failure)?;
        if Wanted::is_unasked(wanted.as_ref(), &response) {
            return Err(upgrade::unasked());
        }
        let granted = wanted.filter(|wanted| wanted.is_granted(&response));
        headers::strip_hop_by_hop(response.headers_mut(), granted.is_some());
        headers::strip_ours(response.headers_mut());
        let Some(granted) = granted else {
            return Ok(response.map(ResponseBody::from));
        };
        upgrade::without_length(&mut response);
        let upstream = upgrade::Upstream::take(&mut response);
        let closing = self.closing.clone();
        let downstream = granted.into_downstream();
        let bridge = upgrade::bridge_upgrade(downstream, upstream, closing, Deadline::NONE);
        tokio::spawn(bridge);
        Ok(response.map(|_| ResponseBody::Empty))
    }
}

impl Handler for Core {
    fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<Response<ResponseBody>> {
        let core = Arc::clone(self);
        Box::pin(async move {
            let failed = |failure| answer(&failure, Origin::Inbound, false);
            core.exchange(request).await.unwrap_or_else(failed)
        })
    }

    fn refuse(self: &Arc<Self>, failure: Failure) -> BoxFuture<Response<ResponseBody>> {
        self.log.lock().refused += 1;
        let response = answer(&failure, Origin::Inbound, false);
        Box::pin(std::future::ready(response))
    }

    fn turn_away(
        self: &Arc<Self>,
        _: Request<Incoming>,
        excess: Excess,
    ) -> BoxFuture<Response<ResponseBody>> {
        self.refuse(excess.failure(Outcome::Shed))
    }
}

/// Writes in pieces, each of which is read before the next comes. A reader that has gone ends it.
pub(crate) async fn write(io: &mut DuplexStream, pieces: &[&[u8]]) {
    for (number, piece) in pieces.iter().enumerate() {
        if number > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        if io.write_all(piece).await.is_err() {
            return;
        }
    }
}

/// Reads into `heard` until the end, or for as long as [`QUIET`]; whether it has ended.
pub(crate) async fn hear(io: &mut DuplexStream, heard: &mut Vec<u8>) -> bool {
    let reading = async {
        loop {
            let mut buffer = [0; 4096];
            match io.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => heard.extend_from_slice(&buffer[..read]),
            }
        }
    };
    tokio::time::timeout(QUIET, reading).await.is_ok()
}
