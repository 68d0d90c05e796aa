//! Connections that begin to say something and stop.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Service, Workload};
use weft_tests::frames::{PREFACE, block, frame, headers, kind};

use super::{Bystander, WORKLOADS, each, many, memory, need_descriptors};
use crate::Suite;
use crate::common::{APP_PORT, Cx, PORT, mesh, stats};

/// What one of them may take of its sidecar's memory, in KiB.
const EACH: f64 = 32.0;
/// A head that is not whole after so long is not waited for (`head_timeout`); first it must be clear what
/// is spoken, for as long.
const HEAD: Duration = Duration::from_secs(10);
/// This much later at most.
const LATER: Duration = Duration::from_secs(12);

pub(super) fn register(suite: &mut Suite) {
    suite.add("crowds::half_open_heads", half_open);
}

/// One kind.
struct Half {
    name: &'static str,
    number: usize,
    /// Straight to the server's sidecar, else through the client's.
    strange: bool,
    bytes: Vec<u8>,
    /// When it ends, at the earliest and at the latest.
    ends: [Duration; 2],
}

/// "1,000 half-open heads: memory bounded, other clients unaffected": each ends in its time, and the
/// application has seen nothing of it.
async fn half_open(cx: Cx) -> anyhow::Result<()> {
    need_descriptors(8_192)?;
    cx.on(two_sidecars(), async |mesh| {
        let client = mesh.pod("client");
        let stranger = mesh.stranger("stranger")?;
        let to = mesh.addr("api", PORT);
        let direct = (mesh.pod("server-1").v4(), APP_PORT).into();
        let alone = Bystander::baseline(&client, to).await?;
        let crowded = Bystander::start(&client, to, "crowded");
        let before = memory(mesh, WORKLOADS).await?;

        let kinds = kinds();
        let all: Vec<&Half> = kinds
            .iter()
            .flat_map(|half| std::iter::repeat_n(half, half.number))
            .collect();
        let strange = all.iter().filter(|half| half.strange).count();
        assert!(all.len() >= 1_000, "{} half heads", all.len());
        let begun = many(all.len(), async |index| {
            let half = all[index];
            let mut stream = if half.strange {
                stranger.connect(direct).await?
            } else {
                client.connect(to).await?
            };
            stream.write_all(&half.bytes).await?;
            Ok((half, stream, Instant::now()))
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let during = memory(mesh, WORKLOADS).await?;

        let mut ending: FuturesUnordered<_> = begun
            .into_iter()
            .map(|(half, stream, begin)| end_of(half, stream, begin))
            .collect();
        while let Some(ended) = ending.next().await {
            ended?;
        }
        let crowded = crowded.end().await?;
        let stats = stats(mesh, ["server-1"]).await?;
        let others = (alone.times.len() + crowded.times.len()) as u64;
        assert_eq!(stats.requests, others, "{:?}", stats.routes);

        let at_client = each(all.len() - strange, before, during);
        let at_server = each(strange, before, during);
        cx.measured(format!(
            "{} half heads, each {:.1} KiB at the client's sidecar; {strange}, each {:.1} KiB at \
             the server's",
            all.len() - strange,
            at_client.client,
            at_server.server
        ));
        cx.measured(format!("others alone: {alone}; in the crowd: {crowded}"));
        assert!(
            at_client.client <= EACH && at_server.server <= EACH,
            "{at_client}, {at_server}"
        );
        crowded.assert_like(&alone);
        Ok(())
    })
    .await
}

/// The connection ends when it should, and without an answer of the application's.
async fn end_of(half: &Half, mut stream: TcpStream, begin: Instant) -> anyhow::Result<()> {
    let [earliest, latest] = half.ends;
    let mut heard = Vec::new();
    let reading = stream.read_to_end(&mut heard);
    let left = (latest + LATER).saturating_sub(begin.elapsed());
    // A reset is an end too.
    let _ = tokio::time::timeout(left, reading)
        .await
        .with_context(|| format!("{}: not ended after {:?}", half.name, begin.elapsed()))?;
    let lasted = begin.elapsed();
    assert!(
        lasted + Duration::from_secs(1) >= earliest,
        "{} ended after {lasted:?}",
        half.name
    );
    assert!(
        !heard.starts_with(b"HTTP/1.1 2"),
        "{} is served: {}",
        half.name,
        String::from_utf8_lossy(&heard)
    );
    Ok(())
}

fn kinds() -> Vec<Half> {
    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "api"),
        (":path", "/half"),
    ];
    let mut begun = PREFACE.to_vec();
    begun.extend(frame(kind::SETTINGS, 0, 0, &[]));
    let without_end = [&begun[..], &frame(kind::HEADERS, 1, 1, &block(&GET))].concat();
    let whole = headers(1, true, &GET);
    let half_frame = [&begun[..], &whole[..whole.len() - 3]].concat();
    let head = b"GET /half HTTP/1.1\r\nhost: api\r\nx-half: and no mo".to_vec();
    // A record's header and the beginning of a ClientHello of 512 bytes.
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 40]].concat();
    let row = |name, number, strange, bytes: &[u8], ends| Half {
        name,
        number,
        strange,
        bytes: bytes.to_vec(),
        ends,
    };
    let once = [HEAD, HEAD];
    let twice = [HEAD, HEAD + HEAD];
    vec![
        row("a head, outbound", 400, false, &head, once),
        row("a request line, outbound", 100, false, &head[..8], twice),
        row("a preface, outbound", 60, false, &PREFACE[..17], twice),
        row("HEADERS alone, outbound", 60, false, &without_end, once),
        row("a part of HEADERS, outbound", 30, false, &half_frame, once),
        row("a head, inbound", 200, true, &head, once),
        row("a request line, inbound", 50, true, &head[..8], twice),
        row("a preface, inbound", 30, true, &PREFACE[..17], once),
        row("HEADERS alone, inbound", 30, true, &without_end, once),
        row("a part of HEADERS, inbound", 30, true, &half_frame, once),
        row("half a ClientHello, inbound", 60, true, &hello, once),
    ]
}

fn two_sidecars() -> Builder {
    let api = Service::new("api")
        .port(PORT, APP_PORT)
        .app_protocol("http1")
        .endpoints(["server-1"]);
    mesh("heads")
        .workload(Workload::new("client"))
        .workload(Workload::new("server-1").port(APP_PORT, AppSpec::http().protocol("http1")))
        .service(api)
}
