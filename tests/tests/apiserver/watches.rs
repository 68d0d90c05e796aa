//! Watches: complete, or open about not being so.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::{WatchStreamExt as _, watcher};
use parking_lot::Mutex;
use serde_json::json;
use weft_tests::apiserver::Outage;

use super::{PATIENCE, config_map, server, until};

#[tokio::test]
async fn watches_tell_everything_or_that_they_cannot() {
    let (server, client) = server().await;
    server.bookmark_every(Duration::from_millis(50));
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    maps.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let listed = maps.list(&ListParams::default()).await.unwrap();
    let from = listed.metadata.resource_version.unwrap();
    for value in ["2", "3"] {
        let patch = Patch::Merge(json!({"data": {"a": value}}));
        maps.patch("a", &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
    maps.create(&PostParams::default(), &config_map("b", "1"))
        .await
        .unwrap();
    // What no longer fits is gone, to those who select.
    let gone = Patch::Merge(json!({"metadata": {"labels": {"app": "other"}}}));
    maps.patch("b", &PatchParams::default(), &gone)
        .await
        .unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();

    let wanted = WatchParams::default().labels("app in (a, b)");
    let mut told = maps.watch(&wanted, &from).await.unwrap().boxed();
    let mut seen = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, told.try_next())
            .await
            .unwrap()
            .unwrap();
        match event.unwrap() {
            WatchEvent::Added(map) => seen.push(format!("+{}", map.metadata.name.unwrap())),
            WatchEvent::Modified(map) => seen.push(format!("={}", map.data.unwrap()["a"])),
            WatchEvent::Deleted(map) => seen.push(format!("-{}", map.metadata.name.unwrap())),
            WatchEvent::Bookmark(mark) => {
                let now = maps.list(&ListParams::default()).await.unwrap();
                let newest = now.metadata.resource_version;
                assert_eq!(Some(mark.metadata.resource_version), newest);
                break;
            }
            WatchEvent::Error(status) => panic!("{status:?}"),
        }
    }
    assert_eq!(seen, ["=2", "=3", "+b", "-b", "-a"]);
    assert_eq!(server.open_watches("configmaps"), 1);
    drop(told);
    until("the watch is closed", || {
        server.open_watches("configmaps") == 0
    })
    .await;

    server.compact();
    let mut told = maps.watch(&wanted, &from).await.unwrap().boxed();
    match told.try_next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!((status.code, &*status.reason), (410, "Expired")),
        other => panic!("{other:?}"),
    }
    assert!(told.try_next().await.unwrap().is_none(), "the watch ends");
    server.stop().await;
}

/// A watch can begin with what there is, and say when all of it was told.
#[tokio::test]
async fn a_watch_can_begin_with_everything() {
    let (server, client) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    for name in ["a", "b"] {
        let map = config_map(name, "1");
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let config = watcher::Config::default().streaming_lists();
    let mut events = watcher(maps.clone(), config).boxed();
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "c") {
        let event = tokio::time::timeout(PATIENCE, events.try_next()).await;
        match event.unwrap().unwrap().unwrap() {
            watcher::Event::Init => told.push("begins".to_owned()),
            watcher::Event::InitDone => {
                told.push("done".to_owned());
                let map = config_map("c", "1");
                maps.create(&PostParams::default(), &map).await.unwrap();
            }
            watcher::Event::InitApply(map) | watcher::Event::Apply(map) => {
                told.push(map.metadata.name.unwrap());
            }
            watcher::Event::Delete(map) => panic!("{map:?}"),
        }
    }
    assert_eq!(told, ["begins", "a", "b", "done", "c"]);
    assert_eq!(server.count("list", "configmaps"), 0);
    server.stop().await;
}

/// A reflector's watcher sees every state in the end, whatever happens to its connection.
#[tokio::test]
async fn a_watcher_survives_outages() {
    let (server, client) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let values = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&values);
    let watching = tokio::spawn(async move {
        let events = watcher(maps, watcher::Config::default()).default_backoff();
        let mut events = events.applied_objects().boxed();
        while let Some(event) = events.next().await {
            if let Ok(map) = event {
                told.lock().push(map.data.unwrap_or_default()["a"].clone());
            }
        }
    });
    let put = async |value: &str| {
        let map = config_map("a", value);
        let mut map = serde_json::to_value(map).unwrap();
        map["apiVersion"] = "v1".into();
        map["kind"] = "ConfigMap".into();
        server.put(&map).await.unwrap();
    };
    let last = |value: &'static str| {
        let values = Arc::clone(&values);
        move || values.lock().last().is_some_and(|last| last == value)
    };
    put("1").await;
    until("1", last("1")).await;
    server.drop_watches();
    put("2").await;
    until("2", last("2")).await;
    server.set_outage(Outage::Away);
    until("the watch is closed", || {
        server.open_watches("configmaps") == 0
    })
    .await;
    put("3").await;
    server.compact();
    server.set_outage(Outage::None);
    until("3", last("3")).await;
    server.set_outage(Outage::Hang);
    put("4").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!last("4")(), "nothing is told");
    server.set_outage(Outage::None);
    until("4", last("4")).await;
    assert!(
        server.count("list", "configmaps") >= 2,
        "410 makes it list again"
    );
    watching.abort();
    server.stop().await;
}
