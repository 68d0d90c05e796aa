//! A header as a label of request metrics: its values are told apart up to the bound, and no request is
//! counted less for it.

use http::{HeaderValue, Method};

use crate::Suite;
use crate::common::{Cx, PORT, http_app, mesh, metrics, request, send, service, stats};

use weft_sandbox::Workload;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("tenants::the_first_values_have_their_own_series", values);
}

async fn values(cx: Cx) -> anyhow::Result<()> {
    let api = http_app("api-1")
        .env("WEFT_METRICS_HEADER_LABEL", "tenant=X-Tenant")
        .env("WEFT_METRICS_HEADER_VALUES", "2");
    let builder = mesh("tenants")
        .workload(Workload::new("client").service_account("client"))
        .workload(api)
        .service(service("api", ["api-1"]));
    cx.on(builder, async |mesh| {
        let client = mesh.pod("client");
        let sent = ["acme", "", "umbrella", "acme", "late", "later", "acme"];
        for (number, tenant) in sent.into_iter().enumerate() {
            let mut get = request(Method::GET, "/", &format!("call-{number}"), "");
            if !tenant.is_empty() {
                let value = HeaderValue::from_static(tenant);
                get.headers_mut().insert("x-tenant", value);
            }
            let answer = send(&client, mesh.addr("api", PORT), get).await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, sent.len() as u64);

        let inbound = ("direction", "inbound");
        let server = metrics(mesh, "api-1").await?;
        for (tenant, expected) in [("acme", 3.0), ("", 1.0), ("umbrella", 1.0), ("other", 2.0)] {
            let labels = [inbound, ("tenant", tenant)];
            let counted = server.sum("weft_requests_total", &labels);
            assert_eq!(counted, expected, "requests of {tenant:?}");
            let timed = server.sum("weft_header_request_duration_seconds_count", &labels);
            assert_eq!(timed, expected, "durations of {tenant:?}");
        }
        let all = server.sum("weft_requests_total", &[inbound]);
        assert_eq!(all, sent.len() as f64);
        let limit = [("limit", "header_label_values")];
        assert_eq!(server.sum("weft_limit_hits_total", &limit), 2.0);

        // Whom nobody told has no such label.
        let page = mesh.metrics("client").await?;
        assert!(!page.contains("tenant="), "{page}");
        Ok(())
    })
    .await
}
