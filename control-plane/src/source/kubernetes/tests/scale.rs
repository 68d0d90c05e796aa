//! What a model costs at the scale that the mesh is made for.

use std::time::{Duration, Instant};

use super::{cluster, pod_json, sent, service_json, settings, slice_json};
use crate::index::Model;

const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 10_000;
/// For an unoptimized build on a busy machine.
const BOUND: Duration = Duration::from_secs(5);

#[test]
fn a_model_of_ten_thousand_endpoints_is_made_quickly() {
    let ip = |pod: usize| format!("10.{}.{}.{}", pod >> 16, (pod >> 8) & 255, pod & 255);
    let services = (0..SERVICES).map(|service| {
        let ip = format!("10.96.{}.{}", service >> 8, service & 255);
        service_json(&format!("web-{service}"), &ip)
    });
    let pods = (0..ENDPOINTS).map(|pod| pod_json(&format!("pod-{pod}"), &ip(pod)));
    let each = ENDPOINTS / SERVICES;
    let slices = (0..SERVICES).map(|service| {
        let pods: Vec<_> = (service * each..(service + 1) * each)
            .map(|pod| (format!("pod-{pod}"), ip(pod)))
            .collect();
        let pods: Vec<_> = pods.iter().map(|(pod, ip)| (&**pod, &**ip, true)).collect();
        let (name, service) = (format!("s-{service}"), format!("web-{service}"));
        slice_json(&name, &service, 8080, &pods)
    });
    let cluster = cluster(services.chain(pods).chain(slices));

    let began = Instant::now();
    let objects = cluster.objects(&settings());
    let assembled = began.elapsed();
    let model = Model::build(objects, 1);
    let took = began.elapsed();
    println!(
        "a model of {SERVICES} services and {ENDPOINTS} endpoints: {took:?}, of which {assembled:?} \
         until its objects were there"
    );
    assert_eq!(model.workloads().count(), ENDPOINTS);
    assert_eq!(sent(&model, "web-999").len(), each);
    assert!(took < BOUND, "{took:?}");
}
