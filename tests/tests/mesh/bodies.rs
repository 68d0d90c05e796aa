//! Bodies of requests that are tried again, through two sidecars, as the servers hash them; the many
//! combinations are played beside the proxy's code (`outbound::tests::bodies`).

use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_sandbox::Mesh;
use weft_sandbox::app::{Behavior, ID, body_hash};

use crate::Suite;
use crate::common::{Cx, PORT, client_and, policy, send, stats};

/// One, so that the next try surely meets a server that has failed its last.
const APPS: [&str; 1] = ["api-1"];
const LIMIT: usize = 65_536;
const RETRIES: &str = "retries: {attempts: 2, conditions: [Reset], statusCodes: [503], \
     bodyLimitBytes: 65536, backoff: {base: 1ms, max: 1ms}, \
     budget: {percent: 100, interval: 10s, minRetriesPerSecond: 10}}";

/// Makes the next request fail.
type Fault = fn(&mut Behavior);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("bodies::what_is_repeated_is_whole", repeated);
    suite.add("bodies::a_part_is_never_taken_for_the_whole", parts);
}

/// Bodies of every length around the bound, keyed so that they may be repeated: the server reads
/// each, and closes, resets or answers 503 instead of 200. What it has read, once or twice, has the
/// hash of what was sent; beyond the bound it is once.
async fn repeated(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and("repeated", APPS).policy(&policy("repeated", "api", RETRIES));
    cx.on(builder, async |mesh| {
        let faults: [(&str, Fault); 3] = [
            ("closes", |behavior| behavior.close_next = 1),
            ("resets", |behavior| behavior.reset_next = 1),
            ("answers-503", |behavior| behavior.fail_next = 1),
        ];
        let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        let mut rng = fastrand::Rng::with_seed(7);
        let mut checked = 0;
        for round in 0..cx.pick(3, 40) {
            let random = rng.usize(1..3 * LIMIT);
            for (name, fault) in faults {
                for length in [0, 1, 1_000, LIMIT, LIMIT + 1, 10 * LIMIT, random] {
                    let body: Vec<u8> =
                        std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
                    let hash = body_hash(&body);
                    let id = format!("{name}-{round}-{length}");
                    arm(mesh, fault).await?;
                    let answer = send(&client, to, order(&id, body)?).await?;
                    let status = answer.status;
                    let seen = stats(mesh, APPS).await?;
                    let tries = seen.ids[&id];
                    let expected = if length <= LIMIT { 2 } else { 1 };
                    assert_eq!(tries, expected, "{id}: tries");
                    assert_eq!(status == 200, length <= LIMIT, "{id}: {status}");
                    assert_eq!(
                        (seen.requests, seen.read),
                        (tries, tries),
                        "{id}: read whole"
                    );
                    let hashes: Vec<_> = seen.bodies.into_iter().collect();
                    let all_alike = if length == 0 {
                        vec![]
                    } else {
                        vec![(hash, tries)]
                    };
                    assert_eq!(hashes, all_alike, "{id}: hashes of what was read");
                    checked += 1;
                }
            }
        }
        cx.measured(format!("{checked} bodies"));
        Ok(())
    })
    .await
}

/// Clients that break off: no server takes what came for the whole, on no try.
async fn parts(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and("parts", APPS).policy(&policy("parts", "api", RETRIES));
    cx.on(builder, async |mesh| {
        let (mut broken, mut begun) = (0, 0);
        for length in [1, 1_000, LIMIT - 1, LIMIT + 1, 5 * LIMIT] {
            for framing in ["content-length: 999999", "transfer-encoding: chunked"] {
                arm(mesh, |behavior| behavior.close_next = 1).await?;
                let mut tcp = mesh.pod("client").connect(mesh.addr("api", PORT)).await?;
                let head = format!(
                    "POST /orders HTTP/1.1\r\nhost: api\r\nidempotency-key: 1\r\n{framing}\r\n\r\n"
                );
                tcp.write_all(head.as_bytes()).await?;
                // As a chunk it is complete, but for the last one.
                if framing.ends_with("chunked") {
                    let chunk = format!("{length:x}\r\n{}\r\n", "w".repeat(length));
                    tcp.write_all(chunk.as_bytes()).await?;
                } else {
                    tcp.write_all("w".repeat(length).as_bytes()).await?;
                }
                tcp.shutdown().await?;
                let mut answer = Vec::new();
                // A reset is an answer too.
                let _ = tcp.read_to_end(&mut answer).await;
                let text = String::from_utf8_lossy(&answer);
                assert!(!text.starts_with("HTTP/1.1 2"), "{framing}: {text}");
                let seen = stats(mesh, APPS).await?;
                assert_eq!(seen.read, 0, "{framing} {length}: taken for the whole");
                broken += 1;
                begun += seen.requests;
            }
        }
        // Nothing of it is still on its way.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let seen = stats(mesh, APPS).await?;
        assert_eq!((seen.read, seen.in_flight), (0, 0));
        assert!(begun > 0, "the server saw nothing of any");
        cx.measured(format!(
            "{broken} requests broken off, {begun} begun at the server"
        ));
        Ok(())
    })
    .await
}

/// Makes the next request fail, and forgets the ones before.
async fn arm(mesh: &Mesh, fault: Fault) -> anyhow::Result<()> {
    let mut behavior = Behavior::default();
    fault(&mut behavior);
    for app in APPS {
        mesh.app(app).behave(&behavior).await?;
        mesh.app(app).reset_stats().await?;
    }
    Ok(())
}

fn order(id: &str, body: Vec<u8>) -> anyhow::Result<Request<Full<bytes::Bytes>>> {
    Ok(Request::builder()
        .method(Method::POST)
        .uri("/orders")
        .header(http::header::HOST, "api")
        .header("idempotency-key", HeaderValue::from_str(id)?)
        .header(ID, id)
        .body(Full::new(body.into()))?)
}
