//! The table of who is connected.

use std::sync::Arc;

use weft_proto::discovery::{Command, CommandReply, Report, ResourceKey, Version};

use super::harness::objects;
use crate::index::{Model, Name};
use crate::serve::Metrics;
use crate::serve::streams::{Acknowledgement, CommandError, Introduction, Streams};

fn introduction(name: &str) -> Introduction {
    Introduction {
        workload: Name::new("shop", name),
        service_account: "web".to_owned(),
        zone: String::new(),
        proxy_version: "0.1.0".to_owned(),
    }
}

fn streams() -> Arc<Streams> {
    Arc::new(Streams::new(Arc::new(Metrics::new())))
}

#[tokio::test]
async fn a_command_finds_its_answer() {
    let streams = streams();
    let (membership, mut commands) = streams.join(introduction("web")).unwrap();
    let (stranger, _) = streams.join(introduction("stranger")).unwrap();
    let sidecar = async {
        let command = commands.recv().await.unwrap();
        // Somebody else's answer to the same command is nobody's.
        stranger.replied(CommandReply {
            id: command.id,
            error: "not mine".to_owned(),
            payload: String::new(),
        });
        membership.replied(CommandReply {
            id: command.id,
            error: String::new(),
            payload: "{}".to_owned(),
        });
    };
    let name = Name::new("shop", "web");
    let (reply, ()) = tokio::join!(streams.command(&name, Command::default()), sidecar);
    assert_eq!(reply.unwrap().payload, "{}");
}

#[tokio::test(start_paused = true)]
async fn commands_without_answers_end() {
    let streams = streams();
    let name = Name::new("shop", "web");
    let command = || streams.command(&name, Command::default());
    assert_eq!(command().await, Err(CommandError::NotConnected));

    let (membership, commands) = streams.join(introduction("web")).unwrap();
    assert_eq!(command().await, Err(CommandError::TimedOut));

    let leave = async {
        tokio::task::yield_now().await;
        drop(commands);
        drop(membership);
    };
    let (reply, ()) = tokio::join!(command(), leave);
    assert_eq!(reply, Err(CommandError::NotConnected));
    assert!(streams.snapshot().is_empty());
}

#[test]
fn the_newest_stream_of_a_workload_counts() {
    let streams = streams();
    let (old, _old_commands) = streams.join(introduction("web")).unwrap();
    let answer = |revision| Acknowledgement {
        version: Version {
            source_revision: revision,
            ..Version::default()
        },
        refused: None,
    };
    old.acknowledged(ResourceKey::default(), answer(1));
    let model = Model::build(objects(), 1);
    let report = |run| Report {
        run,
        ..Report::default()
    };
    old.reported(report(1), &model);
    let (new, _new_commands) = streams.join(introduction("web")).unwrap();
    old.acknowledged(ResourceKey::default(), answer(2));
    old.reported(report(2), &model);
    assert!(streams.snapshot()[0].acks.is_empty());
    new.acknowledged(ResourceKey::default(), answer(3));
    new.acknowledged(ResourceKey::default(), answer(4));

    drop(old);
    let connected = streams.snapshot();
    assert_eq!(connected.len(), 1);
    assert_eq!(connected[0].acks, [(ResourceKey::default(), answer(4))]);
    let told = || -> Vec<_> {
        let watchers = streams.edges("a").watchers.into_iter();
        watchers.map(|it| (it.run, it.gone_seconds)).collect()
    };
    assert_eq!(told(), [(1, None)]);
    new.reported(report(3), &model);
    assert_eq!(told(), [(1, Some(0)), (3, None)]);
    new.unsubscribed(&ResourceKey::default());
    assert!(streams.snapshot()[0].acks.is_empty());
    drop(new);
    assert!(streams.snapshot().is_empty());
    assert_eq!(told(), [(1, Some(0)), (3, Some(0))]);
}
