//! The control plane's admin port where its source is files: nobody but loopback is told anything, and
//! nobody but loopback changes anything.

use std::net::SocketAddr;

use bytes::Bytes;
use weft_proto::names::ports;

use crate::Suite;
use crate::common::{Cx, client_and};

const PAGES: [&str; 4] = ["/status", "/edges", "/identity", "/command"];
const CHANGES: [&str; 3] = [
    "/command",
    "/identity/rotate/issuer",
    "/identity/rotate/root",
];

pub(crate) fn register(suite: &mut Suite) {
    suite.add("admin::loopback_only", loopback_only);
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
