//! Targets that servers read in different ways.

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use weft_proto::names::alpn;
use weft_sandbox::{Mesh, Pod};
use weft_tests::frames::{PREFACE, Wire, frame, headers, kind};
use weft_tests::readings::all_find_it_below;
use weft_tests::tls;

use super::{allow, api, connect_as, exchange};
use crate::common::{APP_PORT, Cx, PORT, assert_untouched, stats};

const PREFIX: &str = "/public";
/// Paths that are tried, over each protocol; the judge says which are allowed.
const PATHS: [&str; 50] = [
    "/public",
    "/public/",
    "/public/a/b",
    "/public//a",
    "/public/./a",
    "/public/a/../b",
    "/public/a;v=1/b",
    "/public/a%20b",
    "/public/100%25",
    "/public/caf%c3%a9",
    "/public/a?b=/../admin",
    "/admin",
    "/",
    "/publicly",
    "/PUBLIC",
    "/Public/a",
    "//public",
    "//admin",
    "//public/admin",
    "/./public",
    "/admin/../public",
    "/public/../admin",
    "/public/..",
    "/public/../",
    "/public/./../admin",
    "/public//../admin",
    "/public/a/../../admin",
    "/public/%2e%2e/admin",
    "/public/%2E./admin",
    "/public/.%2e/admin",
    "/%2e%2e/admin",
    "/public/..%2fadmin",
    "/public/..%2Fadmin",
    "/public%2f..%2fadmin",
    "/public%2fa",
    "/public/%2e%2e%2fadmin",
    "/public/%252e%252e/admin",
    "/public/..%252fadmin",
    "/public/%25252e%25252e/admin",
    "/public/..;/admin",
    "/public/..;x=1/admin",
    "/public/..%3bx/admin",
    "/public;/../admin",
    "/public;x",
    "/public/..\\admin",
    "/public/..%5cadmin",
    "/public\\..\\admin",
    "/public/%c0%ae%c0%ae/admin",
    "/public/x/../..%3f",
    "/%70ublic",
];
/// What servers do not agree on at all, or cannot read, and what is no path; with the authority where the
/// target has one.
const HEADS: [&str; 14] = [
    "GET /public/%zz/../admin HTTP/1.1\r\nhost: api\r\n",
    "GET /public/%00/admin HTTP/1.1\r\nhost: api\r\n",
    "GET /public/%e9 HTTP/1.1\r\nhost: api\r\n",
    "GET /public/%0d%0ax HTTP/1.1\r\nhost: api\r\n",
    "GET http://api/admin HTTP/1.1\r\nhost: api\r\n",
    "GET http://api/public/../admin HTTP/1.1\r\nhost: api\r\n",
    "GET http://public/admin HTTP/1.1\r\nhost: public\r\n",
    "GET /admin HTTP/1.1\r\nhost: api.\r\n",
    "GET /admin HTTP/1.1\r\nhost: api/public\r\n",
    "GET http://api/public HTTP/1.1\r\nhost: other\r\n",
    "OPTIONS * HTTP/1.1\r\nhost: api\r\n",
    "CONNECT api:80 HTTP/1.1\r\nhost: api:80\r\n",
    "GET /admin#/public HTTP/1.1\r\nhost: api\r\n",
    "GET  /public HTTP/1.1\r\nhost: api\r\n",
];

/// No path that any server takes for one outside of the prefix arrives, over whatever protocol; what
/// all servers agree on does.
pub(super) async fn tricks(cx: Cx) -> anyhow::Result<()> {
    let stanzas = format!(
        "mtls: {{mode: Strict}}, {}",
        allow(&["client"], ", paths: [/public]")
    );
    cx.on(api("paths", &stanzas), async |mesh| {
        let (good, bad): (Vec<&str>, Vec<&str>) = PATHS.iter().partition(|target| {
            let path = target.split('?').next().unwrap_or_default();
            all_find_it_below(PREFIX, path)
        });
        assert_eq!(
            (good.len(), bad.len()),
            (11, 39),
            "the judge decides otherwise"
        );
        let intruder = mesh.stranger("intruder")?;
        for target in &bad {
            for alpn in [alpn::HTTP1, alpn::TCP] {
                let head = format!("GET {target} HTTP/1.1\r\nhost: api\r\n");
                refused(mesh, &intruder, alpn, &head).await?;
            }
            let status = over_http2(mesh, &intruder, target).await?;
            // A path that HTTP/2 cannot carry ends the stream.
            assert!(
                status.is_none_or(|it| it == 403 || it == 400),
                "{target}: {status:?}"
            );
            let status = through_sidecar(mesh, target).await?;
            assert!(matches!(status, 403 | 400), "{target}: {status}");
        }
        for head in HEADS {
            refused(mesh, &intruder, alpn::HTTP1, head).await?;
        }
        let seen = stats(mesh, ["api-1"]).await?;
        assert_untouched(&seen);

        for target in &good {
            for alpn in [alpn::HTTP1, alpn::TCP] {
                let head =
                    format!("GET {target} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n");
                let heard = exchange(mesh, &intruder, APP_PORT, alpn, head.as_bytes()).await?;
                let heard = heard.text();
                assert!(heard.starts_with("HTTP/1.1 200 "), "{target}: {heard:?}");
                // As it came, not as it was compared.
                assert!(
                    heard.contains(&format!("\"target\":\"{target}\"")),
                    "{heard:?}"
                );
            }
            let status = over_http2(mesh, &intruder, target).await?;
            assert_eq!(status, Some(200), "{target}");
            assert_eq!(through_sidecar(mesh, target).await?, 200, "{target}");
        }
        let seen = stats(mesh, ["api-1"]).await?;
        assert_eq!(seen.requests, 4 * good.len() as u64, "{:?}", seen.routes);
        cx.measured(format!(
            "{} targets refused over 4 ways, {} served",
            bad.len(),
            good.len()
        ));
        Ok(())
    })
    .await
}

async fn refused(mesh: &Mesh, pod: &Pod, alpn: &[u8], head: &str) -> anyhow::Result<()> {
    let bytes = format!("{head}connection: close\r\n\r\n");
    let heard = exchange(mesh, pod, APP_PORT, alpn, bytes.as_bytes())
        .await?
        .text();
    let refused = ["HTTP/1.1 403 ", "HTTP/1.1 400 "];
    let refused = heard.is_empty() || refused.iter().any(|it| heard.starts_with(it));
    anyhow::ensure!(refused, "{head:?}: {heard:?}");
    Ok(())
}

/// The answer's status; none where the stream or connection was ended without one.
async fn over_http2(mesh: &Mesh, pod: &Pod, target: &str) -> anyhow::Result<Option<u16>> {
    let stream = connect_as(mesh, pod, "client", APP_PORT, alpn::HTTP2).await?;
    let mut wire = Wire::raw(stream);
    let head = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "api"),
        (":path", target),
    ];
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(kind::SETTINGS, 0, 0, &[]));
    bytes.extend(headers(1, true, &head));
    wire.send(&bytes).await?;
    wire.until(tls::PATIENCE, |heard| {
        heard.ended.contains(&1) || heard.resets.contains_key(&1) || heard.go_away.is_some()
    })
    .await?;
    Ok(wire.heard.statuses.get(&1).copied())
}

/// The status that the client's own sidecar brings back, to bytes that its application sends.
async fn through_sidecar(mesh: &Mesh, target: &str) -> anyhow::Result<u16> {
    let mut stream = mesh.pod("client").connect(mesh.addr("api", PORT)).await?;
    let head = format!("GET {target} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let heard = tls::read_to_end(&mut stream).await.text();
    let status = heard.split(' ').nth(1).and_then(|it| it.parse().ok());
    status.with_context(|| format!("{target}: {heard:?}"))
}
