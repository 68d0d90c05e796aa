//! What a policy is meant for, and whose stanza holds: by port, service and namespace, from the rule
//! outwards; what would weaken its namespace and what conflicts is refused. Counted at the servers.

use anyhow::Context as _;
use http::Method;
use serde_json::Value;
use weft_sandbox::app::Behavior;
use weft_sandbox::{Mesh, Service, Workload};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, assert_untouched, client_and, http_app, mesh, policy, request, send,
    service, stats,
};

/// A second port of the service `api`.
const ADMIN_PORT: u16 = 81;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("targets::the_innermost_whole_stanza_holds", inheritance);
    suite.add("targets::a_service_may_not_weaken_its_namespace", weaker);
    suite.add("targets::the_older_of_two_wins", conflicts);
}

/// "rule > service port > service > namespace > mesh default, one whole stanza at a time": every
/// level asks for another number of retries, and the server, which fails, counts the tries.
async fn inheritance(cx: Cx) -> anyhow::Result<()> {
    const BUDGET: &str = "backoff: {base: 1ms, max: 1ms}, budget: {minRetriesPerSecond: 1000}";
    let retries =
        |attempts: u32| format!("retries: {{attempts: {attempts}, statusCodes: [503], {BUDGET}}}");
    let on = |name: &str, target: &str, stanzas: &str| {
        policy(name, "api", stanzas).replace("{kind: Service, name: api}", target)
    };
    let rule = format!(
        "{}, rules: [{{name: few, matches: [{{path: {{value: /few}}}}], {}}}]",
        retries(3),
        retries(1)
    );
    let foreign = |text: String| text.replace("namespace: default", "namespace: elsewhere");
    let api = Service::new("api")
        .port(PORT, APP_PORT)
        .port_name("http")
        .port(ADMIN_PORT, APP_PORT)
        .port_name("admin")
        .endpoints(["api-1"]);
    let builder = mesh("inheritance")
        .workload(Workload::new("client"))
        .workload(http_app("api-1"))
        .workload(http_app("far-1").namespace("elsewhere"))
        .service(api)
        .service(service("other", ["api-1"]))
        .service(service("whole", ["api-1"]))
        .service(service("far", ["far-1"]).namespace("elsewhere"))
        .policy(&on("ns", "{kind: Namespace, name: default}", &retries(4)))
        .policy(&policy("api", "api", &rule))
        .policy(&on(
            "admin",
            "{kind: Service, name: api, sectionName: admin}",
            &retries(2),
        ))
        // It says nothing about 503, and does not take that from its namespace.
        .policy(&policy(
            "whole",
            "whole",
            &format!("retries: {{attempts: 9, statusCodes: [500], {BUDGET}}}"),
        ))
        // Another namespace's is nobody's business here.
        .policy(&foreign(policy("far", "nobody", &retries(5))));
    cx.on(builder, async |mesh| {
        for app in ["api-1", "elsewhere/far-1"] {
            mesh.app(app).behave(&Behavior::status(503)).await?;
        }
        let client = mesh.pod("client");
        for (service, port, path, tries) in [
            ("other", PORT, "/", 5),
            ("api", PORT, "/", 4),
            ("api", ADMIN_PORT, "/", 3),
            ("api", PORT, "/few", 2),
            // The port says nothing about rules, so those of its service hold.
            ("api", ADMIN_PORT, "/few", 2),
            ("whole", PORT, "/", 1),
            // Without a policy nothing is repeated that a server answered.
            ("elsewhere/far", PORT, "/", 1),
        ] {
            let id = format!("{service}:{port}{path}");
            let get = request(Method::GET, path, &id, "");
            let answer = send(&client, mesh.addr(service, port), get).await?;
            assert_eq!(answer.status, 503, "{id}");
            assert_eq!(answer.outcome(), None, "{id}");
            let seen = stats(mesh, ["api-1", "elsewhere/far-1"]).await?;
            assert_eq!(seen.ids[&id], tries, "tries of {id}, as the server counts");
        }
        Ok(())
    })
    .await
}

/// "For `mtls` and `authorization` inheritance only tightens": what is weaker is refused, and the
/// namespace's holds; what is stricter holds.
async fn weaker(cx: Cx) -> anyhow::Result<()> {
    let allow = |accounts: &[&str]| {
        let principals: Vec<_> = accounts
            .iter()
            .map(|name| format!("{{serviceAccount: {{name: {name}}}}}"))
            .collect();
        format!(
            "authorization: {{allow: [{{principals: [{}]}}]}}",
            principals.join(", ")
        )
    };
    let namespace = format!("mtls: {{mode: Strict}}, {}", allow(&["one", "two"]));
    let namespace = policy("ns", "x", &namespace).replace(
        "{kind: Service, name: x}",
        "{kind: Namespace, name: default}",
    );
    let mut builder = mesh("weaker").policy(&namespace);
    for account in ["one", "two", "three"] {
        builder = builder.workload(Workload::new(account).service_account(account));
    }
    for name in ["plain", "narrow", "wide"] {
        let app = format!("{name}-1");
        builder = builder
            .workload(http_app(&app))
            .service(service(name, [app.as_str()]));
    }
    builder = builder
        .named_policy(
            "plain",
            &policy(
                "plain",
                "plain",
                &format!("mtls: {{mode: Permissive}}, {}", allow(&["one", "three"])),
            ),
        )
        .named_policy("narrow", &policy("narrow", "narrow", &allow(&["one"])))
        .named_policy("wide", &policy("wide", "wide", &allow(&["one", "three"])));
    cx.on(builder, async |mesh| {
        let refused = refusals(mesh).await?;
        assert_eq!(refused.len(), 3, "{refused:#?}");
        for name in ["plain", "wide"] {
            let reason = reason(&refused, &format!("TrafficPolicy default/{name}"))?;
            assert!(reason.starts_with("WeakerThanNamespace: "), "{reason}");
        }
        // In plaintext, whatever the service's own policy says.
        let stranger = mesh.stranger("stranger")?;
        let to = (mesh.pod("plain-1").v4(), APP_PORT).into();
        let answer = send(&stranger, to, request(Method::GET, "/", "plaintext", "")).await?;
        assert_eq!(answer.outcome(), Some("mtls_required"));
        assert_untouched(&stats(mesh, ["plain-1"]).await?);

        for (service, account, allowed) in [
            ("narrow", "one", true),
            ("narrow", "two", false),
            ("narrow", "three", false),
            ("wide", "one", true),
            ("wide", "two", true),
            ("wide", "three", false),
            ("plain", "two", true),
            ("plain", "three", false),
        ] {
            let id = format!("{account} to {service}");
            let get = request(Method::GET, "/", &id, "");
            let answer = send(&mesh.pod(account), mesh.addr(service, PORT), get).await?;
            let expected = if allowed {
                (200, None)
            } else {
                (403, Some("unauthorized"))
            };
            let told = (answer.status.as_u16(), answer.outcome());
            assert_eq!(told, expected, "{id}");
            let app = format!("{service}-1");
            let seen = mesh.app(&app).stats().await?.ids;
            assert_eq!(seen.contains_key(&id), allowed, "{id} at the server");
        }
        Ok(())
    })
    .await
}

/// "Two policies on one target combine when their stanzas are disjoint; otherwise the older wins and
/// the younger is `Conflicted`, naming the winner": by time of creation, else by name.
async fn conflicts(cx: Cx) -> anyhow::Result<()> {
    let split = |app: &str| format!("split: {{backends: [{{name: {app}}}]}}");
    let born = |text: String, time: &str| {
        text.replace(
            "namespace: default}",
            &format!("namespace: default, creationTimestamp: '{time}'}}"),
        )
    };
    let mut builder = client_and("conflicts", ["api-1"]);
    for app in ["blue", "green"] {
        builder = builder.workload(http_app(app)).service(service(app, [app]));
    }
    let builder = builder
        .service(service("old", ["api-1"]))
        .policy(&policy("a-first", "api", &split("blue")))
        .policy(&policy("b-second", "api", &split("green")))
        .policy(&policy(
            "c-third",
            "api",
            "retries: {attempts: 3, statusCodes: [503], backoff: {base: 1ms, max: 1ms}}",
        ))
        .policy(&born(
            policy("a-young", "old", &split("blue")),
            "2026-02-01T00:00:00Z",
        ))
        .policy(&born(
            policy("z-old", "old", &split("green")),
            "2026-01-01T00:00:00Z",
        ));
    cx.on(builder, async |mesh| {
        let refused = refusals(mesh).await?;
        assert_eq!(refused.len(), 2, "{refused:#?}");
        for (younger, older) in [("b-second", "a-first"), ("a-young", "z-old")] {
            let reason = reason(&refused, &format!("TrafficPolicy default/{younger}"))?;
            let named = format!("Conflicted: default/{older} is older and has split");
            assert!(reason.starts_with(&named), "{reason}");
        }
        let client = mesh.pod("client");
        for (service, app, other) in [("api", "blue", "green"), ("old", "green", "blue")] {
            for number in 0..20 {
                let get = request(Method::GET, "/", &format!("{service}-{number}"), "");
                let answer = send(&client, mesh.addr(service, PORT), get).await?;
                assert_eq!(answer.served_by(), Some(app), "{service}");
            }
            let seen = async |app| anyhow::Ok(stats(mesh, [app]).await?.ids);
            let count = |ids: std::collections::BTreeMap<String, u64>| {
                ids.keys().filter(|id| id.starts_with(service)).count()
            };
            assert_eq!(count(seen(app).await?), 20, "{service} at {app}");
            assert_eq!(count(seen(other).await?), 0, "{service} at {other}");
        }
        // The third has a stanza that nobody else has.
        let fail = Behavior {
            fail_next: 2,
            ..Behavior::default()
        };
        mesh.app("blue").behave(&fail).await?;
        let get = request(Method::GET, "/", "combined", "");
        let answer = send(&client, mesh.addr("api", PORT), get).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(stats(mesh, ["blue"]).await?.ids["combined"], 3);
        Ok(())
    })
    .await
}

async fn refusals(mesh: &Mesh) -> anyhow::Result<Vec<Value>> {
    let answer = mesh.control_plane_get("/status").await?;
    let status: Value = serde_json::from_slice(&answer.body)?;
    Ok(status["refused"].as_array().context("refused")?.clone())
}

fn reason<'a>(refused: &'a [Value], object: &str) -> anyhow::Result<&'a str> {
    let found = refused.iter().find(|refusal| refusal["object"] == object);
    let found = found.with_context(|| format!("{object} is not refused: {refused:#?}"))?;
    found["reason"].as_str().context("a reason")
}
