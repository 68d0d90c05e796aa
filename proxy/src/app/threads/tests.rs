use std::io::{Read, Write};
use std::sync::mpsc::channel;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::moving::Life;
use super::placement::TOGETHER;
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
    let threads = Threads::start(3, TOGETHER, &telemetry()).unwrap();
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
    let threads = Threads::start(3, TOGETHER, &telemetry()).unwrap();
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
    let threads = Threads::start(1, TOGETHER, &telemetry).unwrap();
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
    let threads = Threads::start(1, TOGETHER, &telemetry()).unwrap();
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
    let threads = Threads::start(2, TOGETHER, &telemetry()).unwrap();
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
    let threads = Threads::start(0, TOGETHER, &telemetry()).unwrap();
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

/// Both ends of a connection; the second belongs to no runtime yet.
fn connection() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    (client, accepted)
}

/// A connection of worker 1 that settles at once, says where it is before and after, and gives back what
/// it hears.
fn settling(
    threads: &Threads,
    tracker: &TaskTracker,
    tell: &mpsc::Sender<(Option<usize>, Option<usize>)>,
) -> std::net::TcpStream {
    let (mut client, accepted) = connection();
    let workers = threads.workers();
    let first = workers.iter().nth(1).unwrap();
    let tell = tell.clone();
    let life = Life::new("test", workers, first.count_connection(), tracker, |seat| {
        Box::pin(async move {
            let mut tcp = TcpStream::from_std(accepted).unwrap();
            // Here before the move, as detection would have it.
            let mut heard = [0];
            tcp.read_exact(&mut heard).await.unwrap();
            let before = current_worker();
            let tcp = seat.settle(tcp).await.unwrap();
            let mut tcp = seat.settle(tcp).await.unwrap();
            tell.send((before, current_worker())).unwrap();
            tcp.write_all(&heard).await.unwrap();
            let (mut read, mut write) = tcp.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        })
    });
    // The rest is there when the connection is moved.
    client.write_all(b"abc").unwrap();
    first.spawn("test", life);
    client
}

fn duties(threads: &Threads) -> Vec<(usize, usize)> {
    let workers = threads.workers().iter();
    workers
        .map(|worker| (worker.connections(), worker.duty.load().connections))
        .collect()
}

/// Workers that have begun know how busy they are.
fn begun(workers: usize, together: usize, telemetry: &Arc<Telemetry>) -> Threads {
    let threads = Threads::start(workers, together, telemetry).unwrap();
    let (tell, told) = channel();
    for worker in threads.workers().iter() {
        let tell = tell.clone();
        worker.spawn("test", async move { tell.send(()).unwrap() });
    }
    for _ in 0..workers {
        told.recv_timeout(SOON).unwrap();
    }
    threads
}

#[test]
fn connections_go_on_where_they_are_placed() {
    let threads = begun(2, 2, &telemetry());
    let workers: Vec<_> = threads.workers().iter().collect();
    let tracker = TaskTracker::new();
    let (tell, told) = channel();
    let mut clients = Vec::new();
    for (place, duty) in [
        (0, [(1, 1), (0, 0)]),
        (0, [(2, 2), (0, 0)]),
        (1, [(2, 2), (1, 1)]),
    ] {
        let mut client = settling(&threads, &tracker, &tell);
        assert_eq!(told.recv_timeout(SOON), Ok((Some(1), Some(place))));
        let mut echo = [0; 3];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"abc");
        assert_eq!(duties(&threads), duty);
        clients.push(client);
        assert_eq!(tracker.len(), clients.len());
    }
    // Where one has much to do, the other one is the place.
    workers[1].duty.share.set(Some(0.7));
    clients.push(settling(&threads, &tracker, &tell));
    assert_eq!(told.recv_timeout(SOON), Ok((Some(1), Some(0))));

    // They end where they are, and nothing of them is left.
    for client in &clients {
        client.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let heard = clients.into_iter().map(|mut client| {
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap();
        rest
    });
    assert_eq!(heard.collect::<Vec<_>>(), ["", "", "", "abc"]);
    let (ended, all_ended) = channel();
    tracker.close();
    threads.control().spawn("end", async move {
        tracker.wait().await;
        ended.send(()).unwrap();
    });
    all_ended.recv_timeout(SOON).unwrap();
    assert_eq!(threads.join(SOON), Ok(()));
}

#[test]
fn one_worker_moves_nothing() {
    let telemetry = telemetry();
    let threads = Threads::start(1, 2, &telemetry).unwrap();
    let (mut client, accepted) = connection();
    let (worker, count) = threads.workers().assign();
    let life = Life::new(
        "test",
        threads.workers(),
        count,
        &TaskTracker::new(),
        |seat| {
            Box::pin(async move {
                let tcp = TcpStream::from_std(accepted).unwrap();
                let mut tcp = seat.settle(tcp).await.unwrap();
                tcp.write_all(b"x").await.unwrap();
            })
        },
    );
    worker.spawn("test", life);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"x");
    assert_eq!(threads.join(SOON), Ok(()));
}

#[test]
fn the_busiest_worker_sends_clients_away() {
    let telemetry = telemetry();
    let threads = begun(2, 8, &telemetry);
    let workers = threads.workers();
    let sent_away = |worker: &WorkerHandle| {
        let (tell, told) = channel();
        worker.spawn("test", async move {
            let count = std::iter::repeat_with(crate::worker::sends_away);
            tell.send(count.take(100).filter(|away| *away).count())
                .unwrap();
        });
        told.recv_timeout(SOON).unwrap()
    };
    let all: Vec<_> = workers.iter().collect();
    assert_eq!((sent_away(all[0]), sent_away(all[1])), (0, 0));
    let counts: Vec<_> = (0..6).map(|_| workers.place()).collect();
    assert_eq!(duties(&threads), [(0, 6), (0, 0)]);
    workers.relieve();
    assert_eq!((sent_away(all[0]), sent_away(all[1])), (0, 0));

    all[0].duty.share.set(Some(1.0));
    workers.relieve();
    assert_eq!((sent_away(all[1]), sent_away(all[0])), (0, 3));
    // Told anew each time, and no longer than it is true.
    workers.relieve();
    all[0].duty.share.set(Some(0.4));
    workers.relieve();
    assert_eq!(sent_away(all[0]), 0);
    let rendered = telemetry.render();
    assert!(rendered.contains("\nweft_connections_sent_away_total 3\n"));
    drop(counts);
    assert_eq!(duties(&threads), [(0, 0), (0, 0)]);
    assert_eq!(threads.join(SOON), Ok(()));
}

#[test]
fn the_control_thread_knows_how_busy_workers_are() {
    let threads = Threads::start(2, 8, &telemetry()).unwrap();
    let workers = threads.workers().clone();
    let (stop, stopped) = channel::<()>();
    let busy = workers.iter().nth(1).unwrap();
    busy.spawn("busy", async move {
        while stopped.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            std::hint::spin_loop();
        }
    });
    threads
        .control()
        .spawn("balance", workers.clone().balance());
    let share = |id: usize| workers.handles[id].duty.load().share;
    let began = Instant::now();
    // However little of the machine it gets.
    while share(1).is_none_or(|share| share < 0.05) {
        assert!(began.elapsed() < SOON, "{:?} {:?}", share(0), share(1));
        thread::sleep(Duration::from_millis(20));
    }
    assert!(share(0) < share(1), "{:?} {:?}", share(0), share(1));
    drop(stop);
    assert_eq!(threads.join(SOON), Ok(()));
}

proptest! {
    #[test]
    fn no_quota_is_too_strange(text in "\\PC*|[0-9]{1,25} [0-9]{1,25}") {
        prop_assert!((1..=256).contains(&workers_of(&text)));
    }
}
