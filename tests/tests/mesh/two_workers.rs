//! Sidecars with two data threads: few connections are kept together and many are spread, whatever thread
//! accepted them, and a thread that cannot keep up has connections made anew. Nobody notices.

use std::time::Duration;

use weft_sandbox::Workload;
use weft_sandbox::load::{Load, Protocol, Shot};

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_all_served_once, assert_no_failure, http_app, mesh, metrics, policy, service,
};

/// As many clients as one thread gets, and as many as both do.
const LOADS: [(Protocol, usize); 4] = [
    (Protocol::Http1, 6),
    (Protocol::Http1, 20),
    (Protocol::Http2, 6),
    (Protocol::Http2, 20),
];
/// Each of them.
const LASTING: Duration = Duration::from_secs(3);

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
        for (protocol, clients) in LOADS.repeat(cx.pick(1, 6)) {
            app.reset_stats().await?;
            let report = Load::new(mesh.addr("api", PORT))
                .protocol(protocol)
                .clients(clients)
                .duration(LASTING)
                .shot(Shot::post("/orders", 100))
                .id_prefix(&format!("{protocol:?}-{clients}"))
                .run(&pod)
                .await;
            assert_no_failure(&report);
            assert_all_served_once(&report, &app.stats().await?);
            let served = report.status(200);
            cx.measured(format!("{protocol:?}, {clients} clients: {served} served"));
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
