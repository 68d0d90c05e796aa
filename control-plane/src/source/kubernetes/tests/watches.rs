//! The watches: what they say, and what is left of it when they are lost.

use kube::Client;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::watch_cluster;
use super::server::{LONG, PODS, POLICIES, Running, SLICES, Server, scraped};
use super::{pod_json, policy_json, sent, settings, slice_json};
use crate::source::progress::Progress;

#[tokio::test(start_paused = true)]
async fn nothing_is_served_until_everything_was_listed() {
    let server = Server::with_web();
    // Of policies too: what they close must not be open.
    server.0.lock().forbidden = vec![POLICIES];
    let (progress, end) = (Progress::default(), CancellationToken::new());
    let client = Client::new(server.clone(), "default");
    let mut models = Box::pin(watch_cluster(
        client,
        settings(),
        progress.clone(),
        end.clone(),
    ));
    assert!(timeout(LONG, &mut models).await.is_err());

    let missing = progress.missing();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].starts_with("TrafficPolicy:"), "{missing:?}");
    assert!(
        missing[0].ends_with("its service account may not list and watch this kind"),
        "{missing:?}"
    );
    let scraped = scraped(&progress);
    let up = r#"weft_control_plane_source_up{kind="Pod"} 1"#;
    assert!(scraped.contains(up), "{scraped}");
    let down = r#"weft_control_plane_source_up{kind="TrafficPolicy"} 0"#;
    assert!(scraped.contains(down), "{scraped}");

    server.0.lock().forbidden.clear();
    let following = timeout(LONG, models).await.unwrap().unwrap();
    assert!(progress.missing().is_empty());
    assert_eq!(
        sent(&following.models.borrow(), "web"),
        ["10.0.0.1:8080 cart"]
    );
    end.cancel();
}

#[tokio::test(start_paused = true)]
async fn changes_are_followed() {
    let mut running = Running::start(Server::with_web()).await;
    assert_eq!(running.now(), ["10.0.0.1:8080 cart"]);

    // Withheld until its pod is known, and without a sidecar until then.
    let both = [("web-1", "10.0.0.1", true), ("web-2", "10.0.0.2", true)];
    running
        .server
        .put(SLICES, slice_json("web-a", "web", 8080, &both));
    assert_eq!(running.next().await, ["10.0.0.1:8080 cart"]);
    running.server.put(PODS, pod_json("web-2", "10.0.0.2"));
    assert_eq!(
        running.next().await,
        ["10.0.0.1:8080 cart", "10.0.0.2:8080 cart"]
    );

    running.server.bookmark(SLICES);
    running.server.delete(PODS, "web-1");
    assert_eq!(running.next().await, ["10.0.0.2:8080 cart"]);

    let plain = json!({"targetRefs": [{"kind": "Service", "name": "web"}],
                        "mtls": {"mode": "Disabled"}});
    running.server.put(POLICIES, policy_json("plain", &plain));
    assert_eq!(running.next().await, ["10.0.0.2:8080 -"]);
}

#[tokio::test(start_paused = true)]
async fn what_means_nothing_makes_no_model() {
    let running = Running::start(Server::with_web()).await;
    let before = running.revision();
    let mut pod = pod_json("web-1", "10.0.0.1");
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    running.server.put(PODS, pod);
    running.server.bookmark(PODS);
    sleep(LONG).await;
    assert_eq!(running.revision(), before);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_past_is_listed_again_and_replaced_at_once() {
    let mut running = Running::start(Server::with_web()).await;
    let lists = running.server.lists();
    running.server.put(PODS, pod_json("web-2", "10.0.0.2"));
    running.next().await;

    running.server.cut(true);
    let other = [("web-2", "10.0.0.2", true)];
    running
        .server
        .put(SLICES, slice_json("web-a", "web", 8080, &other));
    running.server.delete(PODS, "web-1");
    running.server.forget();
    running.server.cut(false);

    // Each kind is listed on its own; none of the models on the way is an empty one.
    loop {
        let endpoints = running.next().await;
        if endpoints == ["10.0.0.2:8080 cart"] {
            break;
        }
        assert!(endpoints.is_empty() || endpoints == ["10.0.0.1:8080 cart"]);
        assert!(running.models.borrow().service("shop", "web").is_some());
    }
    sleep(LONG).await;
    assert_eq!(running.now(), ["10.0.0.2:8080 cart"]);
    assert!(running.models.borrow().workload("shop", "web-1").is_none());
    assert_eq!(running.server.lists(), lists + 5);
}

#[tokio::test(start_paused = true)]
async fn a_lost_api_server_changes_nothing() {
    let mut running = Running::start(Server::with_web()).await;
    let (before, lists) = (running.revision(), running.server.lists());
    running.server.cut(true);
    sleep(LONG).await;
    assert_eq!(running.revision(), before);
    assert_eq!(running.now(), ["10.0.0.1:8080 cart"]);
    for watch in running.progress.watches() {
        assert!(watch.synced && watch.errors > 1, "{watch:?}");
        assert!(watch.trouble.is_some(), "{watch:?}");
    }

    running.server.put(PODS, pod_json("web-2", "10.0.0.2"));
    let other = [("web-2", "10.0.0.2", true)];
    running
        .server
        .put(SLICES, slice_json("web-a", "web", 8080, &other));
    running.server.cut(false);
    while running.next().await != ["10.0.0.2:8080 cart"] {}
    assert_eq!(
        running.server.lists(),
        lists,
        "watches went on where they were"
    );
    // Also of those kinds that have nothing new.
    sleep(LONG).await;
    for watch in running.progress.watches() {
        assert_eq!(watch.trouble, None, "{watch:?}");
    }
}
