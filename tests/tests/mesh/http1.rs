//! HTTP/1 as bytes: what a client sends on a raw socket, what it is answered, and what an application
//! saw that writes everything down. Through both sidecars, where the client's refuses, and in plaintext
//! straight at the server's.
//!
//! `table` has the rows; `docs/http1.md` shows them, and is compared with them.

mod case;
mod client;
mod exchanges;
mod server;
mod table;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Pod, Service, Workload};

use self::case::Case;
use self::client::{Answer, Client};
use self::server::{Recorder, Seen};
use self::table::CASES;
use crate::Suite;
use crate::common::{APP_PORT, Cx, PORT, mesh, metrics};

/// The port about whose protocol nobody says anything; its application is the same.
const UNSAID_PORT: u16 = 9000;
/// A request that is never wrong.
const AFTER: &str = "GET /after HTTP/1.1\r\nhost: h\r\n\r\n";

pub(crate) fn register(suite: &mut Suite) {
    suite.add("http1::every_row_through_both_sidecars", through_both);
    suite.add("http1::every_row_at_the_servers_sidecar", at_the_server);
    suite.add(
        "http1::exchanges_as_an_application_knows_them",
        exchanges::all,
    );
    suite.add("http1::answers_that_could_be_read_in_two_ways", answers);
    suite.add("http1::what_nobody_declared_to_be_http", unsaid);
    suite.add("http1::the_page_shows_the_table", page);
}

/// A mesh with an application of the test's own.
async fn on(
    cx: &Cx,
    name: &str,
    test: impl AsyncFnOnce(&Mesh, &Recorder) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    cx.on(raw(name), async |mesh| {
        let pod = mesh.pod("raw-1");
        let listener = pod.listen(SocketAddr::new(pod.v4().into(), APP_PORT))?;
        let recorder = Recorder::start(listener);
        test(mesh, &recorder).await
    })
    .await
}

fn raw(name: &str) -> Builder {
    mesh(name)
        .workload(Workload::new("client"))
        .workload(Workload::new("raw-1").port(APP_PORT, AppSpec::none()))
        .service(
            Service::new("raw")
                .port(PORT, APP_PORT)
                .port_name("web")
                .app_protocol("http1")
                .endpoints(["raw-1"]),
        )
}

async fn through_both(cx: Cx) -> anyhow::Result<()> {
    on(&cx, "http1-both", async |mesh, recorder| {
        let (pod, to) = (mesh.pod("client"), mesh.addr("raw", PORT));
        every_row(&pod, to, recorder, "outbound").await?;
        let refused = refusals();
        let counted = metrics(mesh, "client").await?;
        let labels = [("direction", "outbound"), ("outcome", "bad_request")];
        assert_eq!(counted.sum("weft_requests_total", &labels), refused as f64);
        Ok(())
    })
    .await
}

async fn at_the_server(cx: Cx) -> anyhow::Result<()> {
    on(&cx, "http1-in", async |mesh, recorder| {
        let stranger = mesh.stranger("stranger")?;
        let to = SocketAddr::new(mesh.pod("raw-1").v4().into(), APP_PORT);
        every_row(&stranger, to, recorder, "inbound").await?;
        let counted = metrics(mesh, "raw-1").await?;
        let labels = [("direction", "inbound"), ("outcome", "bad_request")];
        assert_eq!(
            counted.sum("weft_requests_total", &labels),
            refusals() as f64
        );
        Ok(())
    })
    .await
}

/// How many requests of the table are refused.
fn refusals() -> usize {
    let all = CASES.iter().flat_map(|case| case.answers);
    all.filter(|status| **status >= 400).count()
}

async fn every_row(
    pod: &Pod,
    to: SocketAddr,
    recorder: &Recorder,
    origin: &str,
) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for case in CASES {
        let row = one_row(case, pod, to, recorder, origin).await;
        if let Err(error) = row {
            failed.push(format!("{}: {error:#}", case.name));
        }
        // What went wrong in one row is not the next one's.
        recorder.take();
    }
    ensure!(
        failed.is_empty(),
        "{} of {} rows:\n{}",
        failed.len(),
        CASES.len(),
        failed.join("\n")
    );
    Ok(())
}

async fn one_row(
    case: &Case,
    pod: &Pod,
    to: SocketAddr,
    recorder: &Recorder,
    origin: &str,
) -> anyhow::Result<()> {
    let mut client = Client::connect(pod, to).await?;
    client.send(&case.bytes()).await;
    for status in case.answers {
        let answer = client.answer(case.sent.starts_with("HEAD")).await?;
        let answer = answer.context("closed without an answer")?;
        ensure!(
            answer.status == *status,
            "{status} expected, not {}",
            answer.head
        );
        if *status >= 400 {
            ensure!(
                answer.header("x-weft-outcome") == Some("bad_request"),
                "{}",
                answer.head
            );
            ensure!(
                answer.header("x-weft-origin") == Some(origin),
                "{}",
                answer.head
            );
        } else {
            ensure!(answer.header("x-weft-outcome").is_none(), "{}", answer.head);
        }
    }
    if case.open {
        client.send(AFTER).await;
        let answer = client.answer(false).await?.context("closed too early")?;
        ensure!(answer.status == 200, "after it: {}", answer.head);
    } else {
        ensure!(client.is_closed().await?, "still open");
    }
    if may_break_off(case) {
        // Its connection to the application breaks at about the time of the answer.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut seen = recorder.take();
    if !may_break_off(case) {
        // One of an earlier row, that came late.
        let is_late = |one: &server::Request| !one.whole && one.head.starts_with("POST /cut ");
        seen.requests.retain(|one| !is_late(one));
    }
    saw(case, &seen)
}

/// Rows of bodies that break off: the head may have gone on.
fn may_break_off(case: &Case) -> bool {
    case.seen.iter().any(|one| one.starts_with('?'))
}

fn saw(case: &Case, seen: &Seen) -> anyhow::Result<()> {
    let mut requests: Vec<_> = seen.requests.iter().map(server::Request::summary).collect();
    if case.open {
        ensure!(requests.pop().as_deref() == Some("GET /after"), "{seen:?}");
    }
    ensure!(
        !requests.iter().any(|one| one.contains("smuggled")),
        "{seen:?}"
    );
    match case.seen {
        _ if may_break_off(case) => {
            let unfinished = seen.requests.iter().all(|request| !request.whole);
            ensure!(requests.len() <= 1 && unfinished, "{seen:?}");
        }
        // An h2c wish: that it is not seen is what counts.
        [] if case.answers == [200] => {
            let [request, ..] = &seen.requests[..] else {
                anyhow::bail!("{seen:?}");
            };
            for name in ["upgrade", "connection", "http2-settings"] {
                ensure!(request.header(name).next().is_none(), "{seen:?}");
            }
        }
        expected => ensure!(requests == expected, "{seen:?}"),
    }
    if requests.is_empty() && !case.open {
        ensure!(seen.bytes == 0 && seen.tunnelled.is_empty(), "{seen:?}");
    }
    Ok(())
}

/// The application's answers: what could be read in two ways reaches nobody, and least of all who asks
/// next.
async fn answers(cx: Cx) -> anyhow::Result<()> {
    on(&cx, "http1-answers", async |mesh, recorder| {
        let stranger = mesh.stranger("stranger")?;
        let app = SocketAddr::new(mesh.pod("raw-1").v4().into(), APP_PORT);
        for (pod, to) in [
            (mesh.pod("client"), mesh.addr("raw", PORT)),
            (stranger, app),
        ] {
            for (target, statuses, body) in [
                ("/old", &[200][..], "to the end"),
                ("/chunks", &[200], "ok"),
                ("/more", &[200], "ok"),
                ("/two-lengths", &[502], ""),
                ("/both", &[502], ""),
                ("/coded", &[502], ""),
                ("/101", &[502], ""),
            ] {
                let mut client = Client::connect(&pod, to).await?;
                client
                    .send(&format!("GET {target} HTTP/1.1\r\nhost: h\r\n\r\n"))
                    .await;
                let answer = client.answer(false).await?.context(target)?;
                ensure!(
                    statuses.contains(&answer.status),
                    "{target}: {}",
                    answer.head
                );
                ensure!(answer.body.contains(body), "{target}: {:?}", answer.body);
                ensure!(
                    !answer.body.contains("HTTP/1.1"),
                    "{target}: {:?}",
                    answer.body
                );
                for _ in 0..3 {
                    let next = after(&pod, to).await?;
                    ensure!(
                        (next.status, &*next.body) == (200, "ok"),
                        "after {target}: {next:?}"
                    );
                }
                recorder.take();
            }
        }
        Ok(())
    })
    .await
}

async fn after(pod: &Pod, to: SocketAddr) -> anyhow::Result<Answer> {
    let mut client = Client::connect(pod, to).await?;
    client.send(AFTER).await;
    client.answer(false).await?.context("closed")
}

/// Where nobody says that a port is HTTP, what does not begin as HTTP is bytes, and passed on as it is.
async fn unsaid(cx: Cx) -> anyhow::Result<()> {
    let builder = mesh("http1-unsaid")
        .workload(Workload::new("client"))
        .workload(Workload::new("raw-1").port(UNSAID_PORT, AppSpec::none()))
        .service(
            Service::new("raw")
                .port(PORT, UNSAID_PORT)
                .port_name("unsaid")
                .endpoints(["raw-1"]),
        );
    cx.on(builder, async |mesh| {
        let pod = mesh.pod("raw-1");
        let recorder = Recorder::start(pod.listen(SocketAddr::new(pod.v4().into(), UNSAID_PORT))?);
        for (sent, status) in [
            ("GET /a b HTTP/1.1\r\nhost: h\r\n\r\n", 200),
            ("get /a HTTP/1.1\r\nhost: h\r\n\r\n", 200),
            ("GET /a HTTP/1.1\r\nhost: h\r\nx : y\r\n\r\n", 400),
        ] {
            let mut client = Client::connect(&mesh.pod("client"), mesh.addr("raw", PORT)).await?;
            client.send(sent).await;
            let answer = client.answer(false).await?.context(sent)?;
            ensure!(answer.status == status, "{sent:?}: {}", answer.head);
            let seen = recorder.take();
            let heads: Vec<_> = seen
                .requests
                .iter()
                .map(|one| format!("{}\r\n\r\n", one.head))
                .collect();
            let expected = if status == 200 {
                vec![sent.to_owned()]
            } else {
                Vec::new()
            };
            ensure!(heads == expected, "{sent:?}: {seen:?}");
        }
        Ok(())
    })
    .await
}

/// `docs/http1.md` has exactly the rows of the table.
async fn page(_: Cx) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http1.md");
    let page = std::fs::read_to_string(&path)?;
    let shown: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect();
    let rows: Vec<_> = CASES.iter().map(Case::row).collect();
    ensure!(
        shown == rows,
        "docs/http1.md should have these rows:\n{}",
        rows.join("\n")
    );
    Ok(())
}
