//! What was heard, added up, and for how long it holds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_proto::replica::CountsUpdate;

use super::sum::Table;
use super::{Replicas, link, wire};
use crate::identity::Authority;
use crate::index::{MeshSettings, Model, Name, Objects};
use crate::serve::Metrics;
use crate::serve::counts::{Count, Counted, Counts, MAX_REFUSED};
use crate::serve::memo::Memo;
use crate::serve::streams::Streams;

const SECOND: Duration = Duration::from_secs(1);

fn name(number: u8) -> Name {
    Name::new("shop", format!("policy-{number}"))
}

fn peer(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 15180))
}

fn any_count() -> impl Strategy<Value = Count> {
    let refused = prop::collection::vec((0..9_u8, "[a-z]{1,9}"), 0..=MAX_REFUSED);
    (prop::option::of(0..3_i64), 0..100_u32, 0..100_u32, refused).prop_map(
        |(generation, acknowledged, more, refused)| Count {
            generation,
            acknowledged,
            total: acknowledged + more,
            refused: refused
                .into_iter()
                .map(|(workload, why)| (name(workload), why))
                .collect(),
        },
    )
}

fn any_counts() -> impl Strategy<Value = Counts> {
    let one = (0..5_u8).prop_map(name);
    prop::collection::btree_map(one, any_count(), 0..5)
}

fn counted(counts: Counts) -> Counted {
    Counted {
        revision: 7,
        counts,
        workloads: [(1, 10), (2, 20)].into(),
        trust: None,
    }
}

proptest! {
    #[test]
    fn totals_are_everybodys_and_confirmations_those_of_the_same_generation(
        own in any_counts(),
        others in prop::collection::vec(any_counts(), 0..4),
        generations in prop::collection::vec(prop::option::of(0..3_i64), 5),
    ) {
        let mut table = Table::default();
        for (number, counts) in others.iter().enumerate() {
            let number = number as u8;
            // The latest word counts.
            table.hear(peer(number), number.to_string(), counted(own.clone()));
            table.hear(peer(number), number.to_string(), counted(counts.clone()));
        }
        let generation = |policy: &Name| {
            (0..5).find(|number| name(*number) == *policy)
                .and_then(|number| generations[usize::from(number)])
        };
        let sum = table.sum(&own, generation);
        for number in 0..5 {
            let policy = name(number);
            let parts: Vec<&Count> = others
                .iter()
                .chain([&own])
                .filter_map(|counts| counts.get(&policy))
                .collect();
            let Some(count) = sum.get(&policy) else {
                prop_assert!(parts.is_empty());
                continue;
            };
            let wanted = generations[usize::from(number)];
            prop_assert_eq!(count.generation, wanted);
            prop_assert_eq!(count.total, parts.iter().map(|it| it.total).sum::<u32>());
            let same: Vec<_> = parts.iter().filter(|it| it.generation == wanted).collect();
            let acknowledged = same.iter().map(|it| it.acknowledged).sum::<u32>();
            prop_assert_eq!(count.acknowledged, acknowledged);
            let refused = same.iter().map(|it| it.refused.len()).sum::<usize>();
            prop_assert_eq!(count.refused.len(), refused.min(MAX_REFUSED));
        }
        for number in 0..others.len() {
            prop_assert!(table.forget(peer(number as u8)));
        }
        let alone = table.sum(&own, generation);
        prop_assert_eq!(alone.len(), own.len());
        prop_assert!(alone.iter().all(|(policy, count)| count.total == own[policy].total));
    }

    #[test]
    fn what_is_said_arrives(counts in any_counts()) {
        let said = counted(counts);
        let update = wire::write("a", &said);
        let heard = update.counted.unwrap();
        prop_assert_eq!(&heard.replica, "a");
        prop_assert_eq!(wire::read(heard), said);
    }
}

#[test]
fn of_two_streams_of_a_workload_the_newest_is_known() {
    let mut table = Table::default();
    let with = |since| Counted {
        workloads: [(1, since)].into(),
        ..Counted::default()
    };
    assert!(table.hear(peer(1), "a".to_owned(), with(10)));
    assert!(table.hear(peer(2), "b".to_owned(), with(20)));
    assert!(table.hear(peer(3), "c".to_owned(), with(30)));
    assert!(!table.hear(peer(3), "c".to_owned(), with(10)));
    assert_eq!(table.len(), 3);
    assert_eq!(table.elsewhere()[&1], (20, "b".to_owned()));
    table.forget(peer(2));
    // At the same time, the name decides.
    assert_eq!(table.elsewhere()[&1], (10, "c".to_owned()));
    assert!(!table.forget(peer(2)));
}

/// A replica without sidecars, and what keeps its model.
fn replicas() -> (Arc<Replicas>, watch::Sender<Arc<Model>>) {
    let domain = "mesh.test";
    let state = tempfile::tempdir().unwrap();
    let day = Duration::from_secs(24 * 3600);
    let authority = Authority::open(state.path(), domain, day, SystemTime::now()).unwrap();
    let objects = Objects {
        settings: MeshSettings {
            trust_domain: domain.to_owned(),
            networks: Vec::new(),
            server_first_ports: Vec::new(),
            minimum_mtls: None,
            default_authorization: crate::policy::DefaultAuthorization::AllowAll,
        },
        listeners: Vec::new(),
        workloads: Vec::new(),
        services: Vec::new(),
        policies: Vec::new(),
        broken: Vec::new(),
        routes: Vec::new(),
        grants: Vec::new(),
        refusals: Vec::new(),
    };
    let (sender, models) = watch::channel(Arc::new(Model::build(objects, 1)));
    let bundle = authority.bundle();
    let metrics = Arc::new(Metrics::new());
    let replicas = Replicas::new(
        Arc::new(authority),
        models.clone(),
        Arc::new(Memo::new(models, bundle)),
        Arc::new(Streams::new(metrics.clone())),
        metrics,
        TaskTracker::new(),
        CancellationToken::new(),
    );
    (Arc::new(replicas), sender)
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_for_15_s_counts_no_more() {
    let (replicas, _models) = replicas();
    let adding = replicas.clone();
    let adding = tokio::spawn(async move { adding.add_up().await });
    let (say, said) = mpsc::channel(1);
    let heeding = replicas.clone();
    let heeding = tokio::spawn(async move {
        let said = ReceiverStream::new(said);
        link::heed(&heeding, peer(1), said).await
    });
    let total = || replicas.counts().borrow().get(&name(1)).map(|it| it.total);
    let three = Count {
        total: 3,
        ..Count::default()
    };
    let update = wire::write("a", &counted([(name(1), three)].into()));
    say.send(Ok(update)).await.unwrap();
    // A word now and then is enough, and that it lives is one.
    for _ in 0..12 {
        sleep(SECOND * 14).await;
        assert_eq!(total(), Some(3));
        say.send(Ok(CountsUpdate::default())).await.unwrap();
    }
    sleep(SECOND * 14).await;
    assert_eq!(total(), Some(3));
    assert!(!heeding.is_finished());
    sleep(SECOND * 2).await;
    assert_eq!(total(), None);
    assert_eq!(heeding.await.unwrap(), "it said nothing for 15 s");
    let rendered = replicas.metrics.render();
    assert!(rendered.contains("weft_control_plane_replicas_lost_total 1"));
    assert!(rendered.contains("weft_control_plane_replicas_heard 0"));
    adding.abort();
}
