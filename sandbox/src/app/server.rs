//! Listeners, connections and the end.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use anyhow::Context as _;
use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http::{AbortableIo, IoHandle};
use super::keep_alive::Life;
use super::{Behavior, KeepAlive, Port, PortKind, Settings, Stats, control, http, kafka, tcp};

/// How long what is in flight may take after SIGTERM.
const FINISH_PATIENCE: Duration = Duration::from_secs(20);
/// How long connections live on when the end has been announced, so that a request that is under
/// way to an idle one is still answered.
const SETTLE: Duration = Duration::from_millis(300);
/// Pause after a connection that could not be accepted, so that a full table is not asked at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A running application, in this process.
#[derive(Debug)]
pub struct App {
    shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) keep_alive: Option<KeepAlive>,
    pub(super) behavior: Mutex<Behavior>,
    pub(super) stats: Mutex<Stats>,
    pub(super) kafka: kafka::Store,
    /// Ends the listeners.
    accepting: CancellationToken,
    listeners: TaskTracker,
    /// Ends the connections, when what they have in flight is done.
    pub(super) finish: CancellationToken,
    connections: TaskTracker,
}

/// A connection that is in the stats as open, until dropped.
struct Connected(Arc<Shared>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.stats.lock().disconnected();
    }
}

impl App {
    /// Listens and serves on the current runtime, in the current thread's network namespace.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            keep_alive: settings.keep_alive(),
            name: settings.name,
            version: settings.version,
            behavior: Mutex::default(),
            stats: Mutex::default(),
            kafka: kafka::Store::default(),
            accepting: CancellationToken::new(),
            listeners: TaskTracker::new(),
            finish: CancellationToken::new(),
            connections: TaskTracker::new(),
        });
        for port in settings.ports {
            let at = SocketAddr::new(settings.bind, port.port);
            let listener = listen(at).await?;
            let app = Arc::clone(&shared);
            shared.listeners.spawn(accept(app, listener, port));
        }
        // Last: whoever reaches it knows that the others listen.
        let loopback = match settings.bind {
            bind if bind.is_loopback() => bind,
            _ => Ipv4Addr::LOCALHOST.into(),
        };
        let at = SocketAddr::new(loopback, settings.control);
        let listener = listen(at).await?;
        tokio::spawn(accept_control(Arc::clone(&shared), listener));
        Ok(Self { shared })
    }

    /// Closes the listeners, announces the end on connections, and waits for what is in flight.
    pub async fn finish(&self) {
        self.shared.stop_accepting().await;
        self.shared.finish.cancel();
        self.shared.connections.close();
        self.shared.connections.wait().await;
    }

    /// What it has seen.
    pub fn stats(&self) -> Stats {
        self.shared.stats.lock().clone()
    }

    /// Tells it what to do from now on.
    pub fn behave(&self, behavior: Behavior) {
        *self.shared.behavior.lock() = behavior;
    }
}

impl Shared {
    /// Closes the listeners; they are closed when this returns.
    pub(super) async fn stop_accepting(&self) {
        self.accepting.cancel();
        self.listeners.close();
        self.listeners.wait().await;
    }
}

/// Serves until SIGTERM or SIGINT, and then to the end of what is in flight.
pub(super) fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let app = App::start(settings).await?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // What is still in flight then will not end by itself: an open stream, a hanging request.
        let _ = tokio::time::timeout(FINISH_PATIENCE, app.finish()).await;
        // Nobody can ask any more: what was seen is left in the log.
        println!("{}", serde_json::to_string(&app.stats())?);
        Ok(())
    })
}

async fn listen(at: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(at)
        .await
        .with_context(|| format!("listening on {at}"))
}

async fn accept(app: Arc<Shared>, listener: TcpListener, port: Port) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.accepting.cancelled() => return,
        };
        // Out of descriptors, or a connection that is gone already: others may work.
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        app.stats.lock().connected();
        let connected = Connected(Arc::clone(&app));
        let serving = serve(Arc::clone(&app), stream, port.kind);
        app.connections.spawn(async move {
            serving.await;
            drop(connected);
        });
    }
}

async fn serve(app: Arc<Shared>, stream: TcpStream, kind: PortKind) {
    // Errors are the peer's business: what the application saw is in its stats.
    let _ = stream.set_nodelay(true);
    match kind {
        PortKind::Http => serve_http(app, stream).await,
        PortKind::Kafka => kafka::serve(app, stream).await,
        PortKind::Tcp => {
            let _ = tcp::echo(&app, stream, None).await;
        }
        PortKind::TcpServerFirst => {
            let greeting = format!("220 {} {}\r\n", app.name, app.version);
            let _ = tcp::echo(&app, stream, Some(greeting)).await;
        }
    }
}

async fn serve_http(app: Arc<Shared>, stream: TcpStream) {
    let io = AbortableIo::new(stream, Arc::clone(&app));
    let handle = io.handle();
    let finish = app.finish.clone();
    let life = Arc::new(Life::default());
    let rest = app.keep_alive.map(|keep_alive| Rest {
        life: Arc::clone(&life),
        keep_alive,
        handle: handle.clone(),
        app: Arc::clone(&app),
    });
    serve_connection(io, finish, rest, move |request| {
        http::handle(Arc::clone(&app), handle.clone(), Arc::clone(&life), request)
    })
    .await;
}

/// What ends a connection that rests.
struct Rest {
    life: Arc<Life>,
    keep_alive: KeepAlive,
    handle: IoHandle,
    app: Arc<Shared>,
}

impl Rest {
    /// Waits until the connection has rested for too long; whether it is one of HTTP/2.
    async fn is_over(this: Option<&Self>) -> bool {
        let Some(this) = this else {
            return std::future::pending().await;
        };
        let is_http2 = this.life.rested(this.keep_alive.limit).await;
        this.app.stats.lock().closed_at_rest += 1;
        is_http2
    }

    /// The connection is closed next, whatever has come over it.
    async fn look_away(this: Option<&Self>) {
        if let Some(this) = this {
            tokio::time::sleep(this.keep_alive.blind).await;
            this.handle.closes_at_rest();
        }
    }
}

async fn accept_control(app: Arc<Shared>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let app = Arc::clone(&app);
        // A command outlives the end of the application's own connections.
        let never = CancellationToken::new();
        tokio::spawn(serve_connection(stream, never, None, move |request| {
            control::handle(Arc::clone(&app), request)
        }));
    }
}

/// Serves one connection, HTTP/1 or HTTP/2 by its preface, and ends it in order when `finish` says, or as
/// `rest` does.
async fn serve_connection<I, H, F, B, E>(
    io: I,
    finish: CancellationToken,
    rest: Option<Rest>,
    handle: H,
) where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let server = auto::Builder::new(TokioExecutor::new());
    let connection = server.serve_connection(TokioIo::new(io), service_fn(handle));
    let mut connection = std::pin::pin!(connection);
    let resting = std::pin::pin!(Rest::is_over(rest.as_ref()));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = finish.cancelled() => {}
        is_http2 = resting => {
            if is_http2 {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            } else {
                // Not looked at again, and closed as it is.
                Rest::look_away(rest.as_ref()).await;
            }
            return;
        }
    }
    // Answers announce the end now; only a connection that stays idle is closed unannounced.
    if tokio::time::timeout(SETTLE, connection.as_mut())
        .await
        .is_ok()
    {
        return;
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
