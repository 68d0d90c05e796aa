//! What is done to objects.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Shared;
use super::access::{self, User};
use super::failure::Failure;
use super::kinds::{Kinds, Resource, Sort};
use super::merge::{self, Shape};
use super::selectors::Selector;
use super::store::{self, CRDS, Store};
use super::watch::Wanted;
use super::webhooks::{Candidate, admit};

/// How often a change is made again when another one came between.
const RETRIES: usize = 16;
/// The longest name.
const MAX_NAME: usize = 253;
/// How long a watch lasts whose client does not say.
const WATCH_LIFETIME: Duration = Duration::from_secs(1800);

/// A request about objects.
pub(super) struct Call {
    /// As roles name it: `deletecollection`.
    pub(super) verb: &'static str,
    pub(super) resource: Arc<Resource>,
    pub(super) version: String,
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
    Object {
        code: u16,
        object: Value,
        warnings: Vec<String>,
    },
    Watch(Wanted),
}

pub(super) async fn serve(shared: &Arc<Shared>, mut call: Call) -> Result<Reply, Failure> {
    let id = call.resource.id();
    let (is_status, is_token) = (call.sub == "status", call.sub == "token");
    let version = call.resource.version(&call.version);
    let has_status = version.is_some_and(|version| version.status);
    if !(call.sub.is_empty()
        || is_status && has_status && call.verb != "create"
        || is_token && id == "serviceaccounts" && call.verb == "create")
    {
        return Err(Failure::no_such_path());
    }
    if call.resource.sort == Sort::Question {
        if call.verb != "create" {
            return Err(Failure::no_such_method());
        }
        let answer = access::answer(
            &shared.store.lock(),
            &call.user,
            &call.resource.plural,
            call.body,
        );
        return Ok(reply(201, answer));
    }
    match call.verb {
        "get" => {
            let found = shared.store.lock().object(&id, &call.namespace, &call.name);
            let found = found.ok_or_else(|| Failure::not_found(&id, &call.name))?;
            Ok(reply(200, call.presented(&found)))
        }
        "list" => list(&shared.store.lock(), &call),
        "watch" => watch(&call),
        "create" if is_token => {
            let request = std::mem::take(&mut call.body);
            let mut store = shared.store.lock();
            let answer = access::token_request(&mut store, &call.namespace, &call.name, request)?;
            Ok(reply(201, answer))
        }
        "create" => {
            let object = std::mem::take(&mut call.body);
            create(shared, &call, object).await
        }
        "update" => {
            let body = std::mem::take(&mut call.body);
            let unconditional = body["metadata"]["resourceVersion"]
                .as_str()
                .unwrap_or("")
                .is_empty();
            if unconditional
                && (call.resource.sort == Sort::Custom || call.resource.plural == "leases")
            {
                let wrong = (
                    "metadata.resourceVersion".to_owned(),
                    "0x0: must be specified for an update".to_owned(),
                );
                return Err(call.invalid(&[wrong]));
            }
            change(shared, &call, |_| Ok(body.clone())).await
        }
        "patch" => patch(shared, &call).await,
        "delete" => delete(shared, &call),
        "deletecollection" => delete_all(shared, &call),
        _ => Err(Failure::no_such_method()),
    }
}

fn reply(code: u16, object: Value) -> Reply {
    Reply::Object {
        code,
        object,
        warnings: Vec::new(),
    }
}

impl Call {
    fn option(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// The name that roles are asked for: of a list, the one that its field selector says, as
    /// Kubernetes has it.
    pub(super) fn asked_name(&self) -> &str {
        let selected = self.option("fieldSelector").split(',');
        let mut selected = selected.filter_map(|part| part.strip_prefix("metadata.name="));
        match self.verb {
            "list" | "watch" => selected
                .next()
                .map_or("", |name| name.trim_start_matches('=')),
            _ => &self.name,
        }
    }

    fn is_dry(&self) -> bool {
        self.option("dryRun") == "All" || self.body["dryRun"][0] == "All"
    }

    fn selector(&self) -> Result<Selector, Failure> {
        Selector::of_query(self.option("labelSelector"), self.option("fieldSelector"))
    }

    fn presented(&self, object: &Value) -> Value {
        let mut object = object.clone();
        object["apiVersion"] = self.resource.api_version(&self.version).into();
        object
    }

    fn invalid(&self, wrong: &[(String, String)]) -> Failure {
        let Resource { kind, group, .. } = &*self.resource;
        Failure::invalid(kind, group, &self.name, wrong)
    }

    fn candidate<'a>(&'a self, operation: &'static str, old: Option<&'a Value>) -> Candidate<'a> {
        Candidate {
            operation,
            resource: &self.resource,
            version: &self.version,
            namespace: &self.namespace,
            user: &self.user,
            old,
            is_dry: self.is_dry(),
        }
    }

    /// Whether an object is of this kind and goes where the request says; what it leaves out is filled in.
    fn check_envelope(&self, object: &mut Value) -> Result<(), Failure> {
        if !object.is_object() || !object["metadata"].is_object() {
            return Err(Failure::bad(
                "the body of the request is no object with metadata",
            ));
        }
        let api_version = self.resource.api_version(&self.version);
        for (name, wanted) in [("apiVersion", &api_version), ("kind", &self.resource.kind)] {
            match object[name].as_str() {
                None => object[name] = wanted.as_str().into(),
                Some(given) if given == wanted => {}
                Some(given) => {
                    let message = format!(
                        "{name} in the data ({given}) does not match the expected one ({wanted})"
                    );
                    return Err(Failure::bad(message));
                }
            }
        }
        let metadata = &mut object["metadata"];
        if self.resource.namespaced {
            let given = metadata["namespace"].as_str().unwrap_or(&self.namespace);
            if given != self.namespace {
                let message = "the namespace of the provided object does not match the namespace sent on the request";
                return Err(Failure::bad(message));
            }
            metadata["namespace"] = self.namespace.as_str().into();
        }
        if !self.name.is_empty()
            && metadata["name"]
                .as_str()
                .is_some_and(|name| name != self.name)
        {
            let message = "the name of the object does not match the name on the URL";
            return Err(Failure::bad(message));
        }
        Ok(())
    }

    /// Asks the schema, where there is one: warnings, or why the object is refused.
    fn conform(&self, object: &mut Value, old: Option<&Value>) -> Result<Vec<String>, Failure> {
        if self.resource.id() == CRDS {
            Kinds::read_definition(object)?;
        }
        let version = self.resource.version(&self.version);
        let Some(definition) = version.and_then(|version| version.definition.as_ref()) else {
            return Ok(Vec::new());
        };
        let evaluation = definition.evaluate(object, old);
        let unknown = evaluation.unknown.iter();
        let unknown: Vec<String> = unknown
            .map(|violation| format!("unknown field {:?}", violation.path))
            .collect();
        let validation = self.option("fieldValidation");
        if validation == "Strict" && !unknown.is_empty() {
            let Resource { kind, .. } = &*self.resource;
            let message = format!(
                "{kind} in version {:?} cannot be handled as a {kind}: strict decoding error: {}",
                self.version,
                unknown.join(", ")
            );
            return Err(Failure::bad(message));
        }
        let wrong = evaluation.wrong.into_iter();
        let wrong: Vec<_> = wrong
            .map(|violation| (violation.path, violation.reason))
            .collect();
        if !wrong.is_empty() {
            let Resource { kind, group, .. } = &*self.resource;
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Failure::invalid(kind, group, name, &wrong));
        }
        Ok(if validation == "Ignore" {
            Vec::new()
        } else {
            unknown
        })
    }
}

async fn create(shared: &Shared, call: &Call, mut object: Value) -> Result<Reply, Failure> {
    let resource = &call.resource;
    let id = resource.id();
    call.check_envelope(&mut object)?;
    let metadata = &mut object["metadata"];
    if let Some(prefix) = metadata["generateName"].as_str()
        && metadata["name"].as_str().unwrap_or_default().is_empty()
    {
        let suffix: String = (0..5).map(|_| fastrand::lowercase()).collect();
        metadata["name"] = format!("{prefix}{suffix}").into();
    }
    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
    if let Err(why) = check_name(&name, &resource.group) {
        return Err(call.invalid(&[("metadata.name".to_owned(), why)]));
    }
    if metadata["resourceVersion"]
        .as_str()
        .is_some_and(|version| !version.is_empty())
    {
        return Err(Failure::bad(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    for decided in ["managedFields", "deletionTimestamp", "selfLink"] {
        metadata
            .as_object_mut()
            .map(|metadata| metadata.remove(decided));
    }
    let has_status = resource
        .version(&call.version)
        .is_some_and(|version| version.status);
    if has_status && let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    {
        let mut store = shared.store.lock();
        if resource.namespaced && store.object("namespaces", "", &call.namespace).is_none() {
            return Err(Failure::not_found("namespaces", &call.namespace));
        }
        if store.object(&id, &call.namespace, &name).is_some() {
            return Err(Failure::exists(&id, &name));
        }
        store.complete(&id, &mut object);
    }
    let mut warnings = call.conform(&mut object, None)?;
    admit(shared, &call.candidate("CREATE", None), &mut object).await?;
    warnings.extend(call.conform(&mut object, None)?);
    store::stamp(&mut object, resource.has_generation());
    if !call.is_dry() {
        let mut store = shared.store.lock();
        if store.object(&id, &call.namespace, &name).is_some() {
            return Err(Failure::exists(&id, &name));
        }
        object = (*store.put((&id, &call.namespace, &name), object)).clone();
        drop(store);
        shared.notify();
    }
    Ok(Reply::Object {
        code: 201,
        object: call.presented(&object),
        warnings,
    })
}

fn check_name(name: &str, group: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("Required value: name or generateName is required".to_owned());
    }
    // Roles have names of their own kind.
    let is_role = group == "rbac.authorization.k8s.io";
    let is_good = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-.".contains(letter) || is_role
    };
    let ends = name.starts_with(['-', '.']) || name.ends_with(['-', '.']);
    if name.len() > MAX_NAME || ends || !name.chars().all(is_good) {
        return Err(format!(
            "{name:?}: a lowercase RFC 1123 subdomain must consist of lower case \
             alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
        ));
    }
    Ok(())
}

/// Makes a change on top of what there is.
async fn change(
    shared: &Arc<Shared>,
    call: &Call,
    make: impl Fn(&Value) -> Result<Value, Failure>,
) -> Result<Reply, Failure> {
    let (resource, id) = (&call.resource, call.resource.id());
    let place = (id.as_str(), call.namespace.as_str(), call.name.as_str());
    for _ in 0..RETRIES {
        let old = shared.store.lock().object(place.0, place.1, place.2);
        let old = old.ok_or_else(|| Failure::not_found(&id, &call.name))?;
        let mut new = make(&call.presented(&old))?;
        call.check_envelope(&mut new)?;
        let against = new["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        let is_conditional = !against.is_empty() && call.verb == "update";
        if !against.is_empty() && old["metadata"]["resourceVersion"] != against {
            return Err(Failure::outdated(&id, &call.name));
        }
        let uid = &new["metadata"]["uid"];
        if uid.as_str().is_some_and(|uid| !uid.is_empty()) && *uid != old["metadata"]["uid"] {
            let why = "Precondition failed: UID in precondition differs from UID in object meta";
            return Err(Failure::conflict(&id, &call.name, why));
        }
        if call.sub == "status" {
            let status = new["status"].take();
            new = call.presented(&old);
            restore(&mut new, "status", &status);
        } else if resource
            .version(&call.version)
            .is_some_and(|version| version.status)
        {
            restore(&mut new, "status", &old["status"]);
        }
        for decided in [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "resourceVersion",
            "managedFields",
            "selfLink",
        ] {
            restore(&mut new["metadata"], decided, &old["metadata"][decided]);
        }
        if id == "services" {
            for kept in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if new["spec"][kept].is_null() {
                    restore(&mut new["spec"], kept, &old["spec"][kept]);
                }
            }
        }
        let warnings = call.conform(&mut new, Some(&old))?;
        if call.sub.is_empty() {
            admit(shared, &call.candidate("UPDATE", Some(&old)), &mut new).await?;
        }
        // Which version it is written in is no change.
        new["apiVersion"] = old["apiVersion"].clone();
        if new != *old && !call.is_dry() {
            if resource.has_generation() && call.sub.is_empty() && differ_in_substance(&old, &new) {
                let generation = old["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
                new["metadata"]["generation"] = generation.into();
            }
            let mut store = shared.store.lock();
            let current = store.object(place.0, place.1, place.2);
            if current.is_none_or(|now| {
                now["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]
            }) {
                if is_conditional {
                    return Err(Failure::outdated(&id, &call.name));
                }
                continue;
            }
            new = (*store.put(place, new)).clone();
            if store::is_done(&new) {
                store.take(place);
            }
            drop(store);
            shared.notify();
        }
        return Ok(Reply::Object {
            code: 200,
            object: call.presented(&new),
            warnings,
        });
    }
    Err(Failure::outdated(&id, &call.name))
}

fn restore(object: &mut Value, field: &str, value: &Value) {
    if !value.is_null() {
        object[field] = value.clone();
    } else if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

/// Whether more than metadata and status differ.
fn differ_in_substance(old: &Value, new: &Value) -> bool {
    let substance = |object: &Value| {
        let mut object = object.clone();
        for part in ["metadata", "status"] {
            object[part] = Value::Null;
        }
        object
    };
    substance(old) != substance(new)
}

async fn patch(shared: &Arc<Shared>, call: &Call) -> Result<Reply, Failure> {
    let version = call.resource.version(&call.version);
    let shape = match version {
        Some(version) if version.definition.is_some() => Shape::Schema(&version.schema),
        _ => Shape::BuiltIn {
            kind: &call.resource.kind,
            path: ["", ""],
        },
    };
    let (id, patch) = (call.resource.id(), &call.body);
    match call.content_type.as_str() {
        "application/apply-patch+yaml" => {
            if call.option("fieldManager").is_empty() {
                return Err(Failure::bad(
                    "PatchOptions is invalid: fieldManager: Required value: is required for apply patch",
                ));
            }
            if !patch["metadata"]["managedFields"].is_null() {
                return Err(Failure::bad("metadata.managedFields must be nil"));
            }
            if patch["apiVersion"].is_null() || patch["kind"].is_null() {
                return Err(Failure::bad(
                    "apiVersion and kind are required in what is applied",
                ));
            }
            let exists = shared
                .store
                .lock()
                .object(&id, &call.namespace, &call.name)
                .is_some();
            if !exists {
                let mut object = patch.clone();
                object["metadata"]["name"] = call.name.as_str().into();
                return if call.sub.is_empty() {
                    create(shared, call, object).await
                } else {
                    Err(Failure::not_found(&id, &call.name))
                };
            }
        }
        "application/strategic-merge-patch+json" if call.resource.sort != Sort::Custom => {}
        "application/json-patch+json" | "application/merge-patch+json" => {}
        other => {
            let message = format!("the body of the request was in an unknown format: {other}");
            return Err(Failure::new(415, message));
        }
    }
    change(shared, call, |old| {
        let mut new = old.clone();
        if call.content_type == "application/json-patch+json" {
            merge::json_patch(&mut new, patch)?;
            if new["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"] {
                forget_version(&mut new);
            }
            return Ok(new);
        }
        forget_version(&mut new);
        match call.content_type.as_str() {
            "application/merge-patch+json" => json_patch::merge(&mut new, patch),
            "application/apply-patch+yaml" => merge::apply(shape, &mut new, patch),
            _ => merge::strategic(shape, &mut new, patch),
        }
        Ok(new)
    })
    .await
}

/// A patch that names no version is against whichever there is.
fn forget_version(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
}

fn delete(shared: &Arc<Shared>, call: &Call) -> Result<Reply, Failure> {
    let id = call.resource.id();
    let mut store = shared.store.lock();
    let old = store.object(&id, &call.namespace, &call.name);
    let old = old.ok_or_else(|| Failure::not_found(&id, &call.name))?;
    for part in ["uid", "resourceVersion"] {
        let wanted = &call.body["preconditions"][part];
        if !wanted.is_null() && *wanted != old["metadata"][part] {
            let why = format!(
                "Precondition failed: {part} in precondition: {wanted}, in object meta: {}",
                old["metadata"][part]
            );
            return Err(Failure::conflict(&id, &call.name, &why));
        }
    }
    if call.is_dry() {
        return Ok(reply(200, call.presented(&old)));
    }
    let grace = call.body["gracePeriodSeconds"].as_u64();
    let grace = grace.or_else(|| call.option("gracePeriodSeconds").parse().ok());
    let left = store.delete((&id, &call.namespace, &call.name), grace);
    drop(store);
    shared.notify();
    match left {
        Some((object, false)) => {
            shared.end_like_a_kubelet(&id, &object);
            Ok(reply(200, call.presented(&object)))
        }
        _ => Ok(reply(
            200,
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {
                    "name": call.name, "group": call.resource.group, "kind": call.resource.plural,
                    "uid": old["metadata"]["uid"],
                },
            }),
        )),
    }
}

fn delete_all(shared: &Arc<Shared>, call: &Call) -> Result<Reply, Failure> {
    let (id, selector) = (call.resource.id(), call.selector()?);
    let grace = call.body["gracePeriodSeconds"].as_u64();
    let mut store = shared.store.lock();
    let mut items = Vec::new();
    for object in store.all(&id, &call.namespace) {
        if !selector.selects(&object) {
            continue;
        }
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
        if !call.is_dry()
            && let Some((object, false)) =
                store.delete((&id, text("namespace"), text("name")), grace)
        {
            shared.end_like_a_kubelet(&id, &object);
        }
        items.push(call.presented(&object));
    }
    let list = call.list_of(&items, store.revision);
    drop(store);
    shared.notify();
    Ok(reply(200, list))
}

impl Call {
    fn list_of(&self, items: &[Value], revision: u64) -> Value {
        json!({
            "kind": self.resource.names["listKind"],
            "apiVersion": self.resource.api_version(&self.version),
            "metadata": {"resourceVersion": revision.to_string()},
            "items": items,
        })
    }
}

/// In pages, where a limit asks for them. A later page has objects as they are then, with the first one's
/// revision: who watches on from there hears of what has changed in between.
fn list(store: &Store, call: &Call) -> Result<Reply, Failure> {
    let selector = call.selector()?;
    let (mut revision, mut from) = (store.revision, (String::new(), String::new()));
    let mut parts = call.option("continue").splitn(3, '/');
    if let (Some(first), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) {
        revision = first.parse().map_err(|_| {
            Failure::bad("Invalid value: the continue token is none of this server's")
        })?;
        from = (namespace.to_owned(), name.to_owned());
    }
    let place = |object: &Value| {
        let text = |name: &str| {
            object["metadata"][name]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        (text("namespace"), text("name"))
    };
    let objects = store.all(&call.resource.id(), &call.namespace).into_iter();
    let mut objects = objects
        .filter(|object| selector.selects(object))
        .skip_while(|object| place(object) < from)
        .peekable();
    let limit = call.option("limit").parse().unwrap_or(0);
    let limit = if limit == 0 { usize::MAX } else { limit };
    let items: Vec<_> = objects
        .by_ref()
        .take(limit)
        .map(|object| call.presented(&object))
        .collect();
    let mut page = call.list_of(&items, revision);
    if let Some(next) = objects.peek() {
        let (namespace, name) = place(next);
        page["metadata"]["continue"] = format!("{revision}/{namespace}/{name}").into();
    }
    Ok(reply(200, page))
}

fn watch(call: &Call) -> Result<Reply, Failure> {
    let initial = call.option("sendInitialEvents") == "true";
    let from = match call.option("resourceVersion") {
        "" | "0" => None,
        _ if initial => None,
        revision => {
            let revision = revision.parse();
            Some(
                revision
                    .map_err(|_| Failure::bad("Invalid value: the resourceVersion is no number"))?,
            )
        }
    };
    let seconds = call.option("timeoutSeconds").parse().ok();
    let bookmarks = ["true", "1"].contains(&call.option("allowWatchBookmarks"));
    Ok(Reply::Watch(Wanted {
        resource: Arc::clone(&call.resource),
        version: call.version.clone(),
        namespace: call.namespace.clone(),
        selector: call.selector()?,
        from,
        bookmarks,
        tells_start: initial && bookmarks,
        lifetime: seconds.map_or(WATCH_LIFETIME, Duration::from_secs),
    }))
}

impl Shared {
    /// Ends a pod that waits for its kubelet, where a test wants that.
    fn end_like_a_kubelet(self: &Arc<Self>, id: &str, pod: &Value) {
        let Some(after) = self.kubelet.lock().filter(|_| id == "pods") else {
            return;
        };
        let (shared, uid) = (Arc::clone(self), pod["metadata"]["uid"].clone());
        let text = |name: &str| {
            pod["metadata"][name]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let (namespace, name) = (text("namespace"), text("name"));
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let mut store = shared.store.lock();
            let is_it = store
                .object("pods", &namespace, &name)
                .is_some_and(|pod| pod["metadata"]["uid"] == uid);
            if is_it {
                store.delete(("pods", &namespace, &name), Some(0));
            }
            drop(store);
            shared.notify();
        });
    }
}
