use std::collections::VecDeque;

use http_body_util::BodyExt;
use proptest::prelude::*;

use super::*;
use crate::bounds::{Bounds, ProcessLimits};

/// A body of given frames; `None` stands for nothing there yet.
#[derive(Debug)]
struct Frames(
    VecDeque<Option<Result<Frame<Bytes>, std::io::ErrorKind>>>,
    SizeHint,
);

impl Body for Frames {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.0.pop_front() {
            None => Poll::Ready(None),
            Some(None) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Some(frame)) => {
                Poll::Ready(Some(frame.map_err(|kind| {
                    BodyError::Other(std::io::Error::from(kind).into())
                })))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.1
    }
}

fn plenty() -> Arc<KeptBytes> {
    Arc::clone(&Bounds::uncounted(ProcessLimits::DEFAULT).kept)
}

fn data(pieces: &[&str]) -> Frames {
    let frames = pieces
        .iter()
        .map(|piece| Some(Ok(Frame::data(Bytes::copy_from_slice(piece.as_bytes())))));
    Frames(frames.collect(), SizeHint::default())
}

async fn next(body: &mut ReplayBody<Frames>) -> Option<Bytes> {
    Some(body.frame().await?.unwrap().into_data().unwrap())
}

async fn all(body: ReplayBody<Frames>) -> (Bytes, Option<HeaderMap>) {
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    (collected.to_bytes(), trailers)
}

#[tokio::test]
async fn a_whole_body_is_sent_again_with_its_trailers() {
    let mut source = data(&["one", "two"]);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", http::HeaderValue::from_static("1"));
    source
        .0
        .push_back(Some(Ok(Frame::trailers(trailers.clone()))));
    let (first, tee) = ReplayBody::new(source, 6, &plenty());
    assert_eq!(tee.lock().state(), ReplayState::InProgress { buffered: 0 });
    let expected = (Bytes::from_static(b"onetwo"), Some(trailers));
    assert_eq!(all(first).await, expected);
    assert_eq!(tee.lock().state(), ReplayState::Replayable);
    for _ in 0..2 {
        let again = ReplayBody::another(&tee).unwrap();
        // Not exact: HTTP/1 has no trailers after an announced length.
        assert_eq!(
            (again.size_hint().lower(), again.size_hint().upper()),
            (6, None)
        );
        assert_eq!(all(again).await, expected);
    }
}

#[tokio::test]
async fn trailers_alone_are_sent_again() {
    let mut source = data(&[]);
    source
        .0
        .push_back(Some(Ok(Frame::trailers(HeaderMap::new()))));
    let (first, tee) = ReplayBody::new(source, 6, &plenty());
    assert!(!first.is_end_stream());
    assert_eq!(all(first).await.1, Some(HeaderMap::new()));
    let again = ReplayBody::another(&tee).unwrap();
    assert!(!again.is_end_stream());
    assert_eq!(all(again).await.1, Some(HeaderMap::new()));
}

#[tokio::test]
async fn past_the_bound_the_try_goes_on() {
    let (mut first, tee) = ReplayBody::new(data(&["one", "two", "three"]), 6, &plenty());
    next(&mut first).await;
    next(&mut first).await;
    assert_eq!(tee.lock().state(), ReplayState::InProgress { buffered: 6 });
    assert_eq!(next(&mut first).await.unwrap(), "three");
    assert_eq!(tee.lock().state(), ReplayState::TooBig);
    assert!(ReplayBody::another(&tee).is_none());
    assert!(next(&mut first).await.is_none());
    assert!(first.is_end_stream());
    assert!(tee.lock().pieces.is_empty());
}

#[tokio::test]
async fn what_all_bodies_keep_is_bounded() {
    let limits = ProcessLimits {
        body_buffer: 8,
        ..ProcessLimits::DEFAULT
    };
    let kept = Arc::clone(&Bounds::uncounted(limits).kept);
    let (mut first, one) = ReplayBody::new(data(&["first"]), 6, &kept);
    next(&mut first).await;
    assert_eq!(kept.taken(), 5);
    let (mut second, two) = ReplayBody::new(data(&["abc", "d"]), 6, &kept);
    next(&mut second).await;
    assert_eq!(kept.taken(), 8);
    assert_eq!(two.lock().state(), ReplayState::InProgress { buffered: 3 });
    // No room: the try goes on, and what was kept is given back.
    assert_eq!(next(&mut second).await.unwrap(), "d");
    assert_eq!(two.lock().state(), ReplayState::TooBig);
    assert_eq!(kept.taken(), 5);
    drop((first, one));
    assert_eq!(kept.taken(), 0);
}

#[tokio::test]
async fn a_copy_takes_its_share_for_as_long_as_it_lives() {
    let kept = plenty();
    let (mut first, tee) = ReplayBody::new(data(&["body"]), 6, &kept);
    let (sender, copy) = oneshot::channel();
    tee.lock().copy_to = Some(sender);
    while first.frame().await.is_some() {}
    let Ok(Copied::Whole(copy)) = copy.await else {
        panic!("no copy");
    };
    drop((first, tee));
    assert_eq!(kept.taken(), 4);
    drop(copy);
    assert_eq!(kept.taken(), 0);
}

#[tokio::test]
async fn another_try_reads_on_where_the_first_stopped() {
    let mut source = data(&["one", "two", "three"]);
    source.0.insert(1, None);
    let (mut first, tee) = ReplayBody::new(source, 64, &plenty());
    assert_eq!(next(&mut first).await.unwrap(), "one");
    let mut second = ReplayBody::another(&tee).unwrap();
    let error = first.frame().await.unwrap().unwrap_err();
    assert_eq!(error.reset_reason(), Some(h2::Reason::CANCEL));
    assert!(!first.is_end_stream());
    assert_eq!(next(&mut second).await.unwrap(), "one");
    assert_eq!(next(&mut second).await.unwrap(), "two");
    drop(first);
    drop(second);
    let third = ReplayBody::another(&tee).unwrap();
    assert_eq!(all(third).await.0, "onetwothree");
}

#[tokio::test]
async fn a_broken_source_has_no_replay() {
    let mut source = data(&["one"]);
    source
        .0
        .push_back(Some(Err(std::io::ErrorKind::ConnectionReset)));
    let (first, tee) = ReplayBody::new(source, 64, &plenty());
    assert!(first.collect().await.is_err());
    assert_eq!(tee.lock().state(), ReplayState::Broken);
    assert!(ReplayBody::another(&tee).is_none());
}

#[test]
fn what_is_in_memory_is_always_replayable() {
    let handle = ReplayHandle::whole("abc");
    assert_eq!(handle.state(), ReplayState::Replayable);
    let again = handle.another().unwrap();
    assert_eq!(again.size_hint().exact(), Some(3));
    assert!(ReplayHandle::whole("").another().unwrap().is_end_stream());
    assert!(ReplayHandle(Kept::TooBig).another().is_none());
}

#[test]
fn small_frames_do_not_pin_large_buffers() {
    let big = Bytes::from(vec![7; 1 << 20]);
    let (_, tee) = ReplayBody::new(data(&[]), 10_000, &plenty());
    let mut tee = tee.lock();
    for start in 0..10_000 {
        tee.keep(&big.slice(start..=start));
    }
    tee.seal();
    assert!(
        tee.pieces.len() <= 3 + 10_000 / COPY_STEP,
        "{}",
        tee.pieces.len()
    );
    drop(big);
}

proptest! {
    #[test]
    fn a_second_try_sends_the_same_bytes(
        sizes in prop::collection::vec(0_usize..3_000, 0..12),
        read in 0_usize..12,
    ) {
        let mut sent = Vec::new();
        let mut frames = VecDeque::new();
        for (index, size) in sizes.iter().enumerate() {
            let piece = vec![index as u8; *size];
            sent.extend_from_slice(&piece);
            frames.push_back(Some(Ok(Frame::data(Bytes::from(piece)))));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut first, tee) = ReplayBody::new(Frames(frames, SizeHint::default()), 1 << 20, &plenty());
            for _ in 0..read {
                if next(&mut first).await.is_none() {
                    break;
                }
            }
            let again = ReplayBody::another(&tee).unwrap();
            assert_eq!(all(again).await.0, sent);
            let third = ReplayBody::another(&tee).unwrap();
            assert_eq!(third.size_hint().exact(), Some(sent.len() as u64));
            assert_eq!(all(third).await.0, sent);
        });
    }

    /// Any number of tries, each given up somewhere, of a source that may be slow, too long, broken
    /// or end with trailers: every try sends the beginning of the same bytes, the source is read
    /// once, and the last try has all of it or there is none.
    #[test]
    fn every_try_sends_the_same_from_the_start(
        pieces in prop::collection::vec((0_usize..3_000, 0_usize..3), 0..10),
        trailers: bool,
        breaks in prop::option::weighted(0.3, 0_usize..10),
        tries in prop::collection::vec(0_usize..14, 0..4),
        limit in 0_usize..16_000,
    ) {
        let mut frames = VecDeque::new();
        let mut sent = Vec::new();
        let breaks = breaks.filter(|at| *at < pieces.len());
        for (index, (size, waits)) in pieces.iter().enumerate() {
            frames.extend((0..*waits).map(|_| None));
            if breaks == Some(index) {
                frames.push_back(Some(Err(std::io::ErrorKind::ConnectionReset)));
                break;
            }
            let piece: Vec<u8> = (0..*size).map(|at| (at * at / 5 + index) as u8).collect();
            sent.extend_from_slice(&piece);
            frames.push_back(Some(Ok(Frame::data(Bytes::from(piece)))));
        }
        let mut expected = None;
        if trailers && breaks.is_none() {
            let sum = http::HeaderValue::from(sent.len());
            let map = HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), sum)]);
            frames.push_back(Some(Ok(Frame::trailers(map.clone()))));
            expected = Some(map);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut body, tee) = ReplayBody::new(Frames(frames, SizeHint::default()), limit, &plenty());
            for read in tries {
                let mut start = Vec::new();
                for _ in 0..read {
                    match body.frame().await {
                        Some(Ok(frame)) => {
                            if let Some(data) = frame.data_ref() {
                                start.extend_from_slice(data);
                            } else {
                                assert_eq!(frame.trailers_ref(), expected.as_ref());
                                assert_eq!(start, sent, "trailers come last");
                            }
                        }
                        Some(Err(_)) => assert!(breaks.is_some()),
                        None => break,
                    }
                }
                assert!(sent.starts_with(&start));
                let state = tee.lock().state();
                let Some(again) = ReplayBody::another(&tee) else {
                    let gone = [ReplayState::TooBig, ReplayState::Broken];
                    assert!(gone.contains(&state), "{state:?}");
                    // It went on, or it failed; what comes after the start is never the start.
                    let rest = body.collect().await;
                    assert_eq!(rest.is_err(), breaks.is_some() && state != ReplayState::Broken);
                    if let Ok(rest) = rest && breaks.is_none() {
                        assert_eq!([start, rest.to_bytes().to_vec()].concat(), sent);
                    }
                    return;
                };
                assert!(!matches!(state, ReplayState::TooBig | ReplayState::Broken));
                assert!(body.frame().await.unwrap().is_err(), "a try that is over sends nothing");
                body = again;
            }
            let whole = body.collect().await;
            assert_eq!(whole.is_err(), breaks.is_some());
            let Ok(whole) = whole else { return };
            assert_eq!(whole.trailers(), expected.as_ref());
            assert_eq!(whole.to_bytes(), sent);
            let fits = sent.len() <= limit;
            assert_eq!(ReplayBody::another(&tee).is_some(), fits);
        });
    }

    /// Whoever waits for a copy gets exactly what was sent, once it is whole, or is told why not; the
    /// try notices nothing.
    #[test]
    fn a_copy_is_whole_or_there_is_none(
        pieces in prop::collection::vec((0_usize..3_000, 0_usize..2), 0..8),
        trailers: bool,
        breaks in prop::option::weighted(0.3, 0_usize..8),
        reads in prop::option::weighted(0.3, 0_usize..8),
        limit in 0_usize..12_000,
    ) {
        let mut frames = VecDeque::new();
        let mut sent = Vec::new();
        let breaks = breaks.filter(|at| *at < pieces.len());
        for (index, (size, waits)) in pieces.iter().enumerate() {
            frames.extend((0..*waits).map(|_| None));
            if breaks == Some(index) {
                frames.push_back(Some(Err(std::io::ErrorKind::ConnectionReset)));
                break;
            }
            let piece: Vec<u8> = (0..*size).map(|at| (at * 7 + index) as u8).collect();
            sent.extend_from_slice(&piece);
            frames.push_back(Some(Ok(Frame::data(Bytes::from(piece)))));
        }
        let mut expected = None;
        if trailers && breaks.is_none() {
            let map = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-sum"),
                http::HeaderValue::from(sent.len()),
            )]);
            frames.push_back(Some(Ok(Frame::trailers(map.clone()))));
            expected = Some(map);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut body, tee) = ReplayBody::new(Frames(frames, SizeHint::default()), limit, &plenty());
            let (sender, receiver) = oneshot::channel();
            tee.lock().copy_to = Some(sender);
            let (mut read, mut ended) = (Vec::new(), false);
            for _ in 0..reads.unwrap_or(usize::MAX) {
                match body.frame().await {
                    Some(Ok(frame)) => read.extend(frame.into_data().unwrap_or_default()),
                    Some(Err(_)) => break,
                    None => {
                        ended = true;
                        break;
                    }
                }
                // As HTTP does, which asks no further then.
                if body.is_end_stream() {
                    ended = true;
                    break;
                }
            }
            drop((body, tee));
            match receiver.await.unwrap_or(Copied::Broken) {
                Copied::Whole(whole) => {
                    assert!(ended && sent.len() <= limit);
                    let whole = whole.collect().await.unwrap();
                    assert_eq!(whole.trailers(), expected.as_ref());
                    assert_eq!(whole.to_bytes(), sent);
                }
                Copied::TooBig => assert!(read.len() > limit),
                Copied::Broken => assert!(!ended && read.len() <= limit),
            }
        });
    }
}
