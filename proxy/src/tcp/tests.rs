use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

#[tokio::test]
async fn half_close_leaves_the_other_direction_open() {
    let (mut app, mut near) = duplex(16);
    let (mut far, mut peer) = duplex(16);
    let progress = Progress::default();
    let relay = relay(&mut near, &mut far, &progress);

    let talk = async {
        app.write_all(b"a question longer than the pipe")
            .await
            .unwrap();
        app.shutdown().await.unwrap();
        let mut question = Vec::new();
        peer.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"a question longer than the pipe");
        peer.write_all(b"an answer after the end of the question")
            .await
            .unwrap();
        peer.shutdown().await.unwrap();
        let mut answer = Vec::new();
        app.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"an answer after the end of the question");
    };
    let (result, ()) = tokio::join!(relay, talk);
    result.unwrap();
    assert_eq!(progress.upstream.into_inner(), 31);
    assert_eq!(progress.downstream.into_inner(), 39);
}

#[tokio::test]
async fn an_idle_relay_holds_no_buffer() {
    let (_app, mut near) = duplex(16);
    let (mut far, _peer) = duplex(16);
    let progress = Progress::default();
    let mut relay = Box::pin(relay(&mut near, &mut far, &progress));
    let idle = futures_util::poll!(&mut relay);
    assert!(idle.is_pending());
    let spare = SPARE.with_borrow(Vec::len);
    assert!(spare >= 1, "the buffer was given back");
}

#[tokio::test]
async fn a_vanished_peer_is_the_servers_fault() {
    let (mut app, mut near) = duplex(16);
    let (mut far, peer) = duplex(16);
    drop(peer);
    app.write_all(b"x").await.unwrap();
    let progress = Progress::default();
    let error = relay(&mut near, &mut far, &progress).await.unwrap_err();
    assert!(matches!(error, RelayError::Server(_)), "{error}");
}
