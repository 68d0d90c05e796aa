//! How often the kernel is asked to write.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use tokio::io::{DuplexStream, ReadBuf};

use super::super::*;
use crate::http::Version;
use crate::http::body::ResponseBody;
use crate::http::testing::{answers, request, whole};

/// Counts calls that write.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct CountedPipes {
    sides: [Arc<AtomicUsize>; 2],
    check: bool,
    closing: crate::net::closing::Closing,
}

impl Connect for CountedPipes {
    type Io = Counted;

    fn connect(&self) -> BoxFuture<Result<Counted, Failure>> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let handler = answers(|request: Request<hyper::body::Incoming>| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            http::Response::new(ResponseBody::full(body))
        });
        let far = Counted(far, Arc::clone(&self.sides[1]));
        let options = crate::http::server::ServerOptions::default();
        let closing = self.closing.clone();
        let serving = crate::http::server::serve(far, Version::Http1, handler, closing, options);
        tokio::spawn(serving);
        let near = Counted(near, Arc::clone(&self.sides[0]));
        Box::pin(async move { Ok(near) })
    }

    fn check_before_reuse(&self) -> bool {
        self.check
    }
}

#[tokio::test]
async fn head_and_body_leave_in_one_write() {
    for check in [false, true] {
        let sides = [Arc::default(), Arc::default()];
        let (_sender, closing) = crate::net::closing::channel();
        let connect = CountedPipes {
            sides: sides.clone(),
            check,
            closing,
        };
        let pool = H1Pool::new(connect, PoolOptions::MESH);
        for count in 1..=5 {
            let post = request("POST", "/", RequestBody::full(vec![b'x'; 1_024]));
            let response = pool.send(post, SendOptions::default()).await.unwrap();
            assert_eq!(whole(response).await.len(), 1_024);
            let writes = sides.each_ref().map(|side| side.load(Ordering::Relaxed));
            assert_eq!(writes, [count, count]);
        }
        assert_eq!(pool.stats().connections, 1);
    }
}
