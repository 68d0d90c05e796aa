//! Who called whom, over all replicas.

use futures_util::future::join_all;
use tokio::time::timeout;
use weft_proto::replica::{EdgesRequest, EdgesResponse};

use super::dial::Client;
use super::{ASK_TIMEOUT, Asked, Replicas};
use crate::serve::edges::{Merged, Target, merge, targets};

/// What all replicas that answered know together.
pub struct Edges {
    /// Every replica, this one first.
    pub asked: Vec<Asked<EdgesResponse>>,
    /// Their answers, put together.
    pub merged: Merged,
    /// What is Permissive, and who came there.
    pub targets: Vec<Target>,
}

impl Replicas {
    /// Asks every replica who called whom; each other one has 3 s to answer.
    pub async fn ask_edges(&self) -> Edges {
        let own = Asked {
            address: None,
            answer: Ok(self.edges()),
        };
        let others = self
            .clients()
            .into_iter()
            .map(|(address, client)| async move {
                let answer = match client {
                    Ok(client) => ask(client).await,
                    Err(why) => Err(why),
                };
                let address = Some(address);
                Asked { address, answer }
            });
        let others = join_all(others).await;
        let asked: Vec<_> = std::iter::once(own).chain(others).collect();
        let model = self.memo.model();
        let answers = asked.iter().filter_map(|asked| asked.answer.as_ref().ok());
        let merged = merge(&model, answers);
        Edges {
            targets: targets(&model, &merged),
            asked,
            merged,
        }
    }

    /// What this replica's sidecars reported.
    pub(super) fn edges(&self) -> EdgesResponse {
        self.streams.edges(self.name())
    }
}

async fn ask(mut client: Client) -> Result<EdgesResponse, String> {
    match timeout(ASK_TIMEOUT, client.edges(EdgesRequest {})).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("no answer within {} s", ASK_TIMEOUT.as_secs())),
    }
}
