//! Accept loops: every worker has one per listener, and a connection goes to the worker with the
//! fewest; whether it stays there is decided when it is known what it is ([`super::threads`]).
//!
//! A listener stops in the phase that it is told to. First the kernel begins no more connections, then
//! what it has completed is taken over, then the listener closes: no client sees a connection reset that
//! it believes to be open. Who comes meanwhile asks again a second later, and finds whoever listens then.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use metrics::Counter;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::threads::moving::Life;
use super::threads::{ConnectionCount, WorkerHandle, Workers};
use crate::http::client::BoxFuture;
use crate::net::closing::{Closing, Phase};
use crate::net::socket::{begin_no_more, tune};
use crate::worker::Seat;

/// After an error of accepting (no descriptor left, say) the next try waits this long.
const ERROR_PAUSE: Duration = Duration::from_millis(50);
/// And is told of again after this long.
const ERROR_REPEAT: Duration = Duration::from_secs(10);

/// How long connections that have begun may take to be completed, when a listener ends.
const COMPLETED_WITHIN: Duration = Duration::from_millis(50);

/// What becomes of an accepted connection.
pub type Serve = Arc<dyn Fn(TcpStream, Seat) -> BoxFuture<()> + Send + Sync>;

/// One listener and what it is for.
pub struct Listener {
    /// For logs.
    pub name: &'static str,
    /// Bound already.
    pub socket: StdListener,
    /// What becomes of its connections.
    pub serve: Serve,
    /// The phase in which no new connection is taken.
    pub until: Phase,
    /// Connections of all listeners together; further ones are closed at once and counted.
    pub most: usize,
}

/// Runs `listener` on all workers. Its loops are tracked in the first of `tracked`, its connections in
/// the second.
pub fn run(
    listener: &Listener,
    workers: &Workers,
    closing: &Closing,
    (loops, connections): (&TaskTracker, &TaskTracker),
    refused: &Counter,
) -> io::Result<()> {
    for worker in workers.iter() {
        let accepting = Accepting {
            name: listener.name,
            serve: Arc::clone(&listener.serve),
            until: listener.until,
            most: listener.most,
            worker: worker.clone(),
            workers: workers.clone(),
            connections: connections.clone(),
            refused: refused.clone(),
        };
        let socket = listener.socket.try_clone()?;
        let closing = closing.clone();
        let accepting = loops.track_future(accepting.run(socket, closing));
        worker.spawn("accept", accepting);
    }
    Ok(())
}

struct Accepting {
    name: &'static str,
    serve: Serve,
    until: Phase,
    most: usize,
    worker: WorkerHandle,
    workers: Workers,
    connections: TaskTracker,
    refused: Counter,
}

impl Accepting {
    async fn run(self, socket: StdListener, mut closing: Closing) {
        // Registering needs the worker's own runtime, which this runs on.
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(listener = self.name, %error, "cannot listen"),
        };
        let mut told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = closing.reached(self.until) => break,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((connection, _)) => self.take(connection),
                // One connection has gone before it was taken: the next is as good as ever.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    let now = Instant::now();
                    if told.is_none_or(|told| now - told >= ERROR_REPEAT) {
                        tracing::warn!(listener = self.name, %error, "connections wait to be accepted");
                        told = Some(now);
                    }
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
        if let Err(error) = begin_no_more(&socket) {
            tracing::debug!(listener = self.name, %error, "the last connections may be reset");
        }
        // Also what the runtime needs to hear of those that are complete.
        sleep(COMPLETED_WITHIN).await;
        while let Some(Ok((connection, _))) = socket.accept().now_or_never() {
            self.take(connection);
        }
    }

    fn take(&self, connection: TcpStream) {
        if self.connections.len() >= self.most {
            self.refused.increment(1);
            return;
        }
        if let Err(error) = tune(&connection) {
            tracing::debug!(%error, "connection gone before it was served");
            return;
        }
        let (worker, count) = self.workers.assign();
        if worker.id() == self.worker.id() {
            self.spawn(worker, count, connection);
        } else {
            self.hand_over(worker, count, connection);
        }
    }

    fn spawn(&self, worker: &WorkerHandle, count: ConnectionCount, connection: TcpStream) {
        let life = self.life(count, |seat| (self.serve)(connection, seat));
        worker.spawn(self.name, life);
    }

    /// Another worker has fewer: the connection is registered with its runtime.
    fn hand_over(&self, worker: &WorkerHandle, count: ConnectionCount, connection: TcpStream) {
        let connection = match connection.into_std() {
            Ok(connection) => connection,
            Err(error) => return tracing::debug!(%error, "connection gone before it was served"),
        };
        let serve = Arc::clone(&self.serve);
        let life = self.life(count, |seat| {
            Box::pin(async move {
                match TcpStream::from_std(connection) {
                    Ok(connection) => serve(connection, seat).await,
                    Err(error) => tracing::debug!(%error, "connection gone before it was served"),
                }
            })
        });
        worker.spawn(self.name, life);
    }

    fn life(&self, count: ConnectionCount, serve: impl FnOnce(Seat) -> BoxFuture<()>) -> Life {
        Life::new(self.name, &self.workers, count, &self.connections, serve)
    }
}
