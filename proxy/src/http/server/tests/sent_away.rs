//! Clients of a worker that has too much to do.

use super::*;
use crate::worker::{self, Leavers};

/// This thread's, which is a worker from now on.
fn leavers() -> Arc<Leavers> {
    let leavers = Arc::new(Leavers::default());
    worker::enter(0, Arc::clone(&leavers));
    leavers
}

fn slow() -> Arc<impl Handler> {
    answers(|_| async {
        tokio::time::sleep(5 * SECOND).await;
        Response::new(ResponseBody::full("ok"))
    })
}

#[tokio::test(start_paused = true)]
async fn as_many_http1_clients_as_it_says() {
    let leavers = leavers();
    let mut peers = Vec::new();
    for _ in 0..3 {
        let (mut peer, closing, task) = serve_one(Version::Http1, ok(), options());
        peer.write(GET).await;
        assert!(!peer.read_until("ok").await.contains("connection"));
        peers.push((peer, closing, task));
    }
    // Idle connections are not closed: that could cross a request.
    leavers.set(2);
    assert!(!peers[0].0.ends_within(SECOND).await);
    let mut sent_away = Vec::new();
    for (peer, _, _) in &mut peers {
        peer.write(GET).await;
        let answer = peer.read_until("ok").await;
        let told = answer.contains("connection: close\r\n");
        assert_eq!(peer.ends_within(SECOND).await, told);
        sent_away.push(told);
    }
    assert_eq!(sent_away, [true, true, false]);
    let (peer, _, _) = &mut peers[2];
    peer.write(GET).await;
    assert!(!peer.read_until("ok").await.contains("connection"));
}

#[tokio::test(start_paused = true)]
async fn who_is_not_found_in_time_stays() {
    let leavers = leavers();
    leavers.set(2);
    leavers.set(0);
    let (mut peer, _closing, _task) = serve_one(Version::Http1, ok(), options());
    peer.write(GET).await;
    assert!(!peer.read_until("ok").await.contains("connection"));
}

#[tokio::test(start_paused = true)]
async fn a_busy_http2_client_once() {
    let leavers = leavers();
    let (idle, _closing, _task) = serve_one(Version::Http2, slow(), options());
    let (_idle, connection) = h2::client::handshake(idle.0).await.unwrap();
    let idle = tokio::spawn(connection);

    let (peer, _closing, task) = serve_one(Version::Http2, slow(), options());
    let (mut send, connection) = h2::client::handshake(peer.0).await.unwrap();
    let client = tokio::spawn(connection);
    let get = || Request::get("http://a/").body(()).unwrap();
    let (first, _) = send.send_request(get(), true).unwrap();
    tokio::time::sleep(SECOND).await;
    leavers.set(2);
    // What wakes the connection.
    send = send.ready().await.unwrap();
    let (second, _) = send.send_request(get(), true).unwrap();
    tokio::time::sleep(SECOND).await;
    assert!(send.ready().await.is_err(), "no GOAWAY came");
    for answer in [first, second] {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    client.await.unwrap().unwrap();
    task.await.unwrap();
    assert!(!idle.is_finished());
    assert!(worker::sends_away(), "both fell to one connection");
}
