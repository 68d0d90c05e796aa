//! Who is let in by `authorization` and `mtls`, through sidecars on both sides, counted at the server.

use http::Method;
use weft_sandbox::{Service, Workload};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, client_and, http_app, mesh, metrics, policy, request, send, service, stats,
};

pub(crate) fn register(suite: &mut Suite) {
    suite.add("allowed::by_account_id_method_and_path", entries);
    suite.add("allowed::an_audit_lets_everybody_pass", audit);
    suite.add("allowed::each_mode_of_mtls", modes);
}

/// The callers: name, namespace, service account.
const CALLERS: [(&str, &str, &str); 5] = [
    ("client", "default", "client"),
    ("job", "default", "job"),
    ("team-a", "team", "a"),
    ("team-b", "team", "b"),
    ("guest", "guests", "guest"),
];
const ALLOW: &str = "authorization: {mode: Enforce, allow: [\
    {principals: [{serviceAccount: {name: client}}], methods: [GET], paths: [/public]}, \
    {principals: [{spiffeId: 'spiffe://weft.local/ns/default/sa/job'}], methods: [POST]}, \
    {principals: [{spiffeId: 'spiffe://weft.local/ns/team/*'}], paths: [/team]}, \
    {principals: [{serviceAccount: {namespace: guests, name: '*'}}], paths: [/guests/]}]}";
const CALLS: [(&str, Method, &str, bool); 17] = [
    ("client", Method::GET, "/public", true),
    ("client", Method::GET, "/public/more?x=1", true),
    ("client", Method::GET, "/publicly", false),
    ("client", Method::GET, "/", false),
    ("client", Method::POST, "/public", false),
    ("client", Method::HEAD, "/public", false),
    ("job", Method::POST, "/anything", true),
    ("job", Method::GET, "/public", false),
    ("job", Method::PUT, "/anything", false),
    ("team-a", Method::GET, "/team", true),
    ("team-b", Method::DELETE, "/team/x", true),
    ("team-a", Method::GET, "/teams", false),
    ("team-b", Method::GET, "/public", false),
    ("guest", Method::GET, "/guests/1", true),
    ("guest", Method::GET, "/guest", false),
    ("guest", Method::GET, "/team", false),
    ("guest", Method::POST, "/anything", false),
];

/// One allowance by all of its parts, several of them by any.
async fn entries(cx: Cx) -> anyhow::Result<()> {
    let mut builder = mesh("entries")
        .workload(http_app("api-1"))
        .service(service("api", ["api-1"]))
        .policy(&policy("api", "api", ALLOW));
    for (name, namespace, account) in CALLERS {
        let caller = Workload::new(name).namespace(namespace);
        builder = builder.workload(caller.service_account(account));
    }
    cx.on(builder, async |mesh| {
        let mut served = 0;
        for (number, (caller, method, path, allowed)) in CALLS.into_iter().enumerate() {
            let place = CALLERS.iter().find(|(name, ..)| *name == caller);
            let (_, namespace, _) = place.expect("every caller is one of them");
            let id = format!("{number}: {method} {path} of {caller}");
            let call = request(method, path, &id, "");
            let pod = mesh.pod(&format!("{namespace}/{caller}"));
            let answer = send(&pod, mesh.addr("api", PORT), call).await?;
            let expected = if allowed {
                (200, None)
            } else {
                (403, Some("unauthorized"))
            };
            let told = (answer.status.as_u16(), answer.outcome());
            assert_eq!(told, expected, "{id}");
            served += u64::from(allowed);
            let seen = stats(mesh, ["api-1"]).await?;
            assert_eq!(seen.ids.contains_key(&id), allowed, "{id} at the server");
            assert_eq!(seen.requests, served, "{id}");
        }
        Ok(())
    })
    .await
}

/// What `Enforce` would deny is served and logged; an edit makes it a denial.
async fn audit(cx: Cx) -> anyhow::Result<()> {
    let mode = |mode: &str| {
        policy(
            "api",
            "api",
            &format!(
                "authorization: {{mode: {mode}, allow: [{{principals: [{{serviceAccount: {{name: client}}}}]}}]}}"
            ),
        )
    };
    let builder = client_and("audit", ["api-1"])
        .workload(Workload::new("other").service_account("other"))
        .named_policy("api", &mode("Audit"));
    cx.on(builder, async |mesh| {
        let (other, to) = (mesh.pod("other"), mesh.addr("api", PORT));
        for number in 0..10 {
            let get = request(Method::GET, "/", &format!("audited-{number}"), "");
            assert_eq!(send(&other, to, get).await?.status, 200);
        }
        let seen = stats(mesh, ["api-1"]).await?;
        assert_eq!((seen.requests, seen.repeated_ids()), (10, 0));
        let log = mesh.sidecar_log("api-1");
        assert_eq!(log.matches("would be unauthorized (audit)").count(), 10);
        let counted = async || {
            let labels = [
                ("direction", "inbound"),
                ("service", "default/api:80"),
                ("peer", "default/other"),
            ];
            let counted = metrics(mesh, "api-1").await?;
            anyhow::Ok(counted.sum("weft_authorization_audited_total", &labels))
        };
        assert_eq!(counted().await?, 10.0);
        let allowed = request(Method::GET, "/", "allowed", "");
        let answer = send(&mesh.pod("client"), to, allowed).await?;
        assert_eq!((answer.status.as_u16(), counted().await?), (200, 10.0));

        mesh.apply_policy("api", &mode("Enforce"))?;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        for number in 0..10 {
            let get = request(Method::GET, "/", &format!("enforced-{number}"), "");
            let answer = send(&other, to, get).await?;
            assert_eq!(
                (answer.status.as_u16(), answer.outcome()),
                (403, Some("unauthorized"))
            );
        }
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, 11);
        assert_eq!(counted().await?, 10.0, "what is denied is not audited");
        Ok(())
    })
    .await
}

/// A stranger in plaintext and a client with a sidecar, to a port of each mode: who is served, and
/// how they came.
async fn modes(cx: Cx) -> anyhow::Result<()> {
    let modes = [
        ("strict", "Strict"),
        ("permissive", "Permissive"),
        ("disabled", "Disabled"),
    ];
    let mut builder = mesh("modes").workload(Workload::new("client").service_account("client"));
    for (name, mode) in modes {
        let app = format!("{name}-1");
        builder = builder
            .workload(http_app(&app))
            .service(
                Service::new(name)
                    .port(PORT, APP_PORT)
                    .endpoints([app.as_str()]),
            )
            .policy(&policy(name, name, &format!("mtls: {{mode: {mode}}}")));
    }
    cx.on(builder, async |mesh| {
        let stranger = mesh.stranger("stranger")?;
        for (name, mode) in modes {
            let app = format!("{name}-1");
            let direct = (mesh.pod(&app).v4(), APP_PORT).into();
            let plain = send(&stranger, direct, request(Method::GET, "/", "plain", "")).await?;
            let to = mesh.addr(name, PORT);
            let meshed = send(
                &mesh.pod("client"),
                to,
                request(Method::GET, "/", "meshed", ""),
            )
            .await?;
            assert_eq!(meshed.status, 200, "{mode}: {}", meshed.text());

            let refused = mode == "Strict";
            let expected = if refused {
                (403, Some("mtls_required"))
            } else {
                (200, None)
            };
            assert_eq!((plain.status.as_u16(), plain.outcome()), expected, "{mode}");
            let seen = stats(mesh, [app.as_str()]).await?;
            assert_eq!(seen.ids.contains_key("plain"), !refused, "{mode}");
            assert_eq!(seen.ids["meshed"], 1, "{mode}");

            let metrics = metrics(mesh, &app).await?;
            let of = |tls: &str| {
                let labels = [("direction", "inbound"), ("outcome", "ok"), ("tls", tls)];
                metrics.sum("weft_requests_total", &labels) as u64
            };
            // Where plaintext is what clients are promised, sidecars keep to it.
            let mutual = u64::from(mode != "Disabled");
            assert_eq!(of("mutual"), mutual, "{mode}");
            assert_eq!(of("none"), seen.requests - mutual, "{mode}");
        }
        Ok(())
    })
    .await
}
