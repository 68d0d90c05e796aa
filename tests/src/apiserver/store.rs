//! Every object, and what happened lately.
//!
//! One revision counts all changes. History is bounded: whoever asks for older changes is told that they
//! are gone, as everybody is after [`Store::compact`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::access::Token;
use super::kinds::Kinds;
use super::selectors::texts;
use super::{Outage, Refusal, Seen, time};

/// Changes that are remembered.
const HISTORY: usize = 16_384;

pub(super) const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Where and as what an object is stored: resource, namespace, name.
pub(super) type Place<'a> = (&'a str, &'a str, &'a str);

/// All state, knobs and counts of the server.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) revision: u64,
    pub(super) kinds: Kinds,
    objects: BTreeMap<String, BTreeMap<(String, String), Arc<Value>>>,
    history: VecDeque<Change>,
    /// The last revision that history does not have.
    compacted: u64,
    addresses: u32,
    pub(super) tokens: HashMap<String, Token>,
    pub(super) webhooks: HashMap<(String, String), SocketAddr>,
    pub(super) outage: Outage,
    pub(super) refusals: Vec<Refusal>,
    pub(super) enforces_roles: bool,
    pub(super) bookmarks: Duration,
    /// How often all watches were dropped.
    pub(super) drops: u64,
    pub(super) seen: BTreeMap<Seen, u64>,
    /// What no role allowed.
    pub(super) forbidden: BTreeMap<Seen, u64>,
    pub(super) watches: BTreeMap<String, usize>,
}

/// Something that happened to an object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) revision: u64,
    resource: String,
    namespace: String,
    pub(super) old: Option<Arc<Value>>,
    /// As it is now, or was at its end.
    pub(super) object: Arc<Value>,
    pub(super) is_end: bool,
}

impl Store {
    pub(super) fn new() -> Self {
        let mut store = Self {
            revision: 1,
            kinds: Kinds::new(),
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            compacted: 0,
            addresses: 0,
            tokens: HashMap::new(),
            webhooks: HashMap::new(),
            outage: Outage::None,
            refusals: Vec::new(),
            enforces_roles: false,
            bookmarks: Duration::from_secs(5),
            drops: 0,
            seen: BTreeMap::new(),
            forbidden: BTreeMap::new(),
            watches: BTreeMap::new(),
        };
        for name in ["default", "kube-system"] {
            let mut namespace = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            });
            store.complete("namespaces", &mut namespace);
            stamp(&mut namespace, false);
            store.put(("namespaces", "", name), namespace);
        }
        store
    }

    pub(super) fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let all = self.objects.get(resource)?;
        all.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Every object in a namespace, or everywhere when that is empty, by namespace and name.
    pub(super) fn all(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let all = self.objects.get(resource).into_iter().flatten();
        let all = all.filter(|((of, _), _)| namespace.is_empty() || of == namespace);
        all.map(|(_, object)| Arc::clone(object)).collect()
    }

    /// Stores an object as it is, with what follows from that.
    pub(super) fn put(&mut self, place: Place<'_>, mut object: Value) -> Arc<Value> {
        let (resource, namespace, name) = place;
        if resource == CRDS
            && let Ok(defined) = Kinds::read_definition(&object)
        {
            self.kinds.define(defined);
        }
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let all = self.objects.entry(resource.to_owned()).or_default();
        let key = (namespace.to_owned(), name.to_owned());
        let old = all.insert(key, Arc::clone(&object));
        let is_new = old.is_none();
        self.remember(place, old, &object, false);
        if resource == "namespaces" && is_new {
            let mut account = json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": name},
            });
            stamp(&mut account, false);
            self.put(("serviceaccounts", name, "default"), account);
        }
        object
    }

    /// Ends an object, with what follows from that.
    pub(super) fn take(&mut self, place: Place<'_>) -> Option<Arc<Value>> {
        let (resource, namespace, name) = place;
        let all = self.objects.get_mut(resource)?;
        let old = all.remove(&(namespace.to_owned(), name.to_owned()))?;
        self.revision += 1;
        let mut last = (*old).clone();
        last["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let last = Arc::new(last);
        self.remember(place, Some(old), &last, true);
        let inside: Vec<(String, String, String)> = match resource {
            "namespaces" => {
                let all = self.objects.iter();
                let all =
                    all.flat_map(|(resource, all)| all.keys().map(move |key| (resource, key)));
                let all = all.filter(|(_, (namespace, _))| namespace == name);
                all.map(|(resource, (namespace, name))| {
                    (resource.clone(), namespace.clone(), name.clone())
                })
                .collect()
            }
            CRDS => {
                self.kinds.forget(name);
                let all = self.objects.get(name).into_iter().flat_map(BTreeMap::keys);
                all.map(|(namespace, object)| (name.to_owned(), namespace.clone(), object.clone()))
                    .collect()
            }
            _ => Vec::new(),
        };
        for (resource, namespace, name) in inside {
            self.take((&resource, &namespace, &name));
        }
        Some(last)
    }

    fn remember(
        &mut self,
        (resource, namespace, _): Place<'_>,
        old: Option<Arc<Value>>,
        object: &Arc<Value>,
        is_end: bool,
    ) {
        self.history.push_back(Change {
            revision: self.revision,
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            old,
            object: Arc::clone(object),
            is_end,
        });
        if self.history.len() > HISTORY
            && let Some(gone) = self.history.pop_front()
        {
            self.compacted = gone.revision;
        }
    }

    /// Changes after a revision, oldest first; none at all when some of them are forgotten.
    pub(super) fn since(
        &self,
        revision: u64,
        resource: &str,
        namespace: &str,
    ) -> Option<Vec<Change>> {
        if revision < self.compacted {
            return None;
        }
        let from = self
            .history
            .partition_point(|change| change.revision <= revision);
        let changes = self.history.range(from..).filter(|change| {
            change.resource == resource && (namespace.is_empty() || change.namespace == namespace)
        });
        Some(changes.cloned().collect())
    }

    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.revision;
    }

    /// Fills in what the server itself decides about a new object.
    pub(super) fn complete(&mut self, resource: &str, object: &mut Value) {
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let default = |object: &mut Value, name: &str, value: Value| {
            if object[name].is_null() {
                object[name] = value;
            }
        };
        match resource {
            "namespaces" => {
                object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
                object["status"] = json!({"phase": "Active"});
            }
            "pods" => {
                let spec = &mut object["spec"];
                let account = spec["serviceAccountName"]
                    .as_str()
                    .unwrap_or("default")
                    .to_owned();
                spec["serviceAccountName"] = account.into();
                for (name, value) in [
                    ("restartPolicy", json!("Always")),
                    ("dnsPolicy", json!("ClusterFirst")),
                    ("terminationGracePeriodSeconds", json!(30)),
                ] {
                    default(spec, name, value);
                }
                object["status"] = json!({"phase": "Pending"});
            }
            "services" => {
                let spec = &mut object["spec"];
                default(spec, "type", json!("ClusterIP"));
                default(spec, "sessionAffinity", json!("None"));
                for port in spec["ports"].as_array_mut().into_iter().flatten() {
                    default(port, "protocol", json!("TCP"));
                    let number = port["port"].clone();
                    default(port, "targetPort", number);
                }
                if spec["type"] != "ExternalName" {
                    if spec["clusterIP"].is_null() {
                        self.addresses += 1;
                        let [_, _, high, low] = self.addresses.to_be_bytes();
                        spec["clusterIP"] = format!("10.96.{high}.{low}").into();
                    }
                    let addresses = json!([spec["clusterIP"]]);
                    default(spec, "clusterIPs", addresses);
                    default(spec, "ipFamilies", json!(["IPv4"]));
                    default(spec, "ipFamilyPolicy", json!("SingleStack"));
                    default(spec, "internalTrafficPolicy", json!("Cluster"));
                }
                object["status"] = json!({"loadBalancer": {}});
            }
            CRDS => {
                let condition = |kind: &str, reason: &str| {
                    json!({
                        "type": kind, "status": "True", "reason": reason, "message": "",
                        "lastTransitionTime": time::now(),
                    })
                };
                let stored = object["spec"]["versions"].as_array().into_iter().flatten();
                let stored = stored.filter(|version| version["storage"] == true);
                let stored: Vec<_> = stored.map(|version| version["name"].clone()).collect();
                object["status"] = json!({
                    "acceptedNames": object["spec"]["names"],
                    "conditions": [
                        condition("NamesAccepted", "NoConflicts"),
                        condition("Established", "InitialNamesAccepted"),
                    ],
                    "storedVersions": stored,
                });
            }
            _ => {}
        }
    }

    /// Deletes an object as its finalizers and its grace allow: what is left of it, else its last state
    /// and true.
    pub(super) fn delete(
        &mut self,
        place: Place<'_>,
        grace: Option<u64>,
    ) -> Option<(Arc<Value>, bool)> {
        let (resource, namespace, name) = place;
        let old = self.object(resource, namespace, name)?;
        let has_ended = ["Succeeded", "Failed"]
            .iter()
            .any(|phase| old["status"]["phase"] == *phase);
        let grace = match old["spec"]["terminationGracePeriodSeconds"].as_u64() {
            usual if resource == "pods" && !has_ended => grace.or(usual).unwrap_or(30),
            _ => 0,
        };
        if grace == 0 && texts(&old["metadata"]["finalizers"]).is_empty() {
            return self.take(place).map(|last| (last, true));
        }
        let known = old["metadata"]["deletionGracePeriodSeconds"].as_u64();
        if known.is_some_and(|known| known <= grace) {
            return Some((old, false));
        }
        let mut ending = (*old).clone();
        let at = SystemTime::now() + Duration::from_secs(grace);
        ending["metadata"]["deletionTimestamp"] = time::written(at).into();
        ending["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        Some((self.put(place, ending), false))
    }
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(super) fn is_done(object: &Value) -> bool {
    let metadata = &object["metadata"];
    !metadata["deletionTimestamp"].is_null()
        && texts(&metadata["finalizers"]).is_empty()
        && metadata["deletionGracePeriodSeconds"].as_u64().unwrap_or(0) == 0
}

/// Gives a new object its identity.
pub(super) fn stamp(object: &mut Value, has_generation: bool) {
    let random = format!("{:032x}", fastrand::u128(..));
    let uid = format!(
        "{}-{}-4{}-a{}-{}",
        &random[..8],
        &random[8..12],
        &random[13..16],
        &random[17..20],
        &random[20..]
    );
    let metadata = &mut object["metadata"];
    metadata["uid"] = uid.into();
    metadata["creationTimestamp"] = time::now().into();
    if has_generation {
        metadata["generation"] = 1.into();
    }
}
