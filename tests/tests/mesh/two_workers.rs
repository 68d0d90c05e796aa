//! Sidecars with two data threads: few connections are kept together and many are spread, whatever thread
//! accepted them, and a thread that cannot keep up has connections made anew. Nobody notices.

use std::time::Duration;

use weft_sandbox::Workload;
use weft_sandbox::load::{Load, Protocol, Shot};

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_all_served_once, assert_no_failure, http_app, mesh, metrics, policy, service,
};

/// For one thread, and for both.
const CLIENTS: [usize; 2] = [6, 20];

pub(crate) fn register(suite: &mut Suite) {
    suite.add("two_workers::no_request_is_lost", no_request_is_lost);
}

/// At full speed over HTTP/1 and HTTP/2 every request is answered, by one that reached the server once.
async fn no_request_is_lost(cx: Cx) -> anyhow::Result<()> {
    let client = Workload::new("client").service_account("client");
    let builder = mesh("two-workers")
        .workload(client.workers(2))
        .workload(http_app("api-1").workers(2))
        .service(service("api", ["api-1"]))
        .named_policy("api", &policy("api", "api", "timeouts: {request: 20s}"));
    cx.on(builder, async |mesh| {
        let app = mesh.app("api-1");
        let pod = mesh.pod("client");
        let lasting = cx.pick(Duration::from_secs(3), Duration::from_secs(20));
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for clients in CLIENTS {
                app.reset_stats().await?;
                let report = Load::new(mesh.addr("api", PORT))
                    .protocol(protocol)
                    .clients(clients)
                    .duration(lasting)
                    .shot(Shot::post("/orders", 100))
                    .id_prefix(&format!("{protocol:?}-{clients}"))
                    .run(&pod)
                    .await;
                assert_no_failure(&report);
                assert_all_served_once(&report, &app.stats().await?);
                cx.measured(format!(
                    "{protocol:?}, {clients} clients: {} served",
                    report.status(200)
                ));
            }
        }
        for of in ["client", "api-1"] {
            let counted = metrics(mesh, of).await?;
            let anew = counted.sum("weft_connections_sent_away_total", &[]);
            cx.measured(format!("{of}: {anew} connections made anew"));
        }
        Ok(())
    })
    .await
}
