//! Request bodies under a server whose first try fails somewhere: what a server takes for a whole
//! request is what the client sent, byte for byte and with its trailers, and nothing is sent twice
//! that must not be.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::http::Version;
use crate::identity::Alpn;
use crate::policy::RetryPolicy;
use crate::testing::policies::{endpoint, retries, target};
use crate::testing::soon;

/// Bytes that a sidecar keeps of a body.
const LIMIT: usize = 1024;
/// Meshes that are played; each takes a few milliseconds.
const CASES: u32 = 384;
/// What trailers carry.
const SUM: &str = "x-sum";

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the client sends.
#[derive(Clone, Debug)]
struct Sent {
    version: Version,
    /// The body, as it leaves: one write or frame each.
    pieces: Vec<Bytes>,
    /// Its length is announced; over HTTP/1 it is chunked otherwise.
    announced: bool,
    trailers: bool,
    end: End,
    /// With an `Idempotency-Key`: it may be repeated whatever became of it.
    keyed: bool,
    /// The trailers' names stand in `Trailer`.
    declared: bool,
    /// To a workload of the mesh, over TLS.
    meshed: bool,
}

/// How the client's request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    /// In the middle: the connection closes, or the stream is reset.
    BrokenOff,
    /// Fewer bytes than were announced, as if that were all.
    TooShort,
}

/// What becomes of the first try. Every other is answered with 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The connection ends after so many bytes were read from it: as a reset, or in order.
    Cut {
        after: usize,
        reset: bool,
    },
    /// It fails after so many bytes of the body.
    FailsAfter(usize),
    /// Says, where it can, that it has not looked at the request.
    Refuses,
    /// 503 without a look at the body.
    AnswersEarly,
    /// 503 once all of the body is there.
    AnswersLate,
}

/// A request that a server took for whole.
#[derive(Clone, Debug)]
struct Taken {
    body: Bytes,
    trailers: Option<HeaderMap>,
}

/// What a server has seen.
#[derive(Default)]
struct Seen {
    /// Tries whose head came.
    heads: AtomicUsize,
    whole: Mutex<Vec<Taken>>,
}

/// What came of a case.
struct Outcome {
    /// The client's answer; none where it broke off.
    status: Option<u16>,
    heads: usize,
    whole: Vec<Taken>,
}

impl Sent {
    fn body(&self) -> Bytes {
        let mut whole = BytesMut::new();
        self.pieces
            .iter()
            .for_each(|piece| whole.extend_from_slice(piece));
        whole.freeze()
    }

    /// Over HTTP/1 only those pass that the head has declared.
    fn expected_trailers(&self) -> Option<HeaderMap> {
        let pass = self.declared || self.version == Version::Http2;
        (self.trailers && pass).then(|| {
            let sum = HeaderValue::from(self.body().len());
            HeaderMap::from_iter([(http::HeaderName::from_static(SUM), sum)])
        })
    }

    /// What `content-length` says.
    fn announcement(&self) -> usize {
        let missing = usize::from(self.end != End::Whole) * 7;
        self.body().len() + missing
    }
}

/// A connection that ends after a number of bytes.
struct Cut {
    tcp: TcpStream,
    left: usize,
    reset: bool,
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(if self.reset {
                Err(std::io::ErrorKind::ConnectionReset.into())
            } else {
                Ok(())
            });
        }
        let mut bytes = vec![0; self.left.min(buf.remaining())];
        let mut part = ReadBuf::new(&mut bytes);
        std::task::ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut part))?;
        self.left -= part.filled().len();
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.left == 0 {
            return Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.reset && self.left == 0 {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if self.reset && self.left == 0 {
            // A close that lingers for no time is a reset (socket(7)).
            let _ = socket2::SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

/// A server whose first try meets `fault`.
struct Faulty {
    version: Version,
    /// In the mesh; in the clear without.
    identity: Option<Identity>,
    fault: Fault,
    seen: Seen,
}

impl Faulty {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = tokio::task::JoinSet::new();
        let mut is_first = true;
        while let Ok((tcp, _)) = listener.accept().await {
            let (left, reset) = match self.fault {
                Fault::Cut { after, reset } if is_first => (after, reset),
                _ => (usize::MAX, false),
            };
            is_first = false;
            let this = Arc::clone(&self);
            connections.spawn(async move {
                let cut = Cut { tcp, left, reset };
                let Some(identity) = &this.identity else {
                    return this.connection(cut, this.version).await;
                };
                if let Ok((tls, _, alpn)) = identity.accept(cut).await {
                    let version = match alpn {
                        Alpn::Http2 => Version::Http2,
                        _ => Version::Http1,
                    };
                    this.connection(tls, version).await;
                }
            });
        }
    }

    async fn connection<I>(self: &Arc<Self>, io: I, version: Version)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let this = Arc::clone(self);
        let service = service_fn(move |request| {
            let this = Arc::clone(&this);
            async move { this.answer(request).await }
        });
        let io = TokioIo::new(io);
        // How it ends is what the test is about; the client's side tells.
        match version {
            Version::Http1 => {
                let builder = http1::Builder::new();
                let _ = builder.serve_connection(io, service).await;
            }
            Version::Http2 => {
                let builder = http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(io, service).await;
            }
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Empty<Bytes>>, h2::Error> {
        let failed = || h2::Error::from(h2::Reason::INTERNAL_ERROR);
        let nth = self.seen.heads.fetch_add(1, Ordering::Relaxed) + 1;
        let mut body = request.into_body();
        match self.fault {
            Fault::FailsAfter(bytes) if nth == 1 => {
                let mut read = 0;
                while read < bytes
                    && let Some(Ok(frame)) = body.frame().await
                {
                    read += frame.data_ref().map_or(0, Bytes::len);
                }
                return Err(failed());
            }
            Fault::Refuses if nth == 1 => return Err(h2::Reason::REFUSED_STREAM.into()),
            Fault::AnswersEarly if nth == 1 => return Ok(status(503)),
            _ => {}
        }
        let whole = body.collect().await.map_err(|_| failed())?;
        self.seen.whole.lock().push(Taken {
            trailers: whole.trailers().cloned(),
            body: whole.to_bytes(),
        });
        let is_late = self.fault == Fault::AnswersLate && nth == 1;
        Ok(status(if is_late { 503 } else { 200 }))
    }
}

fn status(code: u16) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = code.try_into().unwrap();
    response
}

/// Sends over HTTP/1, byte by byte as the case says.
async fn send_http1(link: Link, sent: &Sent) -> Option<u16> {
    let mut head = "POST /orders HTTP/1.1\r\nhost: api\r\nconnection: close\r\n".to_owned();
    if sent.keyed {
        head.push_str("idempotency-key: 1\r\n");
    }
    if sent.announced {
        write!(head, "content-length: {}\r\n\r\n", sent.announcement()).unwrap();
    } else {
        head.push_str("transfer-encoding: chunked\r\n");
        if sent.trailers {
            head.push_str("te: trailers\r\n");
        }
        if sent.trailers && sent.declared {
            write!(head, "trailer: {SUM}\r\n").unwrap();
        }
        head.push_str("\r\n");
    }
    let (mut from, mut to) = link.tcp.into_split();
    let writing = async {
        to.write_all(head.as_bytes()).await?;
        for piece in sent.pieces.iter().filter(|piece| !piece.is_empty()) {
            tokio::task::yield_now().await;
            if sent.announced {
                to.write_all(piece).await?;
                continue;
            }
            let size = format!("{:x}\r\n", piece.len());
            to.write_all(&[size.as_bytes(), piece, b"\r\n"].concat())
                .await?;
        }
        if !sent.announced && sent.end == End::Whole {
            let sum = sent.body().len();
            let trailers = if sent.trailers {
                format!("{SUM}: {sum}\r\n")
            } else {
                String::new()
            };
            to.write_all(format!("0\r\n{trailers}\r\n").as_bytes())
                .await?;
        }
        if sent.end != End::Whole {
            to.shutdown().await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let reading = async {
        let mut answer = Vec::new();
        // An answer may come before the end of the request, and a reset after it.
        let _ = from.read_to_end(&mut answer).await;
        let status = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        std::str::from_utf8(status).ok()?.parse().ok()
    };
    let (_, status) = tokio::join!(writing, reading);
    status
}

/// Sends over HTTP/2, frame by frame.
async fn send_http2(link: Link, sent: &Sent) -> Option<u16> {
    let io = TokioIo::new(link.tcp);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let mut frames: Vec<Result<Frame<Bytes>, BoxError>> = Vec::new();
    frames.extend(
        sent.pieces
            .iter()
            .cloned()
            .map(|piece| Ok(Frame::data(piece))),
    );
    if sent.end == End::BrokenOff {
        frames.push(Err("broken off".into()));
    } else if let Some(trailers) = sent.expected_trailers() {
        frames.push(Ok(Frame::trailers(trailers)));
    }
    let frames = futures_util::stream::unfold(frames.into_iter(), |mut frames| async {
        tokio::task::yield_now().await;
        Some((frames.next()?, frames))
    });
    let mut request = Request::post("http://api/orders");
    if sent.keyed {
        request = request.header("idempotency-key", "1");
    }
    if sent.announced {
        request = request.header("content-length", sent.announcement());
    }
    let request = request.body(StreamBody::new(Box::pin(frames))).unwrap();
    let response = sender.send_request(request).await.ok()?;
    Some(response.status().as_u16())
}

async fn play(sent: &Sent, fault: Fault) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sidecar = Sidecar::new();
    let faulty = Arc::new(Faulty {
        version: sent.version,
        identity: sent.meshed.then(|| sidecar.identity("api")),
        fault,
        seen: Seen::default(),
    });
    let serving = tokio::spawn(Arc::clone(&faulty).serve(listener));
    let mut policy = target("api", &["api"]);
    policy.routes[0].retries = Some(RetryPolicy {
        body_limit_bytes: LIMIT,
        ..retries()
    });
    let promised = sent.meshed.then(|| spiffe("api"));
    sidecar.tell_endpoints("api", vec![endpoint(address, promised)]);
    sidecar.tell(policy);
    let link = sidecar.dial(api()).await;
    let status = soon(async {
        match sent.version {
            Version::Http1 => send_http1(link, sent).await,
            Version::Http2 => send_http2(link, sent).await,
        }
    })
    .await;
    if sent.end != End::Whole {
        // What a sidecar might make of it afterwards, it makes now.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    serving.abort();
    Outcome {
        status,
        heads: faulty.seen.heads.load(Ordering::Relaxed),
        whole: faulty.seen.whole.lock().clone(),
    }
}

fn check(sent: &Sent, fault: Fault, came: &Outcome) -> Result<(), TestCaseError> {
    let Outcome {
        status,
        heads,
        whole,
    } = came;
    // Never truncated, never changed.
    for taken in whole {
        prop_assert!(sent.end == End::Whole, "a part was taken for the whole");
        prop_assert_eq!(&taken.body, &sent.body());
        prop_assert_eq!(&taken.trailers, &sent.expected_trailers());
    }
    if sent.end != End::Whole {
        prop_assert_ne!(*status, Some(200));
        return Ok(());
    }
    // Never duplicated, unless it may be repeated.
    let fits = sent.body().len() <= LIMIT;
    if !sent.keyed || !fits {
        prop_assert!(whole.len() <= 1, "{} times", whole.len());
    }
    let refused = fault == Fault::Refuses && sent.version == Version::Http2;
    if !sent.keyed && !refused {
        prop_assert!(*heads <= 1, "{heads} tries of what must not be repeated");
    }
    // Done, where it could be.
    if fault == Fault::None || (fits && (sent.keyed || refused)) {
        prop_assert_eq!(*status, Some(200));
    }
    if *status == Some(200) {
        prop_assert!(!whole.is_empty());
    }
    Ok(())
}

fn sent() -> impl Strategy<Value = Sent> {
    let version = prop_oneof![Just(Version::Http1), Just(Version::Http2)];
    let end = prop_oneof![
        4 => Just(End::Whole),
        1 => Just(End::BrokenOff),
        1 => Just(End::TooShort),
    ];
    // From nothing to a few times what is kept, in pieces that are kept as they are and in small
    // ones that are copied together.
    let sizes = prop_oneof![
        1 => Just(Vec::new()),
        3 => prop::collection::vec(0_usize..200, 1..8),
        2 => prop::collection::vec(200_usize..1_500, 1..4),
        1 => prop::collection::vec(0_usize..40_000, 1..3),
        1 => Just(vec![LIMIT]),
        1 => Just(vec![LIMIT, 1]),
    ];
    let flags = any::<[bool; 5]>();
    (version, sizes, flags, end, any::<u8>()).prop_map(
        |(version, sizes, [announced, trailers, keyed, declared, meshed], end, seed)| {
            let mut position = usize::from(seed);
            let mut piece = |size: usize| -> Bytes {
                position += size;
                // No two places look the same for long.
                (position - size..position)
                    .map(|at| (at * at / 7 + at) as u8)
                    .collect()
            };
            // Over HTTP/1 only an announced length can be missed.
            let announced = announced || end == End::TooShort;
            let in_http1_chunks = version == Version::Http1 && !announced;
            Sent {
                version,
                pieces: sizes.into_iter().map(&mut piece).collect(),
                announced,
                trailers: trailers && (in_http1_chunks || version == Version::Http2),
                end,
                keyed,
                declared,
                meshed,
            }
        },
    )
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        1 => Just(Fault::None),
        3 => (0_usize..5_000, any::<bool>()).prop_map(|(after, reset)| Fault::Cut { after, reset }),
        2 => (0_usize..3_000).prop_map(Fault::FailsAfter),
        1 => Just(Fault::Refuses),
        1 => Just(Fault::AnswersEarly),
        1 => Just(Fault::AnswersLate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_body_arrives_whole_or_not_at_all(sent in sent(), fault in fault()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let came = runtime.block_on(play(&sent, fault));
        check(&sent, fault, &came)?;
    }
}
