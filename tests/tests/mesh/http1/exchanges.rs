//! Exchanges that a table of bytes cannot show: what one side says depends on what the other has.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use weft_sandbox::Pod;

use super::client::Client;
use super::server::{self, Recorder};
use super::{AFTER, on};
use crate::common::{APP_PORT, Cx, PORT};

/// Keep-alive, `Expect`, upgrades, CONNECT, headers of one hop, half-closed clients.
pub(super) async fn all(cx: Cx) -> anyhow::Result<()> {
    on(&cx, "http1-exchanges", async |mesh, recorder| {
        let stranger = mesh.stranger("stranger")?;
        let app = SocketAddr::new(mesh.pod("raw-1").v4().into(), APP_PORT);
        let ways = [
            (mesh.pod("client"), mesh.addr("raw", PORT)),
            (stranger, app),
        ];
        for (pod, to) in &ways {
            upgrades(pod, *to, recorder).await.context("upgrade")?;
            connect(pod, *to, recorder).await.context("CONNECT")?;
            expectations(pod, *to, recorder).await.context("Expect")?;
            one_hop(pod, *to, recorder).await.context("one hop")?;
            half_closed(pod, *to, recorder)
                .await
                .context("half-close")?;
            early(pod, *to, recorder).await.context("CVE-2025-4366")?;
        }
        Ok(())
    })
    .await
}

/// Bytes behind the wish come out behind the 101, and are no request though they look like one.
async fn upgrades(pod: &Pod, to: SocketAddr, recorder: &Recorder) -> anyhow::Result<()> {
    let mut client = Client::connect(pod, to).await?;
    let behind = "GET /smuggled HTTP/1.1\r\nx : \0\r\n\r\n";
    let wish = "GET /101 HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    client.send(&format!("{wish}{behind}")).await;
    let answer = client.answer(false).await?.context("closed")?;
    ensure!(answer.status == 101, "{}", answer.head);
    let back = client.exactly(behind.len()).await?;
    ensure!(back == behind, "{back:?}");
    client.send("more").await;
    ensure!(client.exactly(4).await? == "more");
    client.half_close().await?;
    ensure!(client.is_closed().await?, "a half-closed tunnel stays");
    let seen = recorder.take();
    ensure!(seen.requests.len() == 1, "{seen:?}");
    ensure!(
        seen.requests[0].header("upgrade").eq(["websocket"]),
        "{seen:?}"
    );
    ensure!(seen.tunnelled == format!("{behind}more"), "{seen:?}");
    Ok(())
}

/// CONNECT goes where every request goes; what the application makes of it is its affair, and without a
/// success nothing is a tunnel.
async fn connect(pod: &Pod, to: SocketAddr, recorder: &Recorder) -> anyhow::Result<()> {
    let mut client = Client::connect(pod, to).await?;
    client
        .send("CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n\r\n")
        .await;
    let answer = client.answer(true).await?.context("closed")?;
    ensure!(answer.status == 200, "{}", answer.head);
    // What the application said behind its head is the tunnel's.
    ensure!(client.exactly(2).await? == "ok");
    let seen = recorder.take();
    let requests = seen.requests.iter().map(server::Request::summary);
    ensure!(requests.eq(["CONNECT h:80"]), "{seen:?}");
    Ok(())
}

/// Whoever waits for 100 gets it when somebody wants the body; an application that does not want it
/// says so, and nothing hangs.
async fn expectations(pod: &Pod, to: SocketAddr, recorder: &Recorder) -> anyhow::Result<()> {
    let head = |target: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        )
    };
    let mut client = Client::connect(pod, to).await?;
    client.send(&head("/a")).await;
    let answer = client.answer(false).await?.context("closed")?;
    ensure!(answer.status == 100, "{}", answer.head);
    client.send("ab").await;
    let answer = client.answer(false).await?.context("closed")?;
    ensure!(answer.status == 200, "{}", answer.head);
    let seen = recorder.take();
    let requests = seen.requests.iter().map(server::Request::summary);
    ensure!(requests.eq(["POST /a ab"]), "{seen:?}");
    ensure!(
        seen.requests[0].header("expect").eq(["100-continue"]),
        "{seen:?}"
    );

    let mut client = Client::connect(pod, to).await?;
    client.send(&head("/refuse")).await;
    let mut answer = client.answer(false).await?.context("closed")?;
    // Whether the body is asked for first is a race that nobody has to win.
    if answer.status == 100 {
        answer = client.answer(false).await?.context("closed")?;
    }
    ensure!(answer.status == 417, "{}", answer.head);
    recorder.take();
    Ok(())
}

/// What concerns one connection ends with it, in both directions; the rest arrives as it was sent,
/// names in lower case.
async fn one_hop(pod: &Pod, to: SocketAddr, recorder: &Recorder) -> anyhow::Result<()> {
    let mut client = Client::connect(pod, to).await?;
    client
        .send(
            "GET /hop HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, X-Hop\r\nX-Hop: a\r\nX-End: b \t\r\n\
             keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nte: gzip\r\n\
             x-forwarded-for: 192.0.2.1\r\nX-End: c\r\n\r\n",
        )
        .await;
    let answer = client.answer(false).await?.context("closed")?;
    for name in ["x-hop", "keep-alive", "connection"] {
        ensure!(answer.header(name).is_none(), "{name}: {}", answer.head);
    }
    ensure!(answer.head.contains("\r\nx-end: b\r\n"), "{}", answer.head);
    let seen = recorder.take();
    let [request] = &seen.requests[..] else {
        anyhow::bail!("{seen:?}");
    };
    for name in [
        "x-hop",
        "keep-alive",
        "connection",
        "proxy-connection",
        "te",
    ] {
        ensure!(request.header(name).next().is_none(), "{name}: {seen:?}");
    }
    ensure!(request.header("x-end").eq(["b", "c"]), "{seen:?}");
    ensure!(
        request.header("x-forwarded-for").eq(["192.0.2.1"]),
        "{seen:?}"
    );
    ensure!(request.header("host").eq(["h"]), "{seen:?}");
    ensure!(request.head.contains("\r\nx-end: b"), "{seen:?}");
    Ok(())
}

/// A client that has ended its side still gets its answers.
async fn half_closed(pod: &Pod, to: SocketAddr, recorder: &Recorder) -> anyhow::Result<()> {
    let mut client = Client::connect(pod, to).await?;
    client
        .send("GET /a HTTP/1.1\r\nhost: h\r\n\r\nPOST /b HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nab")
        .await;
    client.half_close().await?;
    for _ in 0..2 {
        let answer = client.answer(false).await?.context("closed")?;
        ensure!(answer.status == 200, "{}", answer.head);
    }
    ensure!(client.is_closed().await?, "still open");
    let seen = recorder.take();
    let requests = seen.requests.iter().map(server::Request::summary);
    ensure!(requests.eq(["GET /a", "POST /b ab"]), "{seen:?}");
    Ok(())
}

/// An answer before the body has come: what of the body is left never becomes a request, on neither
/// side.
async fn early(pod: &Pod, to: SocketAddr, recorder: &Recorder) -> anyhow::Result<()> {
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n";
    let mut client = Client::connect(pod, to).await?;
    let length = smuggled.len() + 10;
    client
        .send(&format!(
            "POST /early HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n0123456789"
        ))
        .await;
    let answer = client.answer(false).await?.context("closed")?;
    ensure!(
        (answer.status, &*answer.body) == (200, "early"),
        "{}",
        answer.head
    );
    client.send(smuggled).await;
    client.send(AFTER).await;
    // The connection ends, or goes on behind the body.
    let after = client.answer(false).await?;
    ensure!(
        after.as_ref().is_none_or(|answer| answer.status == 200),
        "{after:?}"
    );
    // Others on the same pool are served.
    let mut other = Client::connect(pod, to).await?;
    other.send(AFTER).await;
    let answer = other.answer(false).await?.context("closed")?;
    ensure!(
        (answer.status, &*answer.body) == (200, "ok"),
        "{}",
        answer.head
    );
    let seen = recorder.take();
    let lines = seen.requests.iter().map(server::Request::summary);
    ensure!(
        !lines.clone().any(|line| line.starts_with("GET /smuggled")),
        "{seen:?}"
    );
    Ok(())
}
