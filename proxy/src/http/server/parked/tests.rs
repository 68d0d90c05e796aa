use futures_util::poll;
use http::Response;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::http::Version;
use crate::http::body::ResponseBody;
use crate::http::testing::answers;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// A connection that answers with what it was sent, and its client's end, with room for so many bytes.
fn connection_of(
    room: usize,
) -> (
    DuplexStream,
    Parkable<DuplexStream, impl Handler>,
    Arc<State>,
) {
    let echo = answers(|request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(ResponseBody::full([&b"got "[..], &body, b"."].concat()))
    });
    let options = ServerOptions::default();
    let state = Arc::new(State::new(Version::Http1, Arc::clone(&options.bounds)));
    let (near, far) = duplex(room);
    let io = ServerIo::new(near, Arc::clone(&state), None);
    let service = Serving {
        handler: echo,
        state: Arc::clone(&state),
        http1: true,
        replace_at: None,
    };
    let connection = Parkable::new(io, service, Arc::clone(&state), &options);
    (far, connection, state)
}

impl<I, H: Handler> Parkable<I, H> {
    fn is_parked(&self) -> bool {
        matches!(self.place, Place::Parked(_))
    }
}

/// Polls until nothing moves.
async fn turn<H: Handler>(connection: &mut Parkable<DuplexStream, H>) {
    for _ in 0..8 {
        assert!(poll!(&mut *connection).is_pending());
        tokio::task::yield_now().await;
    }
}

/// All that has come.
async fn heard(far: &mut DuplexStream) -> String {
    let mut all = Vec::new();
    loop {
        let mut some = [0; 4096];
        let read = far.read(&mut some);
        match poll!(Box::pin(read)) {
            Poll::Ready(read) => all.extend_from_slice(&some[..read.unwrap()]),
            Poll::Pending => return String::from_utf8(all).unwrap(),
        }
    }
}

#[tokio::test]
async fn a_parked_connection_goes_on_where_it_was() {
    let (mut far, mut connection, _) = connection_of(64 * 1024);
    let long = "x".repeat(3 * 1024);
    let post = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{long}",
        long.len()
    );
    turn(&mut connection).await;
    // One that never had a request too; one request; more than the first read takes; several at once.
    for (sent, answered) in [
        (GET.to_owned(), "got .".to_owned()),
        (post, format!("got {long}.")),
        (GET.repeat(3), "got .".to_owned()),
    ] {
        assert_eq!(AT_WORK.get(), 1);
        Pin::new(&mut connection).park();
        assert!(connection.is_parked());
        assert_eq!(AT_WORK.get(), 0);
        turn(&mut connection).await;
        assert!(connection.is_parked(), "nothing has come");
        far.write_all(sent.as_bytes()).await.unwrap();
        turn(&mut connection).await;
        let answers = heard(&mut far).await;
        assert_eq!(
            answers.matches("HTTP/1.1 200 OK").count(),
            sent.matches("host").count()
        );
        assert!(answers.ends_with(&answered), "{answers}");
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_wakes_it() {
    let (mut far, mut connection, state) = connection_of(64 * 1024);
    turn(&mut connection).await;
    Pin::new(&mut connection).park();
    for byte in GET.as_bytes() {
        assert_eq!(state.requests(), 0);
        far.write_all(&[*byte]).await.unwrap();
        turn(&mut connection).await;
        // What there is of the head is in hand.
        Pin::new(&mut connection).park();
        assert_eq!(
            connection.is_parked(),
            *byte == b'\n' && state.requests() > 0
        );
    }
    assert!(heard(&mut far).await.ends_with("got ."));
}

#[tokio::test]
async fn nothing_in_hand_is_parked() {
    // An answer that the client does not take yet.
    let (mut far, mut connection, state) = connection_of(16);
    turn(&mut connection).await;
    for part in GET.as_bytes().chunks(8) {
        far.write_all(part).await.unwrap();
        turn(&mut connection).await;
    }
    assert_eq!((state.requests(), state.in_flight()), (1, 0));
    Pin::new(&mut connection).park();
    assert!(!connection.is_parked(), "the answer is not written");
    let mut answer = String::new();
    while !answer.ends_with("got .") {
        turn(&mut connection).await;
        answer += &heard(&mut far).await;
    }
    turn(&mut connection).await;
    Pin::new(&mut connection).park();
    assert!(connection.is_parked());

    // A body that is not whole.
    let (mut far, mut connection, state) = connection_of(64 * 1024);
    let half = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbo";
    far.write_all(half).await.unwrap();
    turn(&mut connection).await;
    assert_eq!(state.in_flight(), 1);
    Pin::new(&mut connection).park();
    assert!(!connection.is_parked());
    far.write_all(b"dy").await.unwrap();
    turn(&mut connection).await;
    assert!(heard(&mut far).await.ends_with("got body."));
}

#[tokio::test]
async fn a_parked_connection_ends_as_any_other() {
    for is_told in [false, true] {
        let (mut far, mut connection, _) = connection_of(64 * 1024);
        turn(&mut connection).await;
        Pin::new(&mut connection).park();
        turn(&mut connection).await;
        if is_told {
            Pin::new(&mut connection).graceful_shutdown();
            assert!(
                poll!(&mut connection).is_pending(),
                "until the peer is gone"
            );
            assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
        }
        drop(far);
        assert!(matches!(poll!(&mut connection), Poll::Ready(Ok(()))));
    }
}

#[tokio::test]
async fn what_wakes_it_is_guarded() {
    let (mut far, mut connection, _) = connection_of(64 * 1024);
    turn(&mut connection).await;
    Pin::new(&mut connection).park();
    let smuggled =
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n";
    far.write_all(smuggled.as_bytes()).await.unwrap();
    let _ = poll!(&mut connection);
    let answer = heard(&mut far).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn a_crowd_is_parked_soon() {
    let few: Vec<_> = (0..FEW).map(|_| AtWork::new()).collect();
    assert_eq!(patience(), PATIENCE);
    let one_more = AtWork::new();
    assert_eq!(patience(), LITTLE_PATIENCE);
    drop(one_more);
    assert_eq!(patience(), PATIENCE);
    drop(few);
    assert_eq!(AT_WORK.get(), 0);
}
