//! A stand-in for those controllers of a cluster that Weft relies on: Deployments with rolling updates
//! (`maxSurge` 1, `maxUnavailable` 0), Jobs with one pod, and EndpointSlices of Services with selectors.
//! They look at everything again and again, and do one step where one is due.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use weft_tests::apiserver::ApiServer;

/// Pause between two looks.
const PERIOD: Duration = Duration::from_millis(50);
/// Label on pods of a deployment with the version of their template.
const HASH: &str = "pod-template-hash";

/// Looks at everything until it is dropped.
pub(crate) async fn run(server: Arc<ApiServer>) {
    let mut slices = BTreeMap::new();
    loop {
        let pods = list(&server, "/api/v1/pods").await;
        for deployment in list(&server, "/apis/apps/v1/deployments").await {
            deploy(&server, &deployment, &pods).await;
        }
        for job in list(&server, "/apis/batch/v1/jobs").await {
            work(&server, &job, &pods).await;
        }
        for service in list(&server, "/api/v1/services").await {
            lead(&server, &service, &pods, &mut slices).await;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Whether a pod takes traffic.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
}

/// Whether a pod is told to end.
pub(crate) fn is_ending(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

async fn list(server: &ApiServer, path: &str) -> Vec<Value> {
    let (_, mut list) = server.ask(Method::GET, path, None).await;
    list["items"]
        .as_array_mut()
        .map(std::mem::take)
        .unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn has_ended(pod: &Value) -> bool {
    ["Succeeded", "Failed"].contains(&text(&pod["status"]["phase"]))
}

fn owned<'a>(pods: &'a [Value], owner: &Value) -> Vec<&'a Value> {
    let uid = &owner["metadata"]["uid"];
    let owned = pods.iter().filter(|pod| {
        let mut owners = pod["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten();
        owners.any(|owner| owner["uid"] == *uid)
    });
    owned.collect()
}

/// One step towards what a deployment wants.
async fn deploy(server: &ApiServer, deployment: &Value, pods: &[Value]) {
    let template = &deployment["spec"]["template"];
    let hash = hash(template);
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
    let mut alive = owned(pods, deployment);
    alive.retain(|pod| !is_ending(pod) && !has_ended(pod));
    let is_new = |pod: &&&Value| pod["metadata"]["labels"][HASH] == hash;
    let updated = alive.iter().filter(is_new).count();
    let ready = alive.iter().filter(|pod| is_ready(pod)).count();
    let is_surge = updated < alive.len() || updated > wanted;
    let mut failure = Value::Null;
    if updated < wanted && alive.len() < wanted + usize::from(is_surge || updated < wanted) {
        let name = text(&deployment["metadata"]["name"]);
        let set = format!("{name}-{hash}");
        let name = format!("{set}-{}", suffix());
        let mut pod = pod_of(template, deployment, &name, ("ReplicaSet", &set));
        pod["metadata"]["labels"][HASH] = hash.as_str().into();
        failure = create(server, &pod).await;
    } else if is_surge {
        // Those that do not serve are no loss; of the others as many stay as are wanted.
        let mut surplus = alive.iter().filter(|pod| !is_new(pod) || updated > wanted);
        let useless = surplus.clone().find(|pod| !is_ready(pod));
        let spare = surplus.next().filter(|_| ready > wanted);
        if let Some(pod) = useless.or(spare) {
            delete(server, pod).await;
        }
    }
    let is_complete = updated == wanted && alive.len() == wanted && ready == wanted;
    let status = json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": alive.len(), "updatedReplicas": updated,
        "readyReplicas": ready, "availableReplicas": ready,
        "conditions": [
            {"type": "Available", "status": if ready >= wanted { "True" } else { "False" }},
            {"type": "Complete", "status": if is_complete { "True" } else { "False" }},
            {"type": "ReplicaFailure", "status": if failure.is_null() { "False" } else { "True" },
             "message": failure},
        ],
    });
    write_status(server, "apps/v1", "deployments", deployment, status).await;
}

/// One step towards a job's completion.
async fn work(server: &ApiServer, job: &Value, pods: &[Value]) {
    let own = owned(pods, job);
    let has = |phase: &str| own.iter().any(|pod| pod["status"]["phase"] == phase);
    if own.is_empty() {
        let name = text(&job["metadata"]["name"]).to_owned();
        let named = format!("{name}-{}", suffix());
        let pod = pod_of(&job["spec"]["template"], job, &named, ("Job", &name));
        create(server, &pod).await;
    }
    let conditions = if has("Succeeded") {
        json!([{"type": "Complete", "status": "True"}])
    } else if has("Failed") {
        json!([{"type": "Failed", "status": "True"}])
    } else {
        json!([])
    };
    let status = json!({"succeeded": i32::from(has("Succeeded")), "conditions": conditions});
    write_status(server, "batch/v1", "jobs", job, status).await;
}

/// Keeps a service's slice.
async fn lead(
    server: &ApiServer,
    service: &Value,
    pods: &[Value],
    known: &mut BTreeMap<String, Value>,
) {
    let Some(selector) = service["spec"]["selector"].as_object() else {
        return;
    };
    let (namespace, name) = (
        &service["metadata"]["namespace"],
        &service["metadata"]["name"],
    );
    let behind = pods.iter().filter(|pod| {
        let labels = &pod["metadata"]["labels"];
        pod["metadata"]["namespace"] == *namespace
            && selector
                .iter()
                .all(|(label, value)| labels[label] == *value)
            && pod["status"]["podIP"].is_string()
            && !has_ended(pod)
    });
    let behind: Vec<_> = behind.collect();
    let early = service["spec"]["publishNotReadyAddresses"] == true;
    let endpoints = behind.iter().map(|pod| {
        let (serves, ends) = (is_ready(pod), is_ending(pod));
        json!({
            "addresses": [pod["status"]["podIP"]],
            "conditions": {
                "ready": early || serves && !ends, "serving": early || serves, "terminating": ends,
            },
            "targetRef": {
                "kind": "Pod", "namespace": namespace,
                "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"],
            },
        })
    });
    let endpoints: Vec<_> = endpoints.collect();
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let ports = ports.map(|port| {
        let number = match port["targetPort"].as_str() {
            None => port["targetPort"].clone(),
            Some(name) => behind
                .first()
                .map_or(Value::Null, |pod| named_port(pod, name)),
        };
        json!({
            "name": text(&port["name"]), "port": number, "protocol": port["protocol"],
            "appProtocol": port["appProtocol"],
        })
    });
    let ports: Vec<_> = ports.filter(|port| !port["port"].is_null()).collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace, "name": format!("{}-v4", text(name)),
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    });
    let key = format!("{}/{}", text(namespace), text(name));
    if known.get(&key) != Some(&slice) && server.put(&slice).await.is_ok() {
        known.insert(key, slice);
    }
}

fn named_port(pod: &Value, name: &str) -> Value {
    let containers = ["containers", "initContainers"].map(|part| pod["spec"][part].as_array());
    let mut ports = containers
        .into_iter()
        .flatten()
        .flatten()
        .flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let found = ports.find(|port| port["name"] == name);
    found.map_or(Value::Null, |port| port["containerPort"].clone())
}

/// A pod of a template; `owner`: kind and name of what it says made it.
fn pod_of(template: &Value, parent: &Value, name: &str, owner: (&str, &str)) -> Value {
    let mut metadata = template["metadata"].clone();
    metadata["namespace"] = parent["metadata"]["namespace"].clone();
    metadata["name"] = name.into();
    metadata["ownerReferences"] = json!([{
        "apiVersion": parent["apiVersion"], "kind": owner.0, "name": owner.1,
        "uid": parent["metadata"]["uid"], "controller": true,
    }]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// Why it could not be made, or nothing.
async fn create(server: &ApiServer, pod: &Value) -> Value {
    let namespace = text(&pod["metadata"]["namespace"]);
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let (code, answer) = server.ask(Method::POST, &path, Some(pod)).await;
    match code {
        201 => Value::Null,
        _ => answer["message"].clone(),
    }
}

async fn delete(server: &ApiServer, pod: &Value) {
    let (namespace, name) = (
        text(&pod["metadata"]["namespace"]),
        text(&pod["metadata"]["name"]),
    );
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    server.ask(Method::DELETE, &path, None).await;
}

async fn write_status(server: &ApiServer, api: &str, plural: &str, object: &Value, status: Value) {
    let known = &object["status"];
    // What could not be made lately is news for longer than one look.
    if *known == status {
        return;
    }
    let (namespace, name) = (
        text(&object["metadata"]["namespace"]),
        text(&object["metadata"]["name"]),
    );
    let path = format!("/apis/{api}/namespaces/{namespace}/{plural}/{name}/status");
    server
        .ask(Method::PATCH, &path, Some(&json!({"status": status})))
        .await;
}

fn hash(template: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    format!("{:08x}", hasher.finish() as u32)
}

fn suffix() -> String {
    (0..5).map(|_| fastrand::lowercase()).collect()
}
