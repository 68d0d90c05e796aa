//! Where a connection goes on, once it is known what it carries.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::TcpStream;

/// A connection's place among the workers: it may be given another, once, while nothing but the
/// connection itself belongs to the worker that has it.
#[derive(Clone, Default)]
pub struct Seat(Option<Arc<dyn Settling>>);

/// Finds a worker for a connection that turned out to carry requests.
pub trait Settling: Send + Sync + 'static {
    /// Decides, and counts the connection as that worker's. Whether that is another than the one it is
    /// at: then whoever polls the connection has it polled there, from when it next waits.
    fn settle(&self) -> bool;
}

impl Seat {
    /// A seat that is found by `settling`.
    pub fn new(settling: Arc<dyn Settling>) -> Self {
        Self(Some(settling))
    }

    /// Where there is but one worker.
    pub fn only() -> Self {
        Self(None)
    }

    /// Gives an HTTP connection the worker that it is to be served by. What the caller holds besides
    /// `tcp` must not belong to a runtime: no timer, no other connection.
    ///
    /// # Errors
    /// What registering the connection with a runtime says.
    pub async fn settle(&self, tcp: TcpStream) -> io::Result<TcpStream> {
        let Some(settling) = &self.0 else {
            return Ok(tcp);
        };
        if !settling.settle() {
            return Ok(tcp);
        }
        let tcp = tcp.into_std()?;
        let mut has_waited = false;
        poll_fn(|_| {
            if mem::replace(&mut has_waited, true) {
                Poll::Ready(())
            } else {
                // Nobody wakes it: the other worker begins with a poll.
                Poll::Pending
            }
        })
        .await;
        TcpStream::from_std(tcp)
    }
}
