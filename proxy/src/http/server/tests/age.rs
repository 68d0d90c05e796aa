//! Connections that become too old.

use super::*;

const AGE: Duration = Duration::from_secs(3_600);

fn aging() -> ServerOptions {
    ServerOptions {
        idle_limit: 10 * AGE,
        replace_at: Some(Instant::now() + AGE),
        ..ServerOptions::default()
    }
}

/// Answers after ten seconds.
fn slow() -> Arc<impl Handler> {
    answers(|_| async {
        tokio::time::sleep(10 * SECOND).await;
        Response::new(ResponseBody::full("ok"))
    })
}

#[tokio::test(start_paused = true)]
async fn http1_says_so_in_the_next_response() {
    let (mut peer, _closing, task) = serve_one(Version::Http1, slow(), aging());
    peer.write(GET).await;
    assert!(!peer.read_until("ok").await.contains("connection"));
    // Under way when the time comes.
    tokio::time::sleep(AGE.saturating_sub(11 * SECOND)).await;
    peer.write(GET).await;
    tokio::time::sleep(5 * SECOND).await;
    let answer = peer.read_until("ok").await;
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(peer.ends_within(SECOND).await);
    drop(peer);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn http1_closes_no_idle_connection() {
    let (mut peer, _closing, task) = serve_one(Version::Http1, ok(), aging());
    peer.write(GET).await;
    peer.read_until("ok").await;
    assert!(!peer.ends_within(3 * AGE).await);
    peer.write(GET).await;
    let answer = peer.read_until("ok").await;
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(peer.ends_within(SECOND).await);
    drop(peer);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn http2_is_sent_away_and_finishes() {
    let (peer, _closing, task) = serve_one(Version::Http2, slow(), aging());
    let (mut send, connection) = h2::client::handshake(peer.0).await.unwrap();
    let client = tokio::spawn(connection);
    let get = || Request::get("http://a/").body(()).unwrap();
    let (first, _) = send.send_request(get(), true).unwrap();
    assert_eq!(first.await.unwrap().status(), 200);

    tokio::time::sleep(AGE.saturating_sub(15 * SECOND)).await;
    send = send.ready().await.unwrap();
    let begun = Instant::now();
    let (in_flight, _) = send.send_request(get(), true).unwrap();
    tokio::time::sleep(6 * SECOND).await;
    // The time has come, and the connection takes nothing new.
    assert!(send.ready().await.is_err());
    let answer = in_flight.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(begun.elapsed() >= 10 * SECOND);
    drop(answer);
    client.await.unwrap().unwrap();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_http2_stream_may_outlive_its_connections_age() {
    let long = answers(|_| async {
        tokio::time::sleep(2 * AGE).await;
        Response::new(ResponseBody::full("ok"))
    });
    let (peer, _closing, task) = serve_one(Version::Http2, long, aging());
    let (mut send, connection) = h2::client::handshake(peer.0).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://a/").body(()).unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    drop(send);
    assert_eq!(answer.await.unwrap().status(), 200);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_ends() {
    let (peer, _closing, task) = serve_one(Version::Http2, ok(), aging());
    let (send, connection) = h2::client::handshake(peer.0).await.unwrap();
    let client = tokio::spawn(connection);
    let begun = Instant::now();
    client.await.unwrap().unwrap();
    task.await.unwrap();
    drop(send);
    assert!((AGE..AGE + 5 * SECOND).contains(&begun.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn without_an_age_nothing_is_said() {
    let options = ServerOptions {
        idle_limit: 10 * AGE,
        ..ServerOptions::default()
    };
    let (mut peer, _closing, _task) = serve_one(Version::Http1, ok(), options);
    for _ in 0..3 {
        tokio::time::sleep(2 * AGE).await;
        peer.write(GET).await;
        assert!(!peer.read_until("ok").await.contains("connection"));
    }
}
