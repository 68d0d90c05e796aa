//! Mutating admission webhooks, called for what is created.

use std::fmt::Display;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::failure::Failure;
use super::json::{covers, entries, text};
use super::merge::json_patch;
use super::selectors::Selector;
use super::store::Store;
use super::verbs::Call;
use super::{Shared, tls};

/// Asks every webhook that is meant, in the order of configurations and in them: the object as they
/// change it, or the first refusal.
pub(super) async fn admit(shared: &Shared, call: &Call, object: &mut Value) -> Result<(), Failure> {
    let hooks = hooks(&shared.store.lock(), call, object);
    for hook in hooks {
        let name = text(&hook["name"]);
        let failed = |why: &dyn Display| {
            Failure::new(500, format!("failed calling webhook {name:?}: {why}"))
        };
        let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(10);
        let asking = ask(shared, &hook, review(call, object), seconds);
        let answer = tokio::time::timeout(Duration::from_secs(seconds), asking).await;
        let response = match answer.unwrap_or_else(|late| Err(late.into())) {
            Ok(response) => response,
            Err(_) if hook["failurePolicy"] == "Ignore" => continue,
            Err(error) => return Err(failed(&format!("{error:#}"))),
        };
        if response["allowed"] != true {
            let why = &response["status"];
            let code = why["code"].as_u64().filter(|code| *code >= 400);
            let message = why["message"].as_str().unwrap_or("without explanation");
            let message = format!("admission webhook {name:?} denied the request: {message}");
            return Err(Failure::new(code.unwrap_or(403) as u16, message));
        }
        if let Some(patch) = response["patch"].as_str() {
            let read = |patch| anyhow::Ok(serde_json::from_slice(&STANDARD.decode(patch)?)?);
            let patch: Value = read(patch).map_err(|error| failed(&error))?;
            json_patch(object, &patch)?;
        }
    }
    Ok(())
}

/// The webhooks that are meant.
fn hooks(store: &Store, call: &Call, object: &Value) -> Vec<Value> {
    let id = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
    let namespace = store.object(("namespaces", "", &call.namespace));
    let namespace = namespace.as_deref();
    let is_meant = |hook: &&Value| {
        let mut rules = entries(&hook["rules"]);
        let has_rule = rules.any(|rule| {
            covers(&rule["operations"], "CREATE")
                && covers(&rule["apiGroups"], &call.resource.group)
                && covers(&rule["apiVersions"], &call.resource.version)
                && covers(&rule["resources"], &call.resource.plural)
        });
        let fits = |selector: &str, object| Selector::of_object(&hook[selector]).selects(object);
        has_rule
            && namespace.is_none_or(|namespace| fits("namespaceSelector", namespace))
            && fits("objectSelector", object)
    };
    let all = store.all(id, "");
    let hooks = all.iter().flat_map(|all| entries(&all["webhooks"]));
    hooks.filter(is_meant).cloned().collect()
}

fn review(call: &Call, object: &Value) -> Value {
    let (group, version) = (&call.resource.group, &call.resource.version);
    let kind = json!({"group": group, "version": version, "kind": call.resource.kind});
    let resource = json!({"group": group, "version": version, "resource": call.resource.plural});
    json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {
            "uid": format!("{:032x}", fastrand::u128(..)),
            "kind": kind, "requestKind": kind, "resource": resource, "requestResource": resource,
            "name": call.name, "namespace": call.namespace, "operation": "CREATE",
            "userInfo": {"username": call.user.name, "groups": call.user.groups},
            "object": object, "oldObject": null, "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

async fn ask(shared: &Shared, hook: &Value, review: Value, seconds: u64) -> anyhow::Result<Value> {
    let client = &hook["clientConfig"];
    let part = |name: &str| text(&client["service"][name]).to_owned();
    let (namespace, name, path) = (part("namespace"), part("name"), part("path"));
    let host = format!("{name}.{namespace}.svc");
    let key = (namespace, name);
    let known = shared.store.lock().webhooks.get(&key).copied();
    let address = known.with_context(|| format!("no endpoints available for service {host:?}"))?;
    let connector = tls::connector(&STANDARD.decode(text(&client["caBundle"]))?)?;
    let stream = tokio::net::TcpStream::connect(address).await?;
    let stream = TokioIo::new(connector.connect(host.clone().try_into()?, stream).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let path = format!("/{}?timeout={seconds}s", path.trim_start_matches('/'));
    let request = http::Request::post(path)
        .header("host", host)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(review.to_string())))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    anyhow::ensure!(status.is_success(), "the webhook answers {status}");
    let mut answer: Value = serde_json::from_slice(&body)?;
    let response = answer["response"].take();
    anyhow::ensure!(
        response["uid"] == review["request"]["uid"],
        "the answer is of another review"
    );
    Ok(response)
}
