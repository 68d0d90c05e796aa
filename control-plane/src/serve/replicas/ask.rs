//! A question to every replica at once.
//!
//! What is asked goes over the connection that the replica is listened to on; where there is none, as
//! between two tries of the link, one is made for the question. So a replica that answers at that time is
//! never left out for what it was a moment before, and what is said of one that cannot be asked is why.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::{Response, Status};

use super::dial::{Client, dial};
use super::{Replicas, find};

/// What one replica says; or why that is not known.
pub struct Asked<T> {
    /// The replica's address; `None` for this one.
    pub address: Option<SocketAddr>,
    /// What it said.
    pub answer: Result<T, String>,
}

impl Replicas {
    /// Every replica's answer: `own` is this one's and comes first, then the others' in the order of
    /// their addresses. Each of those has `time` for its answer, connecting included.
    pub(super) async fn ask_each<T, F>(
        &self,
        time: Duration,
        own: impl Future<Output = Result<T, String>>,
        question: impl Fn(Client) -> F,
    ) -> Vec<Asked<T>>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let others = self.others().into_iter().map(|address| {
            let asking = timeout(time, self.ask(address, &question));
            async move {
                let late = |_| Err(format!("no answer within {} s", time.as_secs()));
                Asked {
                    address: Some(address),
                    answer: asking.await.unwrap_or_else(late),
                }
            }
        });
        let (answer, others) = tokio::join!(own, join_all(others));
        let own = Asked {
            address: None,
            answer,
        };
        std::iter::once(own).chain(others).collect()
    }

    async fn ask<T, F>(
        &self,
        address: SocketAddr,
        question: &impl Fn(Client) -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let known = self.clients.lock().get(&address).cloned();
        let client = match known {
            Some(client) => client,
            None => dial(&self.authority, address)
                .await
                .map_err(|error| error.to_string())?,
        };
        let answer = question(client).await;
        Ok(answer
            .map_err(|status| status.message().to_owned())?
            .into_inner())
    }

    /// Where the others are, as the model has it.
    fn others(&self) -> impl IntoIterator<Item = SocketAddr> + use<> {
        let place = self.place.get();
        place
            .map(|place| find::peers(&self.models.borrow(), place).0)
            .unwrap_or_default()
    }
}
