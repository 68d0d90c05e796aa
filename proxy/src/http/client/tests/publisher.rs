use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use super::super::io::{Link, Publisher};

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_settings_are_asked_only_while_somebody_waits_for_an_answer() {
    let link = Arc::new(Link::new());
    let publisher = Publisher::new(Arc::clone(&link));
    let (asked, takes) = (Cell::new(0), Cell::new(false));
    let publish = || {
        publisher.publish(100, || {
            asked.set(asked.get() + 1);
            takes.get()
        });
    };
    publish();
    assert_eq!(asked.get(), 0, "nobody wants to know");

    let first = link.ask_for_extended_connect();
    let second = link.ask_for_extended_connect();
    publish();
    publish();
    assert_eq!(asked.get(), 2);
    assert!(!link.takes_extended_connect());
    drop(first);
    publish();
    assert_eq!(asked.get(), 3, "one still waits");
    takes.set(true);
    publish();
    assert!(link.takes_extended_connect());
    assert_eq!(asked.get(), 4);
    publish();
    assert_eq!(asked.get(), 4, "that it does is for ever");
    drop(second);
    publish();
    assert_eq!(asked.get(), 4);
    assert!(link.takes_extended_connect());
}

#[test]
fn more_streams_than_before_are_told() {
    let publisher = Publisher::new(Arc::new(Link::new()));
    let streams = [(10, false), (20, true), (20, false), (5, false), (6, true)];
    for (streams, more) in streams {
        assert_eq!(publisher.publish(streams, || false), more, "{streams}");
    }
}

#[test]
fn the_task_that_polls_now_is_woken() {
    let link = Arc::new(Link::new());
    let mut publisher = Publisher::new(Arc::clone(&link));
    let asking = link.ask_for_extended_connect();
    let (first, second) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    let count = |woken: &Woken| woken.0.load(Ordering::Relaxed);

    let waker = Waker::from(Arc::clone(&first));
    publisher.listen(&waker);
    asking.look_again();
    assert_eq!((count(&first), count(&second)), (1, 0));
    // Having been woken once does not undo it.
    publisher.listen(&waker);
    asking.look_again();
    assert_eq!((count(&first), count(&second)), (2, 0));
    publisher.listen(&Waker::from(Arc::clone(&second)));
    asking.look_again();
    assert_eq!((count(&first), count(&second)), (2, 1));
}
