//! HTTP/2 with prior knowledge, and gRPC's unary calls: frames by the `h2` crate, bodies made before.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Context as _;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, client, server};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_local};

use super::{SIZES, Shape, connect};
use crate::bench::protocol::Protocol;

/// Flow control that nobody waits for.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Before a message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: &str = "grpc-status";
const OK: HeaderValue = HeaderValue::from_static("0");

/// Serves until it is dropped.
pub(in crate::bench) async fn serve(listener: TcpListener) {
    let answers = Rc::new(Answers {
        bodies: SIZES.map(|size| vec![b'x'; size].into()),
        messages: SIZES.map(message),
    });
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let answers = Rc::clone(&answers);
        connections.spawn_local(async move {
            // The client tells what went wrong.
            let _ = answer_each(stream, &answers).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

struct Answers {
    bodies: [Bytes; SIZES.len()],
    messages: [Bytes; SIZES.len()],
}

fn message(size: usize) -> Bytes {
    let mut message = vec![b'x'; PREFIX + size];
    message[0] = 0;
    message[1..PREFIX].copy_from_slice(&(size as u32).to_be_bytes());
    message.into()
}

async fn answer_each(stream: TcpStream, answers: &Rc<Answers>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut builder = server::Builder::new();
    builder.initial_window_size(STREAM_WINDOW);
    builder.initial_connection_window_size(CONNECTION_WINDOW);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    while let Some(asked) = connection.accept().await {
        let (request, respond) = asked?;
        let answers = Rc::clone(answers);
        // A call's message comes only while the connection is asked for the next request.
        spawn_local(async move {
            let _ = answer(request, respond, &answers).await;
        });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    answers: &Answers,
) -> anyhow::Result<()> {
    // "/0", "/bench.Bench/1"
    let last = request.uri().path().bytes().next_back().unwrap_or_default();
    let which = usize::from(last.wrapping_sub(b'0'));
    let is_call = request.method() == Method::POST;
    let bodies = if is_call {
        &answers.messages
    } else {
        &answers.bodies
    };
    let body = bodies.get(which).context("an unknown path")?.clone();
    let mut response = Response::new(());
    if !is_call {
        let mut stream = respond.send_response(response, false)?;
        stream.send_data(body, true)?;
        return Ok(());
    }
    let asked = read(&mut request.into_body()).await?;
    anyhow::ensure!(asked == body.len(), "a call without its message");
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(body, false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, OK);
    stream.send_trailers(trailers)?;
    Ok(())
}

/// How many bytes there are.
async fn read(body: &mut RecvStream) -> anyhow::Result<usize> {
    let mut read = 0;
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
        read += length;
    }
    Ok(read)
}

/// A connection that asks, one request after the other.
pub(super) struct Client {
    sender: SendRequest<Bytes>,
    request: Request<()>,
    /// What a call sends.
    message: Option<Bytes>,
    /// Bytes of a good answer's body.
    size: usize,
}

impl Client {
    pub(super) async fn new(to: SocketAddr, shape: Shape) -> anyhow::Result<Self> {
        let which = shape.which()?;
        let message = (shape.protocol == Protocol::Grpc).then(|| message(shape.size));
        let request = Request::builder();
        let request = if message.is_some() {
            let uri = format!("http://{to}/bench.Bench/{which}");
            let request = request
                .method(Method::POST)
                .uri(uri)
                .header("te", "trailers");
            request.header(header::CONTENT_TYPE, GRPC)
        } else {
            request.uri(format!("http://{to}/{which}"))
        };
        let mut builder = client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW);
        builder.initial_connection_window_size(CONNECTION_WINDOW);
        let (sender, connection) = builder.handshake(connect(to).await?).await?;
        // Ends with its last sender; of an error each request under way learns.
        spawn_local(connection);
        Ok(Self {
            sender,
            request: request.header("user-agent", "bench").body(())?,
            size: message.as_ref().map_or(shape.size, Bytes::len),
            message,
        })
    }

    pub(super) async fn exchange(&mut self) -> anyhow::Result<()> {
        poll_fn(|context| self.sender.poll_ready(context)).await?;
        let ends = self.message.is_none();
        let request = self.request.clone();
        let (response, mut stream) = self.sender.send_request(request, ends)?;
        if let Some(message) = &self.message {
            stream.send_data(message.clone(), true)?;
        }
        let response = response.await?;
        anyhow::ensure!(
            response.status().is_success(),
            "not answered well: {response:?}"
        );
        let mut body = response.into_body();
        let read = read(&mut body).await?;
        if self.message.is_some() {
            let trailers = body.trailers().await?;
            let status = trailers.as_ref().and_then(|it| it.get(STATUS));
            anyhow::ensure!(status == Some(&OK), "not answered well: {trailers:?}");
        }
        anyhow::ensure!(read == self.size, "{read} bytes instead of {}", self.size);
        Ok(())
    }
}
