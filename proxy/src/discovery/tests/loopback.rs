use std::time::Duration;

use super::*;
use crate::identity::testing::{Ca, FakeControlPlane, FakeStream, control_plane_id, spiffe};

const PATIENCE: Duration = Duration::from_secs(20);

async fn heard_subscriptions(stream: &mut FakeStream, count: usize) -> Vec<Key> {
    let mut keys = Vec::new();
    while keys.len() < count {
        if let Said::Subscribe(it) = stream.hear().await {
            keys.push(Key::from_wire(&it.key.unwrap()).unwrap());
        }
    }
    keys
}

/// The whole way over loopback: TLS with the workload's certificate, HTTP/2, gRPC, and back again
/// after the control plane was lost.
#[tokio::test]
async fn over_the_wire_and_again_after_a_loss() {
    let mut server = FakeControlPlane::start(Ca::new(), &control_plane_id()).await;
    let identity = server.certify.ca.identity(&spiffe("web"));
    let (discovery, task) = Discovery::new(introduction(), identity.clone(), server.reached());
    let watched = discovery.endpoints(&cart());
    let running = tokio::spawn(task.run());

    let (mut stream, hello) = server.stream().await;
    assert_eq!(stream.peer, spiffe("web"));
    assert!(hello.held.is_empty());
    let key = Key::Endpoints(cart());
    let keys = heard_subscriptions(&mut stream, 3).await;
    assert!(keys.contains(&key));
    assert!(!discovery.connected());
    stream.say(hello_reply()).await;
    stream.say(update(&key, 1, 1, full(&[1, 2]))).await;
    let bundle = [server.certify.ca.roots(), Ca::new().roots()].concat();
    let bundle = Resource::TrustBundle(wire::TrustBundle {
        roots: bundle.iter().map(|root| root.to_vec()).collect(),
    });
    stream.say(update(&Key::TrustBundle, 2, 1, bundle)).await;
    let ready = watched.ready(PATIENCE).await.unwrap();
    assert_eq!(ready.len(), 2);
    for expected in [1, 2] {
        match stream.hear().await {
            Said::Ack(ack) => assert_eq!(ack.version, Some(version(expected, 1))),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(identity.current().unwrap().roots().len(), 2);
    assert!(discovery.connected());

    // A key that a worker asks for now.
    let asking = discovery.clone();
    let other = std::thread::spawn(move || asking.outbound(address(9)));
    let target = other.join().unwrap();
    let outbound = Key::Outbound(address(9));
    let asked = heard_subscriptions(&mut stream, 1).await;
    assert_eq!(asked, std::slice::from_ref(&outbound));
    stream.say(update(&outbound, 3, 1, not_found())).await;
    let target = target.ready(PATIENCE).await.unwrap();
    assert_eq!(*target, OutboundTarget::NotFound);

    // The stream ends; what was known is served on, and the next stream says so.
    let away = tonic::Status::unavailable("rebalancing");
    stream.outgoing.send(Err(away)).await.unwrap();
    drop(stream);
    let (mut stream, hello) = server.stream().await;
    assert_eq!(hello.held.len(), 3);
    assert_eq!(addresses(&watched), [address(1), address(2)]);
    let error = discovery.state().last_error.unwrap();
    assert!(error.contains("rebalancing"), "{error}");
    assert_eq!(heard_subscriptions(&mut stream, 4).await.len(), 4);
    stream.say(hello_reply()).await;
    stream.say(update(&key, 4, 2, delta(&[3], &[1]))).await;
    watched.changed(Some(&ready)).await;
    assert_eq!(addresses(&watched), [address(2), address(3)]);
    running.abort();
}

#[tokio::test]
async fn another_control_plane_is_told_nothing() {
    let mut impostor = FakeControlPlane::start(Ca::new(), &spiffe("impostor")).await;
    let identity = impostor.certify.ca.identity(&spiffe("web"));
    let (discovery, task) = Discovery::new(introduction(), identity, impostor.reached());
    let running = tokio::spawn(task.run());
    let waiting = async {
        while discovery.state().last_error.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    let error = discovery.state().last_error.unwrap();
    assert!(error.contains("impostor"), "{error}");
    assert!(impostor.streams.try_recv().is_err());
    running.abort();
}
