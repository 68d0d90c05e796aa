//! Listening to one other replica, for as long as it is one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _};
use tokio::time::{sleep, timeout};
use tonic::Status;
use weft_proto::replica::{CountsRequest, CountsUpdate};

use super::dial::dial;
use super::{Replicas, wire};

/// Who says nothing for so long, not even that it is there, counts no more.
const SILENCE: Duration = Duration::from_secs(15);
/// Pauses between tries: doubled from the first to the last, and up to half of it left out by chance. The
/// last is short: one that starts again at the same address has sidecars at once.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Connects and listens, again and again.
pub(super) async fn keep(replicas: &Replicas, peer: SocketAddr) {
    let mut pause = FIRST_PAUSE;
    loop {
        let heard_before = Instant::now();
        let why = listen(replicas, peer).await;
        tracing::debug!(%peer, why, "no connection to another replica");
        replicas.clients.lock().remove(&peer);
        if heard_before.elapsed() > LAST_PAUSE {
            pause = FIRST_PAUSE;
        }
        sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Listens until there is nothing to hear any more, and says why.
async fn listen(replicas: &Replicas, peer: SocketAddr) -> String {
    let mut client = match dial(&replicas.authority, peer).await {
        Ok(client) => client,
        Err(error) => return error.to_string(),
    };
    replicas.clients.lock().insert(peer, client.clone());
    let said = match timeout(SILENCE, client.counts(CountsRequest {})).await {
        Ok(Ok(stream)) => stream.into_inner(),
        Ok(Err(status)) => return status.message().to_owned(),
        Err(_) => return "it does not answer".to_owned(),
    };
    heed(replicas, peer, said).await
}

/// Hears what a replica says until it says nothing any more, which is why it is lost then.
pub(super) async fn heed(
    replicas: &Replicas,
    peer: SocketAddr,
    mut said: impl Stream<Item = Result<CountsUpdate, Status>> + Unpin,
) -> String {
    let why = loop {
        match timeout(SILENCE, said.next()).await {
            Ok(Some(Ok(update))) => {
                // Without counts it is a sign of life.
                if let Some(mut counted) = update.counted {
                    let name = std::mem::take(&mut counted.replica);
                    replicas.hear(peer, name, wire::read(counted));
                }
            }
            Ok(None) => break "it ended the stream".to_owned(),
            Ok(Some(Err(status))) => break status.message().to_owned(),
            Err(_) => break format!("it said nothing for {} s", SILENCE.as_secs()),
        }
    };
    replicas.lose(peer, &why);
    why
}
