//! Mutating admission webhooks, called for what is created and changed.

use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};

use super::access::User;
use super::failure::Failure;
use super::kinds::Resource;
use super::merge::json_patch;
use super::selectors::{Selector, texts};
use super::store::Store;
use super::{Shared, tls};

/// What is to be admitted.
pub(super) struct Candidate<'a> {
    pub(super) operation: &'static str,
    pub(super) resource: &'a Resource,
    pub(super) version: &'a str,
    pub(super) namespace: &'a str,
    pub(super) user: &'a User,
    pub(super) old: Option<&'a Value>,
    pub(super) is_dry: bool,
}

/// Asks every webhook that is meant, in the order of configurations and in them: the object as they
/// change it, or the first refusal.
pub(super) async fn admit(
    shared: &Shared,
    candidate: &Candidate<'_>,
    object: &mut Value,
) -> Result<(), Failure> {
    if candidate.resource.group == "admissionregistration.k8s.io" {
        return Ok(());
    }
    let hooks = candidate.hooks(&shared.store.lock(), object);
    for hook in hooks {
        let name = hook["name"].as_str().unwrap_or_default();
        let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(10);
        let review = candidate.review(object);
        let asking = ask(shared, &hook, &review, seconds);
        let limit = Duration::from_secs(seconds);
        let answer = match tokio::time::timeout(limit, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow::anyhow!("context deadline exceeded")),
        };
        let answer = match answer {
            Ok(answer) if answer["response"]["uid"] == review["request"]["uid"] => answer,
            _ if hook["failurePolicy"] == "Ignore" => continue,
            Ok(answer) => return Err(failed(name, &format!("answer of another review: {answer}"))),
            Err(error) => return Err(failed(name, &format!("{error:#}"))),
        };
        let response = &answer["response"];
        if response["allowed"] != true {
            let why = &response["status"];
            let code = why["code"]
                .as_u64()
                .and_then(|code| u16::try_from(code).ok());
            let denied = match why["message"].as_str() {
                Some(message) => {
                    format!("admission webhook {name:?} denied the request: {message}")
                }
                None => {
                    format!("admission webhook {name:?} denied the request without explanation")
                }
            };
            return Err(Failure::new(
                code.filter(|code| *code >= 400).unwrap_or(403),
                denied,
            ));
        }
        if let Some(patch) = response["patch"].as_str() {
            let patch = STANDARD
                .decode(patch)
                .map_err(|error| failed(name, &error.to_string()))?;
            let patch = serde_json::from_slice(&patch);
            let patch: Value = patch.map_err(|error| failed(name, &error.to_string()))?;
            json_patch(object, &patch)?;
        }
    }
    Ok(())
}

impl Candidate<'_> {
    fn hooks(&self, store: &Store, object: &Value) -> Vec<Value> {
        let all = store.all(
            "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            "",
        );
        let hooks = all
            .iter()
            .filter_map(|configuration| configuration["webhooks"].as_array());
        let hooks = hooks
            .flatten()
            .filter(|hook| self.is_meant_by(store, hook, object));
        hooks.cloned().collect()
    }

    fn is_meant_by(&self, store: &Store, hook: &Value, object: &Value) -> bool {
        let covers = |list: &Value, value: &str| {
            texts(list)
                .iter()
                .any(|known| known == "*" || known == value)
        };
        let rules = hook["rules"].as_array().into_iter().flatten();
        let mut rules = rules.filter(|rule| {
            covers(&rule["operations"], self.operation)
                && covers(&rule["apiGroups"], &self.resource.group)
                && covers(&rule["apiVersions"], self.version)
                && covers(&rule["resources"], &self.resource.plural)
        });
        if rules.next().is_none() {
            return false;
        }
        let namespace = match self.resource.plural.as_str() {
            "namespaces" => Some(object.clone()),
            _ => store
                .object("namespaces", "", self.namespace)
                .map(|found| (*found).clone()),
        };
        let fits = Selector::of_object(&hook["namespaceSelector"]);
        namespace.is_none_or(|namespace| fits.selects(&namespace))
            && Selector::of_object(&hook["objectSelector"]).selects(object)
    }

    fn review(&self, object: &Value) -> Value {
        let Resource {
            group,
            plural,
            kind,
            ..
        } = self.resource;
        let version = self.version;
        let kind = json!({"group": group, "version": version, "kind": kind});
        let resource = json!({"group": group, "version": version, "resource": plural});
        json!({
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": format!("{:032x}", fastrand::u128(..)),
                "kind": kind, "requestKind": kind, "resource": resource, "requestResource": resource,
                "name": object["metadata"]["name"].as_str().unwrap_or_default(),
                "namespace": self.namespace,
                "operation": self.operation,
                "userInfo": {"username": self.user.name, "groups": self.user.groups},
                "object": object, "oldObject": self.old, "dryRun": self.is_dry,
                "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            },
        })
    }
}

fn failed(name: &str, why: &str) -> Failure {
    let message = format!("Internal error occurred: failed calling webhook {name:?}: {why}");
    Failure::new(500, message)
}

async fn ask(shared: &Shared, hook: &Value, review: &Value, seconds: u64) -> anyhow::Result<Value> {
    let client = &hook["clientConfig"];
    let service = &client["service"];
    let part = |name: &str| service[name].as_str().unwrap_or_default().to_owned();
    let (namespace, name, path) = (part("namespace"), part("name"), part("path"));
    let host = format!("{name}.{namespace}.svc");
    let known = shared
        .store
        .lock()
        .webhooks
        .get(&(namespace, name))
        .copied();
    let address = known.with_context(|| format!("no endpoints available for service {host:?}"))?;
    let bundle = STANDARD.decode(client["caBundle"].as_str().unwrap_or_default())?;
    let stream = (shared.network.dial)(address).await?;
    let connector = tls::connector(&bundle)?;
    let name = ServerName::try_from(host.clone())?;
    let stream = connector.connect(name, stream).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!(
        "/{}?timeout={seconds}s",
        path.trim_start_matches('/')
    ))
    .header("host", host)
    .header("content-type", "application/json")
    .body(Full::new(Bytes::from(review.to_string())))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    anyhow::ensure!(status.is_success(), "the webhook answers {status}");
    Ok(serde_json::from_slice(&body)?)
}
