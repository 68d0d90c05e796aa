use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A connection that a listener still finds when it stops is served to its end.
#[tokio::test(start_paused = true)]
async fn the_last_connections_are_finished() {
    let (sender, mut closing) = closing::channel();
    let (accepting, connections) = (TaskTracker::new(), TaskTracker::new());
    let served = Arc::new(AtomicBool::new(false));
    accepting.spawn({
        let (connections, served) = (connections.clone(), Arc::clone(&served));
        async move {
            assert_eq!(closing.reached(Phase::Finishing).await, Phase::Finishing);
            // Taking over what the kernel has takes a while.
            sleep(SECOND).await;
            connections.spawn(async move {
                sleep(3 * SECOND).await;
                served.store(true, Ordering::Relaxed);
            });
        }
    });
    connections.spawn(sleep(5 * SECOND));
    sender.advance(Phase::Draining);
    let begin = Instant::now();
    finish(&sender, &accepting, &connections).await;
    assert!(served.load(Ordering::Relaxed), "was not waited for");
    assert!(begin.elapsed() >= 9 * SECOND);
    assert_eq!(sender.phase(), Phase::Finishing);
}
