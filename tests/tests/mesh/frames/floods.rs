//! What is sent for its own sake: the published floods of HTTP/2, one by one.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use weft_tests::frames::{block, flag, frame, headers, kind};

use super::{Place, Way, documented, two_sidecars};
use crate::common::{Cx, metrics, wait_for};

/// More than any flood may last.
const MOST: u32 = 2_000_000;
/// What the sidecar may grow by during one flood.
const MEMORY: u64 = 48 * 1024 * 1024;
/// What another client may wait for its answer meanwhile.
const BYSTANDER_WAITS: Duration = Duration::from_secs(5);
/// Until a flood must be in the metrics.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);
/// How often another client asks.
const BYSTANDER_ASKS: Duration = Duration::from_millis(50);

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "api"),
    (":path", "/flood"),
];

/// One row.
struct Flood {
    /// As in `docs/http2.md`.
    name: &'static str,
    /// What the reference proxy does.
    reference: &'static str,
    /// What ends it, as the page says.
    ours: &'static str,
    /// What is sent first.
    first: Vec<u8>,
    /// What is sent again and again, by number.
    part: fn(u32) -> Vec<u8>,
    /// Parts that the sidecar may have taken when it has ended the connection, bytes under way
    /// included.
    most: u32,
    /// The answers are not read.
    deaf: bool,
    /// Requests that the application may see.
    seen: u64,
}

fn all() -> Vec<Flood> {
    let open = headers(1, false, &[(":method", "POST"), GET[1], GET[2], GET[3]]);
    let begun = frame(kind::HEADERS, flag::END_STREAM, 1, &block(&GET));
    // What fits the sockets' buffers beside what is borne: nobody knows how much of it was read.
    let under_way = 6_000_000;
    let flood = |name, reference, ours, part: fn(u32) -> Vec<u8>, length: u32| Flood {
        name,
        reference,
        ours,
        first: Vec::new(),
        part,
        most: 4_000 + under_way / length,
        deaf: false,
        seen: 0,
    };
    let ping = |_| frame(kind::PING, 0, 0, &[0; 8]);
    let settings = |_| frame(kind::SETTINGS, 0, 0, &[]);
    vec![
        Flood {
            seen: 2_500,
            ..flood(
                "rapid reset (CVE-2023-44487)",
                "closed after about 250 streams",
                "resets",
                rapid_reset,
                100,
            )
        },
        Flood {
            first: begun.clone(),
            ..flood(
                "CONTINUATION, empty",
                "reset after about 1,000",
                "control frames",
                |_| frame(kind::CONTINUATION, 0, 1, &[]),
                9,
            )
        },
        Flood {
            first: begun,
            ..flood(
                "CONTINUATION, 1 KB each",
                "reset after about 760",
                "control frames",
                big_continuation,
                1_000,
            )
        },
        Flood {
            first: open.clone(),
            seen: 1,
            ..flood(
                "DATA, empty",
                "reset after about 1,000",
                "control frames",
                |_| frame(kind::DATA, 0, 1, &[]),
                9,
            )
        },
        Flood {
            first: open,
            seen: 1,
            ..flood(
                "DATA, padding only",
                "not in the table",
                "control frames",
                |_| frame(kind::DATA, flag::PADDED, 1, &[15; 16]),
                25,
            )
        },
        flood(
            "PING, answers read",
            "20,000 tolerated",
            "control frames",
            ping,
            17,
        ),
        Flood {
            deaf: true,
            ..flood(
                "PING, answers never read",
                "reset after about 230,000",
                "control frames",
                ping,
                17,
            )
        },
        flood(
            "SETTINGS, answers read",
            "20,000 tolerated",
            "control frames",
            settings,
            9,
        ),
        Flood {
            deaf: true,
            ..flood(
                "SETTINGS, answers never read",
                "reset after about 458,000",
                "control frames",
                settings,
                9,
            )
        },
        flood(
            "PRIORITY",
            "reset after about 2,600",
            "control frames",
            |_| frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
            14,
        ),
        flood(
            "WINDOW_UPDATE",
            "reset after about 2,450",
            "control frames",
            |_| frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            13,
        ),
        flood(
            "frames of an unknown kind",
            "not in the table",
            "control frames",
            |_| frame(0xfa, 0, 0, &[]),
            9,
        ),
    ]
}

fn rapid_reset(number: u32) -> Vec<u8> {
    let stream = 2 * number + 1;
    let mut pair = headers(stream, true, &GET);
    pair.extend(frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    pair
}

fn big_continuation(_: u32) -> Vec<u8> {
    frame(kind::CONTINUATION, 0, 1, &block(&[("x", &"v".repeat(990))]))
}

/// Each ends its own connection and nothing else: the other client is served all the time, memory
/// stays, the flood is counted, and the application sees next to nothing of it.
pub(super) async fn end_the_connection(cx: Cx, way: Way) -> anyhow::Result<()> {
    cx.on(two_sidecars("floods"), async |mesh| {
        let place = Place::new(mesh, way).await?;
        for flood in all() {
            let (memory, seen) = (resident(&place).await?, place.seen().await?);
            let counted = place.floods_counted().await?;
            let mut wire = place.open().await?;
            wire.send(&flood.first).await?;

            let flooding = wire.flood(MOST, flood.deaf, flood.part);
            let (sent, (slowest, peak)) = watched(&place, flooding).await?;

            let name = flood.name;
            assert!(wire.heard.closed, "{name}: still open after {sent}");
            assert!(sent <= flood.most, "{name}: {sent} sent before the end");
            let grown = peak.saturating_sub(memory);
            assert!(grown <= MEMORY, "{name}: the sidecar grew by {grown} bytes");
            assert!(slowest <= BYSTANDER_WAITS, "{name}: others waited {slowest:?}");
            // Where the library ends it, that is counted when the peer has gone too.
            let hits = wait_for("the flood to be counted", COUNTED_WITHIN, async || {
                let hits = place.floods_counted().await? - counted;
                Ok((hits > 0.0).then_some(hits))
            });
            let hits = hits.await.context(name)?;
            let seen = place.seen().await? - seen;
            assert!(seen <= flood.seen, "{name}: the application saw {seen} requests");
            cx.measured(format!(
                "{name}: closed after {sent}, {:?}, grown by {} KiB, others waited {slowest:.0?} at \
                 most, the application saw {seen}, counted {hits}",
                wire.heard.go_away,
                grown / 1024
            ));
            assert_eq!(hits, 1.0, "{name}: floods counted");
            let row = format!("| {name} | {} | {} |", flood.reference, flood.ours);
            assert!(documented(&row), "docs/http2.md has no row {row}");
        }
        Ok(())
    })
    .await
}

/// Runs a flood while the other client goes on: the longest that it waited, and the sidecar's greatest
/// memory.
async fn watched<T>(
    place: &Place<'_>,
    flooding: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, (Duration, u64))> {
    let mut flooding = std::pin::pin!(flooding);
    let (mut slowest, mut peak) = (Duration::ZERO, 0);
    loop {
        let begin = Instant::now();
        let mut served = std::pin::pin!(place.serve_the_bystander());
        let mut done = None;
        // The one is not given up when the other is done.
        let served = loop {
            tokio::select! {
                flooded = &mut flooding, if done.is_none() => done = Some(flooded?),
                served = &mut served => break served,
            }
        };
        served?;
        slowest = slowest.max(begin.elapsed());
        peak = peak.max(resident(place).await?);
        if let Some(done) = done {
            return Ok((done, (slowest, peak)));
        }
        tokio::select! {
            flooded = &mut flooding => {
                place.serve_the_bystander().await?;
                peak = peak.max(resident(place).await?);
                return Ok((flooded?, (slowest, peak)));
            }
            () = tokio::time::sleep(BYSTANDER_ASKS) => {}
        }
    }
}

/// The sidecar's resident bytes.
async fn resident(place: &Place<'_>) -> anyhow::Result<u64> {
    let metrics = metrics(place.mesh, place.workload()).await?;
    let bytes = metrics.sum("process_resident_memory_bytes", &[]);
    anyhow::ensure!(bytes > 0.0, "no resident memory");
    Ok(bytes as u64)
}
