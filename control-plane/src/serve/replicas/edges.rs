//! Who called whom, over all replicas.

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
        let own = async { Ok(self.edges()) };
        let ask = |mut client: Client| async move { client.edges(EdgesRequest {}).await };
        let asked = self.ask_each(ASK_TIMEOUT, own, ask).await;
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
