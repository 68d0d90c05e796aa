//! Starts, outages, renewals and ends.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::json;
use tokio::net::TcpStream;
use weft_control_plane::cluster::webhook::Timing;
use weft_tests::apiserver::Outage;

const UP: &str = r#"weft_injector_watch_up{kind="namespaces"}"#;

/// With neither certificate nor Secret nor configuration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_waits_for_everything() {
    let scene = Scene::new().await;
    let mut injector = scene.injector().await;
    let says = async |words: &str| {
        until(words, async || {
            let (code, page) = injector.page("/ready").await;
            code == 503 && page.contains(words)
        })
        .await;
    };
    says("Secret weft/weft-injector-certificate: it is not there").await;
    says("MutatingWebhookConfiguration weft-injector is not there").await;
    assert_eq!(injector.page("/live").await.0, 200);
    TcpStream::connect(injector.webhook).await.unwrap();
    scene.server.put(&configuration()).await.unwrap();
    says("there is no certificate").await;
    let certificates = scene.certificates(quick()).await;
    injector.until_ready().await;
    assert!(
        injector
            .metric("weft_injector_certificate_expiry_timestamp_seconds")
            .await
            > 1_700_000_000
    );
    certificates.abort();

    // One webhook that does not trust it is enough not to be ready.
    let trusted = scene.at(CONFIGURATION).await.unwrap();
    let mut half = trusted.clone();
    half["webhooks"][1]["clientConfig"]["caBundle"] = json!(null);
    half["metadata"] = json!({"name": "weft-injector"});
    scene.server.put(&half).await.unwrap();
    says("webhook pod.injector.weft.dev cannot be called: its caBundle is empty").await;
    let mut whole = trusted;
    whole["metadata"] = json!({"name": "weft-injector"});
    scene.server.put(&whole).await.unwrap();
    injector.until_ready().await;

    // What is no certificate, and nothing, leave the last good one in force.
    namespace(&scene.server, "shop", Some("enabled")).await;
    let roots = scene.roots().await;
    let serves = async || {
        let (mut caller, served) = Caller::connect(injector.webhook, &roots, Http::One)
            .await
            .unwrap();
        let answer = caller
            .review(&review("shop", &pod("web"), false))
            .await
            .unwrap();
        assert_eq!(answer["allowed"], true);
        served
    };
    let good = serves().await;
    let spoiled = json!({"data": {"tls.crt": STANDARD.encode("nothing")}});
    scene
        .server
        .ask(Method::PATCH, SECRET, Some(&spoiled))
        .await;
    scene.server.ask(Method::DELETE, SECRET, None).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(serves().await, good);
    assert_eq!(injector.page("/ready").await.0, 200);
    // And one that is made anew is served as soon as the webhooks trust it.
    scene.certificates(quick()).await;
    until("another certificate", async || {
        let roots = scene.roots().await;
        match Caller::connect(injector.webhook, &roots, Http::One).await {
            Ok((_, served)) => served != good,
            Err(_) => false,
        }
    })
    .await;
    injector.until_ready().await;
    assert!(injector.child.try_wait().unwrap().is_none());
}

/// Roles that are not there (yet) end nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_may_not_do_is_named() {
    let scene = Scene::new().await;
    let role = "/apis/rbac.authorization.k8s.io/v1/namespaces/weft/roles/weft-injector";
    let known = scene.at(role).await.unwrap();
    scene.server.ask(Method::DELETE, role, None).await;
    scene.server.put(&configuration()).await.unwrap();
    scene.certificates(quick()).await;
    let injector = scene.injector().await;
    until("it says so", async || {
        let (code, page) = injector.page("/ready").await;
        code == 503
            && page.contains("secrets are not known yet: the API server says 403")
            && page.contains("--print-rbac")
    })
    .await;
    let role = json!({"apiVersion": known["apiVersion"], "kind": "Role", "rules": known["rules"],
        "metadata": {"name": "weft-injector", "namespace": "weft"}});
    scene.server.put(&role).await.unwrap();
    injector.until_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_api_server_is_away_what_is_known_holds() {
    let scene = Scene::new().await;
    namespace(&scene.server, "shop", Some("enabled")).await;
    let injector = scene.ready().await;
    let roots = scene.roots().await;
    let (mut caller, _) = Caller::connect(injector.webhook, &roots, Http::Two)
        .await
        .unwrap();
    for outage in [Outage::Away, Outage::Failing(500)] {
        scene.server.set_outage(outage);
        scene.server.drop_watches();
        until("it notices", async || injector.metric(UP).await == 0).await;
        let since = Instant::now();
        for _ in 0..50 {
            let answer = caller
                .review(&review("shop", &pod("web"), false))
                .await
                .unwrap();
            assert_eq!(answer["patchType"], "JSONPatch");
        }
        assert!(
            since.elapsed() < Duration::from_secs(5),
            "{:?}",
            since.elapsed()
        );
        // Nobody knows whether that one wants a sidecar.
        let answer = caller
            .review(&review("unknown", &pod("web"), false))
            .await
            .unwrap();
        assert_eq!(
            (&answer["allowed"], &answer["status"]["code"]),
            (&json!(false), &json!(403))
        );
        assert_eq!(injector.page("/ready").await.0, 200, "{outage:?}");
        scene.server.set_outage(Outage::None);
        until("it is back", async || injector.metric(UP).await == 1).await;
    }
    assert!(
        injector
            .metric(r#"weft_injector_watch_errors_total{kind="namespaces"}"#)
            .await
            >= 2
    );
    // Nor does it matter that nothing is answered at all.
    scene.server.set_outage(Outage::Hang);
    let since = Instant::now();
    let answer = caller
        .review(&review("shop", &pod("web"), false))
        .await
        .unwrap();
    assert_eq!(answer["patchType"], "JSONPatch");
    let answer = caller
        .review(&review("unknown", &pod("web"), false))
        .await
        .unwrap();
    let message = answer["status"]["message"].as_str().unwrap();
    assert!(message.contains("did not answer within 2 s"), "{message}");
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "before the API server gives up"
    );
    scene.server.set_outage(Outage::None);
    let later = "made-later";
    namespace(&scene.server, later, Some("enabled")).await;
    let answer = caller
        .review(&review(later, &pod("web"), false))
        .await
        .unwrap();
    assert_eq!(answer["patchType"], "JSONPatch");
}

/// Connections that stay and connections that come, over several certificates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_fail_no_call() {
    let scene = Arc::new(Scene::new().await);
    namespace(&scene.server, "shop", Some("enabled")).await;
    scene.server.put(&configuration()).await.unwrap();
    let timing = Timing {
        life: Duration::from_secs(15),
        settle: Duration::from_secs(2),
        period: Duration::from_millis(100),
    };
    let certificates = scene.certificates(timing).await;
    let injector = scene.injector().await;
    injector.until_ready().await;

    let done = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let mut stay = Vec::new();
    for http in [Http::One, Http::Two] {
        let (mut caller, _) = Caller::connect(injector.webhook, &scene.roots().await, http)
            .await
            .unwrap();
        let (done, calls) = (Arc::clone(&done), Arc::clone(&calls));
        stay.push(tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let answer = caller
                    .review(&review("shop", &pod("web"), false))
                    .await
                    .unwrap();
                assert_eq!(answer["patchType"], "JSONPatch");
                calls.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }));
    }
    let mut served = Vec::new();
    let (mut came, since) = (0, Instant::now());
    while served.len() < 3 {
        assert!(since.elapsed() < PATIENCE, "{} certificates", served.len());
        let roots = scene.roots().await;
        let http = if came % 2 == 0 { Http::One } else { Http::Two };
        let (mut caller, certificate) = Caller::connect(injector.webhook, &roots, http)
            .await
            .expect("trusted");
        let answer = caller
            .review(&review("shop", &pod("web"), false))
            .await
            .expect("answered");
        assert_eq!(answer["patchType"], "JSONPatch");
        came += 1;
        if served.last() != Some(&certificate) {
            served.push(certificate);
        }
        assert_eq!(injector.page("/ready").await.0, 200, "ready all the time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    done.store(true, Ordering::Relaxed);
    for task in stay {
        task.await.unwrap();
    }
    let stayed = calls.load(Ordering::Relaxed);
    assert!(came > 50 && stayed > 100, "{came} and {stayed}");
    let counted = injector.count("patched", "asked").await;
    assert_eq!(counted, stayed + came, "as many as the webhook counted");
    certificates.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_when_nobody_asks_any_more() {
    let scene = Scene::new().await;
    namespace(&scene.server, "shop", Some("enabled")).await;
    let mut injector = scene.ready().await;
    let roots = scene.roots().await;
    let (mut known, _) = Caller::connect(injector.webhook, &roots, Http::Two)
        .await
        .unwrap();
    known
        .review(&review("shop", &pod("web"), false))
        .await
        .unwrap();
    injector.signal(rustix::process::Signal::TERM);
    let told = Instant::now();
    until("not ready", async || injector.page("/ready").await.0 == 503).await;
    assert!(injector.page("/ready").await.1.contains("about to end"));
    // API servers that do not know yet are answered, on old connections and new ones.
    while told.elapsed() < Duration::from_secs(3) {
        known
            .review(&review("shop", &pod("web"), false))
            .await
            .unwrap();
        let (mut new, _) = Caller::connect(injector.webhook, &roots, Http::One)
            .await
            .unwrap();
        new.review(&review("shop", &pod("web"), false))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = ended(&mut injector).await;
    assert!(status.success(), "{status}");
    assert!(
        told.elapsed() < Duration::from_secs(20),
        "{:?}",
        told.elapsed()
    );
}

async fn ended(injector: &mut Injector) -> std::process::ExitStatus {
    let since = Instant::now();
    loop {
        if let Some(status) = injector.child.try_wait().unwrap() {
            return status;
        }
        assert!(since.elapsed() < PATIENCE, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn bad_settings_are_told_at_once() {
    let output = Command::new(WEFT)
        .args(["internal", "injector"])
        .env("WEFT_PROXY_IMAGE", "No Image")
        .env("WEFT_PROXY_CPU_LIMIT", "much")
        .env("WEFT_LISTEN_ADDR", "here")
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    for words in [
        "WEFT_PROXY_IMAGE is \"No Image\"; give an image's name",
        "WEFT_PROXY_CPU_LIMIT is \"much\"; give an amount",
        "WEFT_LISTEN_ADDR is \"here\"; give an address",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}
