//! Commands to sidecars, over all replicas.
//!
//! Every replica commands its own sidecars, many at once, and answers in bounded time whether or not
//! they do: who did not answer is named with the reason. A workload whose stream moves from one replica
//! to another may be commanded twice; what can be commanded is the same done twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tokio::time::{Instant, timeout_at};
use weft_proto::discovery::{Command, CommandReply};
use weft_proto::replica::{OrderRequest, OrderResponse, SidecarAnswer};

use super::dial::Client;
use super::wire::MAX_WORKLOADS;
use super::{Asked, Replicas};
use crate::index::Name;
use crate::serve::streams::CommandError;

/// Sidecars that are commanded at once.
const MAX_AT_ONCE: usize = 256;
/// How long a replica commands its sidecars.
const ORDER_TIME: Duration = Duration::from_secs(8);
/// How long another replica may take to answer: its time to command, and the way there and back.
const ASK_TIME: Duration = Duration::from_secs(10);
/// What the answers of one replica's sidecars may be long together, in bytes: less than a message.
const MAX_PAYLOADS: usize = 12 << 20;
/// Longest reason why a sidecar did not do it, in characters.
const MAX_REASON: usize = 253;
const NO_ROOM: &str = "it is done, but the answer found no room beside the others'; ask it alone";

/// What the sidecars of all replicas answered.
pub struct Orders {
    /// Every replica, this one first.
    pub asked: Vec<Asked<OrderResponse>>,
}

impl Orders {
    /// Every sidecar's answer once, with the replica that it came by. Of two answers of one workload,
    /// one that it did it.
    pub fn answers(&self) -> impl Iterator<Item = (&str, &SidecarAnswer)> {
        let mut all: BTreeMap<(&str, &str), (&str, &SidecarAnswer)> = BTreeMap::new();
        for response in self.asked.iter().filter_map(|it| it.answer.as_ref().ok()) {
            for answer in &response.answers {
                let name = (&*answer.namespace, &*answer.workload);
                let known = all.get(&name);
                if known.is_none_or(|(_, known)| !known.error.is_empty()) {
                    all.insert(name, (&response.replica, answer));
                }
            }
        }
        all.into_values()
    }
}

impl Replicas {
    /// Has every replica command its sidecars; each other one has 10 s to answer.
    pub async fn order(&self, order: &OrderRequest) -> Orders {
        let own = async {
            let done = self.order_own(order).await;
            done.map_err(|error| error.to_string())
        };
        let ask = |mut client: Client| {
            let order = order.clone();
            async move { client.order(order).await }
        };
        Orders {
            asked: self.ask_each(ASK_TIME, own, ask).await,
        }
    }

    /// Commands this replica's sidecars that `order` is for. Fails where it holds no command.
    pub(super) async fn order_own(
        &self,
        order: &OrderRequest,
    ) -> Result<OrderResponse, prost::DecodeError> {
        let command = Command::decode(&*order.command)?;
        let names = self.names(order);
        tracing::info!(
            namespace = order.namespace, workload = order.workload, sidecars = names.len(),
            command = ?command.kind,
            "sidecars are commanded",
        );
        let until = Instant::now() + ORDER_TIME;
        let mut silent: BTreeSet<Name> = names.iter().cloned().collect();
        let mut answers = Vec::with_capacity(names.len());
        let mut room = MAX_PAYLOADS;
        let asked = names.into_iter().map(|name| {
            let (streams, command) = (self.streams.clone(), command.clone());
            async move {
                let said = streams.command(&name, command).await;
                (name, said)
            }
        });
        let mut asked = stream::iter(asked).buffer_unordered(MAX_AT_ONCE);
        while let Ok(Some((name, said))) = timeout_at(until, asked.next()).await {
            silent.remove(&name);
            answers.push(answer(name, said, &mut room));
        }
        drop(asked);
        for name in silent {
            answers.push(answer(name, Err(CommandError::TimedOut), &mut room));
        }
        answers.sort_by(|a, b| (&a.namespace, &a.workload).cmp(&(&b.namespace, &b.workload)));
        Ok(OrderResponse {
            replica: self.name().to_owned(),
            answers,
        })
    }

    /// Whom of this replica an order is for.
    fn names(&self, order: &OrderRequest) -> Vec<Name> {
        let standing = self.streams.standing();
        let names = standing.iter().map(|one| &one.introduction.workload);
        let is_meant = |name: &&Name| {
            let is = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
            is(&order.namespace, &name.namespace) && is(&order.workload, &name.name)
        };
        names
            .filter(is_meant)
            .take(MAX_WORKLOADS)
            .cloned()
            .collect()
    }
}

fn answer(name: Name, said: Result<CommandReply, CommandError>, room: &mut usize) -> SidecarAnswer {
    let (error, payload) = match said {
        Err(error) => (error.to_string(), String::new()),
        Ok(reply) if !reply.error.is_empty() => {
            let reason = reply.error.chars().take(MAX_REASON);
            (reason.collect(), String::new())
        }
        Ok(reply) if reply.payload.len() > *room => (NO_ROOM.to_owned(), String::new()),
        Ok(reply) => {
            *room -= reply.payload.len();
            (String::new(), reply.payload)
        }
    };
    SidecarAnswer {
        namespace: name.namespace,
        workload: name.name,
        error,
        payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(payload: &str, error: &str) -> CommandReply {
        CommandReply {
            id: 1,
            error: error.to_owned(),
            payload: payload.to_owned(),
        }
    }

    #[test]
    fn answers_share_the_room_of_a_message() {
        let web = || Name::new("shop", "web");
        let mut room = 10;
        assert_eq!(
            answer(web(), Ok(said("12345678", "")), &mut room).payload,
            "12345678"
        );
        let late = answer(web(), Ok(said("123", "")), &mut room);
        assert_eq!((&*late.error, &*late.payload), (NO_ROOM, ""));
        let small = answer(web(), Ok(said("12", "")), &mut room);
        assert_eq!((&*small.error, &*small.payload, room), ("", "12", 0));
        let long = answer(web(), Ok(said("ignored", &"é".repeat(300))), &mut room);
        assert_eq!(
            (long.error.chars().count(), &*long.payload),
            (MAX_REASON, "")
        );
    }

    #[test]
    fn of_two_answers_the_one_that_did_it_counts() {
        let asked = |replica: &str, error: &str| {
            let answer = SidecarAnswer {
                namespace: "shop".to_owned(),
                workload: "web".to_owned(),
                error: error.to_owned(),
                payload: String::new(),
            };
            let response = OrderResponse {
                replica: replica.to_owned(),
                answers: vec![answer],
            };
            Asked {
                address: None,
                answer: Ok(response),
            }
        };
        for (first, second, wanted) in [("late", "", "b"), ("", "late", "a"), ("", "", "a")] {
            let orders = Orders {
                asked: vec![asked("a", first), asked("b", second)],
            };
            let answers: Vec<_> = orders.answers().map(|(replica, _)| replica).collect();
            assert_eq!(answers, [wanted]);
        }
    }
}
