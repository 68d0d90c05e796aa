//! From a listener outside to an address that a pod can reach, or from one in a pod to wherever.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Pod;

/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 1024;
/// Pause after a connection that could not be accepted, so that a full table is not asked at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Forwards until dropped, and ends its connections then.
#[derive(Debug)]
pub struct Forward {
    _end: DropGuard,
}

/// `from`: the pod whose connections are made, or `None` for those of the host. `to` is asked for every
/// connection; one that leads nowhere is closed.
pub(super) fn start(
    from: Option<Pod>,
    listener: TcpListener,
    to: impl Fn() -> Option<SocketAddr> + Send + Sync + 'static,
) -> Forward {
    let end = CancellationToken::new();
    let ended = end.clone();
    tokio::spawn(async move {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let accept = async {
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                    return;
                };
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let Some(to) = to() else { continue };
                let (from, ended) = (from.clone(), ended.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    // How it ends is told by the ends of the connections themselves.
                    let _ = ended
                        .run_until_cancelled(carry(from.as_ref(), stream, to))
                        .await;
                });
            }
        };
        ended.run_until_cancelled(accept).await;
    });
    Forward {
        _end: end.drop_guard(),
    }
}

async fn carry(from: Option<&Pod>, mut stream: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut other = match from {
        Some(pod) => pod.connect(to).await?,
        None => TcpStream::connect(to).await?,
    };
    tokio::io::copy_bidirectional(&mut stream, &mut other).await?;
    Ok(())
}
