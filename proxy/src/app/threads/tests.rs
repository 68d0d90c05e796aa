use std::sync::mpsc::channel;

use proptest::prelude::*;

use super::quota::{workers_of, workers_under};
use super::*;
use crate::telemetry::ProcessLabels;
use crate::worker::current as current_worker;

const SOON: Duration = Duration::from_secs(10);

fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(ProcessLabels {
        workload: "web-1".into(),
        namespace: "shop".into(),
    })
}

#[test]
fn tasks_run_where_they_are_sent() {
    let threads = Threads::start(3, &telemetry()).unwrap();
    let (tell, told) = channel();
    for worker in threads.workers().iter() {
        let tell = tell.clone();
        let id = worker.id();
        worker.spawn("test", async move {
            tokio::task::yield_now().await;
            let name = thread::current().name().map(str::to_owned);
            tell.send((Some(id), current_worker(), name)).unwrap();
        });
    }
    threads.control().spawn("test", async move {
        let name = thread::current().name().map(str::to_owned);
        tell.send((None, current_worker(), name)).unwrap();
    });
    let mut seen: Vec<_> = told.iter().take(4).collect();
    seen.sort();
    assert_eq!(seen[0], (None, None, Some("weft-control".to_owned())));
    for (id, (sent, ran, name)) in seen[1..].iter().enumerate() {
        assert_eq!((*sent, *ran), (Some(id), Some(id)));
        assert_eq!(name.as_deref(), Some(format!("weft-worker-{id}").as_str()));
    }
    assert_eq!(current_worker(), None);
    assert_eq!(threads.join(SOON), Ok(()));
}

#[test]
fn connections_go_to_the_fewest() {
    let threads = Threads::start(3, &telemetry()).unwrap();
    let workers = threads.workers();
    let counts: Vec<_> = (0..7).map(|_| workers.assign()).collect();
    let ids: Vec<_> = counts.iter().map(|(worker, _)| worker.id()).collect();
    assert_eq!(ids, [0, 1, 2, 0, 1, 2, 0]);
    drop(counts);
    assert!(workers.iter().all(|worker| worker.connections() == 0));
    let _kept = workers.iter().next().unwrap().count_connection();
    assert_eq!(workers.least_loaded().id(), 1);
    assert_eq!(workers.count(), 3);
}

#[test]
fn a_panic_ends_its_task_only() {
    let telemetry = telemetry();
    let threads = Threads::start(1, &telemetry).unwrap();
    let worker = threads.workers().least_loaded().clone();
    worker.spawn("broken", async { panic!("on purpose") });
    let (tell, told) = channel();
    worker.spawn("fine", async move { tell.send(()).unwrap() });
    told.recv_timeout(SOON).unwrap();
    assert!(telemetry.render().contains("\nweft_panics_total 1\n"));
    assert_eq!(threads.join(SOON), Ok(()));
}

#[test]
fn joining_drops_what_is_left_and_workers_end_before_control() {
    struct TellsItsEnd(&'static str, mpsc::Sender<&'static str>);
    impl Drop for TellsItsEnd {
        fn drop(&mut self) {
            self.1.send(self.0).unwrap();
        }
    }
    let threads = Threads::start(1, &telemetry()).unwrap();
    let (tell, told) = channel();
    let control = TellsItsEnd("control", tell.clone());
    threads.control().spawn("endless", async move {
        let _end = control;
        std::future::pending::<()>().await;
    });
    let worker = TellsItsEnd("worker", tell);
    threads
        .workers()
        .least_loaded()
        .spawn("endless", async move {
            let _end = worker;
            std::future::pending::<()>().await;
        });
    assert_eq!(threads.join(SOON), Ok(()));
    assert_eq!(told.iter().collect::<Vec<_>>(), ["worker", "control"]);
}

#[test]
fn a_stuck_thread_is_named() {
    let threads = Threads::start(2, &telemetry()).unwrap();
    let (release, released) = channel::<()>();
    let (tell, told) = channel();
    let stuck = threads.workers().iter().nth(1).unwrap();
    stuck.spawn("stuck", async move {
        tell.send(()).unwrap();
        // Blocks the thread, as no task should.
        let _ = released.recv();
    });
    told.recv_timeout(SOON).unwrap();
    let joined = threads.join(Duration::from_secs(2));
    assert_eq!(joined, Err(Stuck(vec!["weft-worker-1".to_owned()])));
    drop(release);
}

#[test]
fn there_is_always_a_worker() {
    let threads = Threads::start(0, &telemetry()).unwrap();
    assert_eq!(threads.workers().count(), 1);
    let worker = threads.workers().least_loaded().clone();
    assert_eq!(threads.join(SOON), Ok(()));
    worker.spawn("late", async { unreachable!("the worker has ended") });
}

#[test]
fn quotas_are_rounded_up() {
    for (text, workers) in [
        ("max 100000\n", 1),
        ("100000 100000\n", 1),
        ("100001 100000\n", 2),
        ("250000 100000\n", 3),
        ("10000 100000\n", 1),
        ("0 100000\n", 1),
        ("100000 0\n", 1),
        ("99999999999999 100000\n", 256),
        ("", 1),
        ("1", 1),
    ] {
        assert_eq!(workers_of(text), workers, "{text:?}");
    }
    assert!(default_workers() >= 1);
}

#[test]
fn both_versions_of_control_groups_are_read() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(workers_under(dir.path()), 1, "no limit is known");
    std::fs::create_dir(dir.path().join("cpu")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("cpu/cpu.cfs_quota_us", "-1\n");
    write("cpu/cpu.cfs_period_us", "100000\n");
    assert_eq!(workers_under(dir.path()), 1, "no limit");
    write("cpu/cpu.cfs_quota_us", "250000\n");
    assert_eq!(workers_under(dir.path()), 3);
    write("cpu.max", "150000 100000\n");
    assert_eq!(workers_under(dir.path()), 2);
}

proptest! {
    #[test]
    fn no_quota_is_too_strange(text in "\\PC*|[0-9]{1,25} [0-9]{1,25}") {
        prop_assert!((1..=256).contains(&workers_of(&text)));
    }
}
