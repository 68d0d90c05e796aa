use crate::http::Version;
use crate::http::server::ServerOptions;
use crate::http::testing::{Peer, answers, serve_one};

mod age;
mod floods;
mod goaway;
mod h1;
mod h2;
mod line;
mod publisher;
mod writes;

/// The body of a request whose client has begun to send it, and the client.
async fn upload(framing: &str, begun: &str) -> (hyper::body::Incoming, Peer) {
    let (give, mut take) = tokio::sync::mpsc::channel(1);
    let handler = answers(move |request| {
        let give = give.clone();
        async move {
            let _ = give.send(request.into_body()).await;
            std::future::pending().await
        }
    });
    let (mut client, closing, serving) =
        serve_one(Version::Http1, handler, ServerOptions::default());
    tokio::spawn(async move {
        let _ = serving.await;
        drop(closing);
    });
    client
        .write(&format!(
            "GET / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n{begun}"
        ))
        .await;
    (take.recv().await.unwrap(), client)
}
