//! The control plane's admin port where its source is files: nobody but loopback is told anything, and
//! nobody but loopback changes anything.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use weft_proto::names::ports;

use crate::Suite;
use crate::common::{Cx, client_and};

const PAGES: [&str; 5] = ["/status", "/edges", "/identity", "/command", "/log-level"];
const CHANGES: [&str; 4] = [
    "/command",
    "/log-level/debug",
    "/identity/rotate/issuer",
    "/identity/rotate/root",
];

pub(crate) fn register(suite: &mut Suite) {
    suite.add("admin::loopback_only", loopback_only);
    suite.add("admin::the_level_of_the_log_changes", log_level);
}

/// From the pod of a workload, and from the control plane's own by the address that others know: 403. From
/// its loopback the same is answered.
async fn loopback_only(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("admin", ["api-1"]), async |mesh| {
        let own = mesh.control_plane_pod();
        let known = SocketAddr::from((own.v4(), ports::ADMIN));
        let generation = async || {
            let identity = mesh.control_plane_get("/identity").await?;
            let identity: serde_json::Value = serde_json::from_slice(&identity.body)?;
            anyhow::Ok(identity["generation"].clone())
        };
        let before = generation().await?;
        for pod in [&mesh.pod("client"), own] {
            for page in PAGES {
                let answer = pod.get(known, page).await?;
                assert_eq!(answer.status, 403, "{page}: {}", answer.text());
            }
            for path in CHANGES {
                let answer = pod.post(known, path, Bytes::new()).await?;
                assert_eq!(answer.status, 403, "{path}: {}", answer.text());
            }
            for page in ["/live", "/ready", "/health", "/metrics"] {
                assert_eq!(pod.get(known, page).await?.status, 200, "{page}");
            }
        }
        for page in ["/status", "/edges", "/identity"] {
            let answer = mesh.control_plane_get(page).await?;
            assert_eq!(answer.status, 200, "{page}: {}", answer.text());
        }
        assert_eq!(generation().await?, before, "nothing was rotated");
        Ok(())
    })
    .await
}

/// The level of the control plane's log is changed while it runs; what is no level changes nothing.
async fn log_level(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("level", ["api-1"]), async |mesh| {
        let pod = mesh.control_plane_pod();
        let level = async || {
            let answer = mesh.control_plane_get("/log-level").await?;
            anyhow::Ok(answer.text())
        };
        assert_eq!(level().await?, "info\n");
        for (wanted, status, now) in [
            ("debug", 200, "debug\n"),
            ("loud", 400, "debug\n"),
            ("", 400, "debug\n"),
            ("warn", 200, "warn\n"),
        ] {
            let path = format!("/log-level/{wanted}");
            let known = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::ADMIN));
            let answer = pod.post(known, &path, Bytes::new()).await?;
            assert_eq!(answer.status, status, "{wanted}: {}", answer.text());
            assert_eq!(level().await?, now, "{wanted}");
        }
        Ok(())
    })
    .await
}
