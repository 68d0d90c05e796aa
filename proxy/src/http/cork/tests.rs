use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;

/// A transport that takes what it is told to at each write.
#[derive(Default)]
struct Wire {
    /// None: not now. Then the rest is taken.
    takes: VecDeque<Option<usize>>,
    writes: Vec<Vec<u8>>,
    fails: bool,
    ended: bool,
    /// Who waits is not woken.
    is_silent: bool,
}

impl Wire {
    fn all(&self) -> Vec<u8> {
        self.writes.concat()
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.fails {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let Some(most) = self.takes.pop_front().unwrap_or(Some(usize::MAX)) else {
            if !self.is_silent {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        };
        let taken = buf.len().min(most);
        self.writes.push(buf[..taken].to_vec());
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let joined: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
        self.poll_write(cx, &joined)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

async fn release(release: &Release<Wire>) {
    poll_fn(|cx| {
        release.poll(cx);
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn what_is_written_and_flushed_leaves_at_once() {
    let (mut cork, held) = Cork::new(Wire::default());
    for frame in [&b"head "[..], b"data ", b"trailers"] {
        cork.write_all(frame).await.unwrap();
        cork.flush().await.unwrap();
    }
    assert!(held.0.lock().io.writes.is_empty());
    release(&held).await;
    assert_eq!(held.0.lock().io.writes, [b"head data trailers".to_vec()]);
    release(&held).await;
    let corked = held.0.lock();
    assert_eq!((corked.io.writes.len(), corked.kept.capacity()), (1, 0));
}

#[tokio::test]
async fn what_is_long_goes_on_with_what_is_kept() {
    let (mut cork, held) = Cork::new(Wire::default());
    cork.write_all(b"head").await.unwrap();
    cork.write_all(&[b'x'; MAX_KEPT]).await.unwrap();
    let corked = held.0.lock();
    assert_eq!(corked.io.writes.len(), 1);
    assert_eq!(corked.io.writes[0].len(), 4 + MAX_KEPT);
}

#[tokio::test]
async fn an_end_comes_last() {
    let (mut cork, held) = Cork::new(Wire::default());
    cork.write_all(b"bye").await.unwrap();
    cork.shutdown().await.unwrap();
    let corked = held.0.lock();
    assert!(corked.io.ended);
    assert_eq!(corked.io.all(), b"bye");
}

#[tokio::test]
async fn what_cannot_be_written_fails_reads_and_writes() {
    let (mut cork, held) = Cork::new(Wire::default());
    cork.write_all(b"lost").await.unwrap();
    held.0.lock().io.fails = true;
    let mut space = [0; 8];
    let mut buf = ReadBuf::new(&mut space);
    let reading = poll_fn(|cx| Pin::new(&mut cork).poll_read(cx, &mut buf));
    let (read, ()) = tokio::join!(reading, async {
        tokio::task::yield_now().await;
        release(&held).await;
    });
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    release(&held).await;
    let wrote = cork.write_all(b"more").await;
    assert_eq!(wrote.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

/// Whoever waits to write hears of it, although the transport has forgotten him for who releases.
#[tokio::test]
async fn who_waits_to_write_is_woken_by_a_release() {
    for ends in [false, true] {
        let (mut cork, held) = Cork::new(Wire::default());
        cork.write_all(b"head").await.unwrap();
        {
            let wire = &mut held.0.lock().io;
            wire.takes.push_back(None);
            wire.is_silent = true;
        }
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let is_pending = if ends {
            Pin::new(&mut cork).poll_shutdown(&mut cx).is_pending()
        } else {
            let long = [b'x'; MAX_KEPT];
            Pin::new(&mut cork).poll_write(&mut cx, &long).is_pending()
        };
        assert!(is_pending && woken.0.load(Ordering::SeqCst) == 0);
        release(&held).await;
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        // Once: it does not wait any more.
        release(&held).await;
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        cork.shutdown().await.unwrap();
        assert_eq!(held.0.lock().io.all(), b"head");
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

proptest! {
    /// Whatever is written, however the transport takes it: it comes in order and whole.
    #[test]
    fn nothing_is_lost_or_turned_around(
        writes in prop::collection::vec((0..3 * MAX_KEPT, any::<bool>()), 1..12),
        takes in prop::collection::vec(prop::option::weighted(0.7, 1..2 * MAX_KEPT), 0..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut cork, held) = Cork::new(Wire { takes: takes.into(), ..Wire::default() });
            let mut expected = Vec::new();
            for (at, (length, then_release)) in writes.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..length).map(|byte| (byte + at) as u8).collect();
                cork.write_all(&bytes).await.unwrap();
                expected.extend(bytes);
                if then_release {
                    release(&held).await;
                }
                assert!(held.0.lock().kept.len() <= MAX_KEPT);
            }
            cork.shutdown().await.unwrap();
            let corked = held.0.lock();
            assert!(corked.io.all() == expected, "{} bytes", expected.len());
            assert!(corked.io.ended);
        });
    }
}
