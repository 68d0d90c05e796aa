//! The table of handshakes that must fail: each for its own reason, with its own metric, and without a
//! byte for the application.
//!
//! Certificates come from the mesh's real authority, whose keys the test takes from the state
//! directory, so that each has one fault and no other: [`maker`]. The same [`rows`] are shown by clients to
//! a server's sidecar and by servers to a client's. What is good passes first and last.

mod bytes;
mod maker;
mod resumption;
mod rows;
mod rsa;
mod servers;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use weft_proto::names::alpn;
use weft_sandbox::metrics::Metrics;
use weft_sandbox::{Mesh, Pod};
use weft_tests::tls::{self, Credentials, End};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, assert_untouched, client_and, id, metrics, policy, stats, wait_for,
};
use maker::Maker;
use rows::{Row, Side};

/// What must not arrive.
const GET: &str = "GET /secret HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";
const RESULTS: &str = "weft_tls_handshakes_total";
const FAILURES: &str = "weft_tls_handshake_failures_total";
const CONNECTIONS: &str = "weft_tcp_connections_total";
const SETTLED: Duration = Duration::from_secs(5);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("handshakes::clients_that_must_fail", clients);
    suite.add("handshakes::servers_that_must_fail", servers::must_fail);
}

/// Every kind of client that a server's sidecar must send away.
async fn clients(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and("bad-clients", ["api-1"]).policy(&policy(
        "strict",
        "api",
        "mtls: {mode: Strict}, \
         authorization: {allow: [{principals: [{serviceAccount: {name: client}}]}]}",
    ));
    cx.on(builder, async |mesh| {
        let door = Door {
            mesh,
            pod: mesh.stranger("intruder")?,
        };
        let maker = Maker::of(&mesh.state_dir(), &id("client"))?;
        let good = rows::good(&maker)?;
        for (name, shown) in &good {
            assert_served(name, &door.tls(Some(shown), &[alpn::HTTP1]).await?);
        }
        let served = good.len() as u64;
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, served);
        mesh.app("api-1").reset_stats().await?;

        let rows = rows::bad(&maker, Side::Client)?;
        for Row {
            name,
            shown,
            reason,
        } in &rows
        {
            door.refused(name, reason, door.tls(Some(shown), &[alpn::HTTP1]))
                .await?;
        }
        let (_, good) = &good[0];
        door.refused(
            "no certificate",
            "no_certificate",
            door.tls(None, &[alpn::HTTP1]),
        )
        .await?;
        let unknown: &[&[u8]] = &[b"weft/1/other"];
        door.refused(
            "a protocol that nobody knows",
            "alpn",
            door.tls(Some(good), unknown),
        )
        .await?;
        for (name, bytes, reason) in bytes::clients() {
            door.refused(name, reason, door.raw(&bytes)).await?;
        }
        door.foreign(good).await?;
        door.somebody_else(&maker).await?;
        assert_untouched(&stats(mesh, ["api-1"]).await?);

        assert_served("again", &door.tls(Some(good), &[alpn::HTTP1]).await?);
        mesh.app("api-1").reset_stats().await?;
        resumption::is_not_done(&door, good).await?;
        cx.measured(format!("{} certificates refused", rows.len()));
        Ok(())
    })
    .await
}

/// Where intruders come in.
struct Door<'a> {
    mesh: &'a Mesh,
    pod: Pod,
}

impl Door<'_> {
    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.mesh.pod("api-1").v4().into(), APP_PORT)
    }

    /// A request through TLS. With TLS 1.3 the refusal may come in the handshake or at the first read: both
    /// are a closed connection.
    async fn tls(&self, shown: Option<&Credentials>, alpn: &[&[u8]]) -> anyhow::Result<End> {
        let stream = self.pod.connect(self.address()).await?;
        let Ok(mut stream) = tls::connect(stream, shown, alpn).await else {
            return Ok(End::Closed(Vec::new()));
        };
        // Fails where the server has closed already, which the read shows too.
        let _ = stream.write_all(GET.as_bytes()).await;
        let _ = stream.flush().await;
        Ok(tls::read_to_end(&mut stream).await)
    }

    /// Bytes, and then the client's end.
    async fn raw(&self, bytes: &[u8]) -> anyhow::Result<End> {
        let mut stream = self.pod.connect(self.address()).await?;
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        // What TLS answers with, an alert at most, is no answer.
        Ok(match tls::read_to_end(&mut stream).await {
            End::Closed(_) => End::Closed(Vec::new()),
            open @ End::Open(_) => open,
        })
    }

    /// The connection is closed without a word, and counted once, under this reason and no other.
    async fn refused(
        &self,
        name: &str,
        reason: &str,
        attempt: impl Future<Output = anyhow::Result<End>>,
    ) -> anyhow::Result<()> {
        let before = self.metrics().await?;
        let end = attempt.await?;
        assert_eq!(end, End::Closed(Vec::new()), "{name}");
        let labels = [("direction", "inbound"), ("outcome", "tls_failed")];
        let closed = |metrics: &Metrics| metrics.sum(CONNECTIONS, &labels);
        let after = wait_for(name, SETTLED, async || {
            let now = self.metrics().await?;
            Ok((closed(&now) > closed(&before)).then_some(now))
        })
        .await?;
        assert_eq!(closed(&after) - closed(&before), 1.0, "{name}");
        assert_counted(name, "inbound", reason, &before, &after, 1.0);
        Ok(())
    }

    /// Without the mesh's ALPN it is the client's own TLS, whatever certificate it has: plaintext to a strict
    /// port, and no handshake at all.
    async fn foreign(&self, good: &Credentials) -> anyhow::Result<()> {
        let none: &[&[u8]] = &[];
        for alpn in [none, &[b"h2"], &[b"http/1.1"], &[b"WEFT/1/h1"]] {
            let before = self.metrics().await?;
            let stream = self.pod.connect(self.address()).await?;
            let shaken = tls::connect(stream, Some(good), alpn).await;
            assert!(shaken.is_err(), "a handshake with {alpn:?} came about");
            let refused = [("direction", "inbound"), ("outcome", "mtls_required")];
            let count = |metrics: &Metrics| metrics.sum(CONNECTIONS, &refused);
            let after = wait_for("mtls_required", SETTLED, async || {
                let now = self.metrics().await?;
                Ok((count(&now) > count(&before)).then_some(now))
            })
            .await?;
            let all = after.sum(RESULTS, &[]) - before.sum(RESULTS, &[]);
            assert_eq!(all, 0.0, "{alpn:?} is none of the mesh's handshakes");
        }
        Ok(())
    }

    /// Good certificates of others: the handshake comes about, and policy refuses the request.
    async fn somebody_else(&self, maker: &Maker) -> anyhow::Result<()> {
        let others = [
            ("another account", "spiffe://weft.local/ns/default/sa/other"),
            (
                "an account that begins so",
                "spiffe://weft.local/ns/default/sa/client2",
            ),
            (
                "an account in another case",
                "spiffe://weft.local/ns/default/sa/Client",
            ),
            (
                "the account of another namespace",
                "spiffe://weft.local/ns/other/sa/client",
            ),
            (
                "the control plane",
                "spiffe://weft.local/ns/weft/sa/control-plane",
            ),
        ];
        for (name, other) in others {
            let before = self.metrics().await?;
            let shown = maker.leaf(|leaf| leaf.subject_alt_names = vec![maker::uri(other)])?;
            let heard = self.tls(Some(&shown), &[alpn::HTTP1]).await?.text();
            assert!(heard.starts_with("HTTP/1.1 403 "), "{name}: {heard}");
            assert!(
                heard.contains("x-weft-outcome: unauthorized"),
                "{name}: {heard}"
            );
            let after = self.metrics().await?;
            let refused = [("direction", "inbound"), ("outcome", "unauthorized")];
            let count = |metrics: &Metrics| metrics.sum("weft_requests_total", &refused);
            assert_eq!(count(&after) - count(&before), 1.0, "{name}");
        }
        Ok(())
    }

    async fn metrics(&self) -> anyhow::Result<Metrics> {
        metrics(self.mesh, "api-1").await
    }
}

/// So many handshakes failed, all for this reason; and the two families say the same.
fn assert_counted(
    name: &str,
    direction: &str,
    reason: &str,
    before: &Metrics,
    after: &Metrics,
    times: f64,
) {
    let direction = ("direction", direction);
    let all = [direction];
    let reasons: Vec<_> = after
        .matching(FAILURES, &all)
        .filter_map(|sample| {
            let label = sample.label("reason")?;
            let labels = [direction, ("reason", label)];
            let more = sample.value - before.sum(FAILURES, &labels);
            (more > 0.0).then_some((label, more))
        })
        .collect();
    assert_eq!(reasons, [(reason, times)], "{name}");
    let not_ok = |metrics: &Metrics| {
        metrics.sum(RESULTS, &[direction]) - metrics.sum(RESULTS, &[direction, ("result", "ok")])
    };
    assert_eq!(not_ok(after) - not_ok(before), times, "{name}");
}

fn assert_served(name: &str, end: &End) {
    assert!(end.text().starts_with("HTTP/1.1 200 "), "{name}: {end:?}");
}
