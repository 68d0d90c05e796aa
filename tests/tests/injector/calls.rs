//! What callers bring.

use std::time::{Duration, Instant};

use crate::common::*;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_review_is_refused_in_words() {
    let scene = Scene::new().await;
    let injector = scene.ready().await;
    namespace(&scene.server, "shop", Some("enabled")).await;
    let roots = scene.roots().await;
    for http in [Http::One, Http::Two] {
        // A server that refuses a request before it came whole may end the connection.
        let send = async |request| {
            let (mut caller, _) = Caller::connect(injector.webhook, &roots, http)
                .await
                .unwrap();
            let (code, body) = caller.send(request).await.unwrap();
            (code, String::from_utf8(body).unwrap())
        };
        let request = |method: &str, path: &str| {
            Request::builder()
                .method(method)
                .uri(format!("https://weft-injector.weft.svc{path}"))
                .header("host", "weft-injector.weft.svc")
                .body(Full::new(Bytes::new()))
                .unwrap()
        };
        assert_eq!(send(request("GET", "/inject")).await.0, 405);
        assert_eq!(send(request("POST", "/")).await.0, 404);
        assert_eq!(send(request("GET", "/metrics")).await.0, 404);
        assert_eq!(send(post("{")).await.0, 400);
        let old = review("shop", &pod("web"), false)
            .to_string()
            .replace("io/v1", "io/v1beta1");
        let (code, words) = send(post(old)).await;
        assert_eq!(code, 400);
        assert!(
            words.contains("speaks AdmissionReview of admission.k8s.io/v1 only"),
            "{words}"
        );
        let (code, words) = send(post(vec![b' '; 4 * 1024 * 1024 + 1])).await;
        assert_eq!(code, 413);
        assert!(words.contains("4194304 bytes"), "{words}");

        // A big one that is a review is answered.
        let mut big = pod("web");
        big["metadata"]["annotations"] = serde_json::json!({"notes": "x".repeat(3 * 1024 * 1024)});
        let (mut caller, _) = Caller::connect(injector.webhook, &roots, http)
            .await
            .unwrap();
        let answer = caller.review(&review("shop", &big, false)).await.unwrap();
        assert_eq!(answer["patchType"], "JSONPatch");
    }
    assert_eq!(injector.count("failed", "malformed").await, 2);
    assert_eq!(injector.count("failed", "other_version").await, 2);
    assert_eq!(injector.count("failed", "too_large").await, 2);
    assert_eq!(injector.count("patched", "asked").await, 2);
    assert_eq!(
        injector
            .metric("weft_injector_request_duration_seconds_count")
            .await,
        8
    );
}

/// Whoever holds connections and says nothing does not keep others out for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_callers_are_in_nobodys_way() {
    let scene = Scene::new().await;
    let injector = scene.ready().await;
    namespace(&scene.server, "shop", Some("enabled")).await;
    let roots = scene.roots().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(injector.webhook).await.unwrap());
    }
    let since = Instant::now();
    until("over the limit", async || {
        let name = r#"weft_injector_refusals_total{what="connection_limit"}"#;
        injector.metric(name).await >= 44
    })
    .await;
    // After the time that a handshake may take there is room again.
    until("an answer", async || {
        let Ok((mut caller, _)) = Caller::connect(injector.webhook, &roots, Http::Two).await else {
            return false;
        };
        caller
            .review(&review("shop", &pod("web"), false))
            .await
            .is_ok()
    })
    .await;
    assert!(
        since.elapsed() < Duration::from_secs(20),
        "{:?}",
        since.elapsed()
    );
    let mut closed = 0;
    for stream in &mut silent {
        let mut some = [0; 64];
        let reading = tokio::time::timeout(PATIENCE, stream.read(&mut some));
        closed += u32::from(!matches!(reading.await, Ok(Ok(1..))));
    }
    assert_eq!(closed, 300);
}
