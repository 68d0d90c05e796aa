//! What is done to objects.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use serde_json::{Value, json};

use super::access::{self, User};
use super::failure::Failure;
use super::json::{fill, set, text};
use super::kinds::{Resource, Sort};
use super::merge::{self, Shape};
use super::selectors::Selector;
use super::store::{self, CRDS, Store};
use super::webhooks::admit;
use super::{Shared, watch};

/// How often a change is made again when another one came between.
const RETRIES: usize = 16;
/// The longest name.
const MAX_NAME: usize = 253;
/// What names are made of.
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789-.";
const APPLY: &str = "application/apply-patch+yaml";
/// What no request says about an object: the server alone does.
const DECIDED: &str = "uid creationTimestamp deletionTimestamp deletionGracePeriodSeconds generation \
                       resourceVersion managedFields selfLink";

/// What an answer holds that is no object.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request about objects.
pub(super) struct Call {
    /// As roles name it: `deletecollection`.
    pub(super) verb: &'static str,
    pub(super) resource: Arc<Resource>,
    /// Empty: none, or all.
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) sub: String,
    pub(super) query: HashMap<String, String>,
    pub(super) content_type: String,
    pub(super) body: Value,
    pub(super) user: User,
}

/// What is answered.
pub(super) enum Reply {
    Object(u16, Value),
    /// Something else, of this type.
    Body(&'static str, Body),
}

pub(super) async fn serve(shared: &Arc<Shared>, mut call: Call) -> Result<Reply, Failure> {
    let id = call.resource.id();
    let asks_token = match call.sub.as_str() {
        "" => false,
        "status" if call.resource.has_status && call.verb != "create" => false,
        "token" if id == "serviceaccounts" && call.verb == "create" => true,
        _ => return Err(Failure::no_such_path()),
    };
    if !call.option("dryRun").is_empty() || !call.body["dryRun"].is_null() {
        return Err(Failure::bad("this server does nothing for show"));
    }
    if call.resource.sort == Sort::Question {
        let (plural, store) = (&call.resource.plural, shared.store.lock());
        let answer = access::answer(&store, &call.user, plural, &call.body);
        return Ok(Reply::Object(201, answer));
    }
    match call.verb {
        "get" => {
            let found = call.found(&shared.store.lock())?;
            Ok(Reply::Object(200, (*found).clone()))
        }
        "list" => call
            .page(&shared.store.lock())
            .map(|page| Reply::Object(200, page)),
        "watch" => watch::start(shared, call).map(|body| Reply::Body("application/json", body)),
        "create" if asks_token => {
            let account = (call.namespace.as_str(), call.name.as_str());
            let answer = access::token_request(&mut shared.store.lock(), account, &call.body)?;
            Ok(Reply::Object(201, answer))
        }
        "create" => {
            call.settle_name()?;
            write(shared, &call).await
        }
        "update" | "patch" => write(shared, &call).await,
        _ => delete(shared, &call),
    }
}

impl Call {
    pub(super) fn option(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    fn found(&self, store: &Store) -> Result<Arc<Value>, Failure> {
        let id = self.resource.id();
        let found = store.object((&id, &self.namespace, &self.name));
        found.ok_or_else(|| Failure::not_found(&id, &self.name))
    }

    pub(super) fn selector(&self) -> Result<Selector, Failure> {
        Selector::of_query(self.option("labelSelector"), self.option("fieldSelector"))
    }

    fn selected(&self, store: &Store) -> Result<Vec<Arc<Value>>, Failure> {
        let selector = self.selector()?;
        let mut objects = store.all(&self.resource.id(), &self.namespace);
        objects.retain(|object| selector.selects(object));
        Ok(objects)
    }

    /// Where a limit asks for pages, a later one has objects as they are then and the first one's revision:
    /// who watches on from there hears of what has changed in between.
    fn page(&self, store: &Store) -> Result<Value, Failure> {
        let id = self.resource.id();
        let mut token = self.option("continue").splitn(3, '/');
        let revision = token.next().and_then(|text| text.parse().ok());
        let revision = revision.unwrap_or(store.revision);
        let mut next = || token.next().unwrap_or_default();
        let from = (id.as_str(), next(), next());
        let mut objects = self.selected(store)?;
        objects.retain(|object| store::place(&id, object) >= from);
        let limit = self.option("limit").parse().unwrap_or(0);
        let limit = if limit == 0 {
            objects.len()
        } else {
            limit.min(objects.len())
        };
        let rest = objects.split_off(limit);
        let mut list = self.list_of(&objects, revision);
        if let Some(first) = rest.first() {
            let (_, namespace, name) = store::place(&id, first);
            list["metadata"]["continue"] = format!("{revision}/{namespace}/{name}").into();
        }
        Ok(list)
    }

    fn list_of(&self, objects: &[Arc<Value>], revision: u64) -> Value {
        let objects: Vec<&Value> = objects.iter().map(|object| &**object).collect();
        json!({
            "kind": self.resource.names["listKind"], "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": revision.to_string()}, "items": objects,
        })
    }

    fn invalid(&self, path: &str, why: &str) -> Failure {
        let wrong = [(path.to_owned(), why.to_owned())];
        Failure::invalid(&self.resource, &self.name, &wrong)
    }

    /// Finds out what a new object is to be called, and whether it may be.
    fn settle_name(&mut self) -> Result<(), Failure> {
        let metadata = &self.body["metadata"];
        let prefix = text(&metadata["generateName"]);
        self.name = text(&metadata["name"]).to_owned();
        if self.name.is_empty() && !prefix.is_empty() {
            let suffix = (0..5).map(|_| fastrand::lowercase());
            self.name = prefix.chars().chain(suffix).collect();
        }
        // Roles have names of their own kind.
        let is_role = self.resource.group == "rbac.authorization.k8s.io";
        let is_good = |letter| LETTERS.contains(letter) || is_role;
        if !(1..=MAX_NAME).contains(&self.name.len()) || !self.name.chars().all(is_good) {
            return Err(self.invalid(
                "metadata.name",
                "a lowercase RFC 1123 subdomain is required",
            ));
        }
        Ok(())
    }

    /// Whether an object is of this kind and goes where the request says. What it leaves out is filled in,
    /// and what this request cannot change stays as it was, which is null for a new object. A version or a
    /// uid that it names must be the present one.
    fn settle(&self, old: &Value, new: &mut Value) -> Result<(), Failure> {
        let mut wanted = json!({
            "apiVersion": self.resource.api_version(), "kind": self.resource.kind,
            "metadata": {"name": self.name},
        });
        if self.resource.namespaced {
            wanted["metadata"]["namespace"] = self.namespace.as_str().into();
        }
        fill(new, &wanted);
        for path in "/apiVersion /kind /metadata/name /metadata/namespace".split(' ') {
            let (given, wanted) = (new.pointer(path), wanted.pointer(path));
            if given != wanted {
                let message = format!("{path} is {given:?}, and {wanted:?} in the request");
                return Err(Failure::bad(message));
            }
        }
        for part in ["resourceVersion", "uid"] {
            let named = text(&new["metadata"][part]);
            if !named.is_empty() && old["metadata"][part] != named {
                let why = "the object has been modified; please apply your changes to the latest \
                           version and try again";
                return Err(Failure::conflict(&self.resource.id(), &self.name, why));
            }
        }
        if self.sub == "status" {
            let status = new["status"].take();
            *new = old.clone();
            set(new, "status", &status);
        } else if self.resource.has_status {
            set(new, "status", &old["status"]);
        }
        for decided in DECIDED.split(' ') {
            set(&mut new["metadata"], decided, &old["metadata"][decided]);
        }
        if self.resource.id() == "services" {
            for kept in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                fill(&mut new["spec"], &json!({kept: old["spec"][kept]}));
            }
        }
        Ok(())
    }

    /// Asks the schema, where there is one. Fields that it does not know are taken out, or refused where the
    /// request is strict.
    fn conform(&self, object: &mut Value, old: Option<&Value>) -> Result<(), Failure> {
        if self.resource.id() == CRDS {
            Resource::custom(object).map_err(|why| self.invalid("spec", &why))?;
        }
        let Some(definition) = &self.resource.definition else {
            return Ok(());
        };
        let evaluation = definition.evaluate(object, old);
        let unknown = evaluation.unknown.iter();
        let unknown = unknown.map(|unknown| format!("unknown field {:?}", unknown.path));
        let unknown: Vec<_> = unknown.collect();
        if self.option("fieldValidation") == "Strict" && !unknown.is_empty() {
            let message = format!("strict decoding error: {}", unknown.join(", "));
            return Err(Failure::bad(message));
        }
        let wrong = evaluation.wrong.into_iter();
        let wrong: Vec<_> = wrong.map(|wrong| (wrong.path, wrong.reason)).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::invalid(&self.resource, &self.name, &wrong))
    }

    /// What this request makes of what there is.
    fn made(&self, old: Option<&Value>) -> Result<Value, Failure> {
        let (id, body) = (self.resource.id(), &self.body);
        let is_custom = self.resource.sort == Sort::Custom;
        let content_type = self.content_type.as_str();
        let mut new = match (self.verb, old) {
            ("create", None) => return Ok(body.clone()),
            ("create", Some(_)) => return Err(Failure::exists(&id, &self.name)),
            ("patch", None) if content_type == APPLY && self.sub.is_empty() => json!({}),
            (_, None) => return Err(Failure::not_found(&id, &self.name)),
            ("update", Some(_)) => {
                let is_unconditional = text(&body["metadata"]["resourceVersion"]).is_empty();
                if is_unconditional && (is_custom || id.starts_with("leases.")) {
                    let why = "0x0: must be specified for an update";
                    return Err(self.invalid("metadata.resourceVersion", why));
                }
                return Ok(body.clone());
            }
            (_, Some(old)) => old.clone(),
        };
        // Perhaps it was written in another version.
        new["apiVersion"] = self.resource.api_version().into();
        let named = body["apiVersion"].is_string() && body["kind"].is_string();
        match content_type {
            "application/json-patch+json" => merge::json_patch(&mut new, body)?,
            "application/merge-patch+json" => json_patch::merge(&mut new, body),
            "application/strategic-merge-patch+json" if !is_custom => {
                merge::merge(Shape::new(&Value::Null), &mut new, body);
            }
            APPLY if self.option("fieldManager").is_empty() || !named => {
                let message = "apiVersion, kind and the fieldManager are required for an apply";
                return Err(Failure::bad(message));
            }
            APPLY => merge::merge(Shape::new(&self.resource.schema), &mut new, body),
            other => return Err(Failure::new(415, format!("no known patch: {other}"))),
        }
        Ok(new)
    }
}

/// Makes an object, or a change on top of what there is. Made again when another change came between.
async fn write(shared: &Arc<Shared>, call: &Call) -> Result<Reply, Failure> {
    let id = call.resource.id();
    let place = (id.as_str(), call.namespace.as_str(), call.name.as_str());
    for _ in 0..RETRIES {
        let old = shared.store.lock().object(place);
        let mut object = call.made(old.as_deref())?;
        call.settle(old.as_deref().unwrap_or(&Value::Null), &mut object)?;
        shared.store.lock().complete(&id, &mut object);
        call.conform(&mut object, old.as_deref())?;
        if let Some(old) = &old {
            if call.resource.has_generation() && differ_in_substance(old, &object) {
                let generation = old["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
                object["metadata"]["generation"] = generation.into();
            }
        } else {
            let home = ("namespaces", "", call.namespace.as_str());
            if call.resource.namespaced && shared.store.lock().object(home).is_none() {
                return Err(Failure::not_found("namespaces", &call.namespace));
            }
            store::stamp(&mut object, call.resource.has_generation());
            admit(shared, call, &mut object).await?;
            call.conform(&mut object, None)?;
        }
        if old.as_deref() != Some(&object) {
            let mut store = shared.store.lock();
            let now = store.object(place);
            if now.as_ref().map(Arc::as_ptr) != old.as_ref().map(Arc::as_ptr) {
                continue;
            }
            object = (*store.put(&id, object)).clone();
            let metadata = &object["metadata"];
            if !metadata["deletionTimestamp"].is_null() {
                // Perhaps this was what its end waited for.
                store.delete(place, metadata["deletionGracePeriodSeconds"].as_u64());
            }
            drop(store);
            shared.notify();
        }
        return Ok(Reply::Object(if old.is_some() { 200 } else { 201 }, object));
    }
    let why = "the object is modified all the time";
    Err(Failure::conflict(&id, &call.name, why))
}

/// Whether more than metadata and status differ.
fn differ_in_substance(old: &Value, new: &Value) -> bool {
    let mut new = new.clone();
    set(&mut new, "metadata", &old["metadata"]);
    set(&mut new, "status", &old["status"]);
    new != *old
}

/// Deletes one object, or all that are selected.
fn delete(shared: &Arc<Shared>, call: &Call) -> Result<Reply, Failure> {
    let id = call.resource.id();
    let is_one = !call.name.is_empty();
    let mut store = shared.store.lock();
    let mut doomed = if is_one {
        vec![call.found(&store)?]
    } else {
        call.selected(&store)?
    };
    for part in ["uid", "resourceVersion"] {
        let wanted = &call.body["preconditions"][part];
        let differs = |object: &Arc<Value>| object["metadata"][part] != *wanted;
        if !wanted.is_null() && doomed.iter().any(differs) {
            let why = format!("Precondition failed: {part} is not {wanted}");
            return Err(Failure::conflict(&id, &call.name, &why));
        }
    }
    let grace = call.body["gracePeriodSeconds"].as_u64();
    let grace = grace.or_else(|| call.option("gracePeriodSeconds").parse().ok());
    let mut is_left = false;
    for object in &mut doomed {
        if let Some(left) = store.delete(store::place(&id, object), grace) {
            if let Some(after) = store.kubelet.filter(|_| id == "pods") {
                shared.end_pod_after(after, &left);
            }
            *object = left;
            is_left = true;
        }
    }
    let answer = match &doomed[..] {
        [one] if is_one && is_left => (**one).clone(),
        _ if is_one => json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        }),
        all => call.list_of(all, store.revision),
    };
    drop(store);
    shared.notify();
    Ok(Reply::Object(200, answer))
}

impl Shared {
    /// Does what a pod that is being deleted waits for from its kubelet.
    fn end_pod_after(self: &Arc<Self>, after: Duration, pod: &Arc<Value>) {
        let (shared, pod) = (Arc::clone(self), Arc::clone(pod));
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let place = store::place("pods", &pod);
            let mut store = shared.store.lock();
            let now = store.object(place);
            if now.is_some_and(|now| now["metadata"]["uid"] == pod["metadata"]["uid"]) {
                store.delete(place, Some(0));
            }
            drop(store);
            shared.notify();
        });
    }
}
