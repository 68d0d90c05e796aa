//! Every object, and what happened lately.
//!
//! One revision counts all changes. History is bounded: whoever asks for older changes is told that they
//! are gone, as everybody is after [`Store::compact`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::access::Token;
use super::json::{fill, text, texts, written};
use super::kinds::{Kinds, Resource};
use super::{Outage, Seen};

/// Changes that are remembered.
const HISTORY: usize = 16_384;

pub(super) const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Where and as what an object is stored: resource, namespace, name.
pub(super) type Place<'a> = (&'a str, &'a str, &'a str);

/// The same, as a key: all of a kind stand together.
type Key = (String, String, String);

/// All state, knobs and counts of the server.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) revision: u64,
    pub(super) kinds: Kinds,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    /// The last revision that history does not have.
    compacted: u64,
    /// The last part of the address that a service got last.
    addresses: u16,
    pub(super) tokens: HashMap<String, Token>,
    pub(super) webhooks: HashMap<(String, String), SocketAddr>,
    pub(super) outage: Outage,
    /// Verb, resource, code: of requests that a test wants refused, once each.
    pub(super) refusals: Vec<(String, String, u16)>,
    /// How long a kubelet takes to end a pod, where there is one.
    pub(super) kubelet: Option<Duration>,
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
    key: Key,
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
            bookmarks: Duration::from_secs(5),
            ..Self::default()
        };
        for name in ["default", "kube-system"] {
            let namespace = json!({"kind": "Namespace", "metadata": {"name": name}});
            store.found("namespaces", namespace);
        }
        store
    }

    /// Makes an object that nobody asked for.
    fn found(&mut self, resource: &str, mut object: Value) {
        object["apiVersion"] = "v1".into();
        self.complete(resource, &mut object);
        stamp(&mut object, false);
        self.put(resource, object);
    }

    pub(super) fn object(&self, place: Place<'_>) -> Option<Arc<Value>> {
        self.objects.get(&key(place)).cloned()
    }

    /// Every object in a namespace, or everywhere when that is empty, by namespace and name.
    pub(super) fn all(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let all = self.objects.range(key((resource, namespace, ""))..);
        let all = all.take_while(|(key, _)| is_in(key, resource, namespace));
        all.map(|(_, object)| Arc::clone(object)).collect()
    }

    /// Stores an object as it is, with what follows from that.
    pub(super) fn put(&mut self, resource: &str, object: Value) -> Arc<Value> {
        if resource == CRDS
            && let Ok(defined) = Resource::custom(&object)
        {
            self.kinds.add(defined);
        }
        let Change { old, object, .. } = self.change(resource, object, false);
        if resource == "namespaces" && old.is_none() {
            let metadata = json!({"name": "default", "namespace": object["metadata"]["name"]});
            let account = json!({"kind": "ServiceAccount", "metadata": metadata});
            self.found("serviceaccounts", account);
        }
        object
    }

    /// Ends an object, with what follows from that.
    pub(super) fn take(&mut self, (resource, namespace, name): Place<'_>) {
        let Some(old) = self.object((resource, namespace, name)) else {
            return;
        };
        self.change(resource, (*old).clone(), true);
        if resource == CRDS {
            self.kinds.0.retain(|_, resource| resource.id() != name);
        }
        // What is in a namespace, or of a kind, goes with it.
        let is_inside = |(id, namespace, _): &&Key| match resource {
            "namespaces" => namespace == name,
            _ => id == name,
        };
        if ["namespaces", CRDS].contains(&resource) {
            let inside: Vec<Key> = self.objects.keys().filter(is_inside).cloned().collect();
            for (id, namespace, name) in inside {
                self.take((&id, &namespace, &name));
            }
        }
    }

    /// Makes a change, and remembers it.
    fn change(&mut self, resource: &str, mut object: Value, is_end: bool) -> Change {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let (key, object) = (key(place(resource, &object)), Arc::new(object));
        let old = if is_end {
            self.objects.remove(&key)
        } else {
            self.objects.insert(key.clone(), Arc::clone(&object))
        };
        let revision = self.revision;
        let change = Change {
            revision,
            key,
            old,
            object,
            is_end,
        };
        self.history.push_back(change.clone());
        if self.history.len() > HISTORY {
            let gone = self.history.pop_front();
            self.compacted = gone.map_or(0, |gone| gone.revision);
        }
        change
    }

    /// Changes after a revision, oldest first; none at all when some of them are forgotten.
    pub(super) fn since(&self, revision: u64, id: &str, namespace: &str) -> Option<Vec<Change>> {
        if revision < self.compacted {
            return None;
        }
        let known = |change: &Change| change.revision <= revision;
        let from = self.history.partition_point(known);
        let changes = self.history.range(from..);
        let changes = changes.filter(|change| is_in(&change.key, id, namespace));
        Some(changes.cloned().collect())
    }

    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.revision;
    }

    /// Fills in what the server itself decides, where nothing else is said.
    pub(super) fn complete(&mut self, resource: &str, object: &mut Value) {
        let defaults = match resource {
            "namespaces" => json!({
                "metadata": {"labels": {"kubernetes.io/metadata.name": object["metadata"]["name"]}},
                "status": {"phase": "Active"},
            }),
            "pods" => json!({
                "spec": {
                    "serviceAccountName": "default", "restartPolicy": "Always",
                    "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
                },
                "status": {"phase": "Pending"},
            }),
            "services" => {
                let spec = &mut object["spec"];
                for port in spec["ports"].as_array_mut().into_iter().flatten() {
                    let defaults = json!({"protocol": "TCP", "targetPort": port["port"]});
                    fill(port, &defaults);
                }
                if spec["type"] != "ExternalName" {
                    self.give_addresses(spec);
                }
                json!({
                    "spec": {"type": "ClusterIP", "sessionAffinity": "None"},
                    "status": {"loadBalancer": {}},
                })
            }
            CRDS => json!({"status": {"conditions": [
                {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts"},
                {"type": "Established", "status": "True", "reason": "InitialNamesAccepted"},
            ]}}),
            _ => return,
        };
        fill(object, &defaults);
    }

    /// Gives a service an address of each of its families. Those that a client names stay, and a headless
    /// service has none.
    fn give_addresses(&mut self, spec: &mut Value) {
        let mut named = texts(&spec["clusterIPs"]);
        if named.is_empty() {
            named = texts(&json!([spec["clusterIP"]]));
        }
        let is_asked_for = spec["ipFamilies"][0] == "IPv6";
        let is_six = named
            .first()
            .map_or(is_asked_for, |first| first.contains(':'));
        let is_dual = text(&spec["ipFamilyPolicy"]).ends_with("DualStack")
            || named.len().max(texts(&spec["ipFamilies"]).len()) > 1;
        let policy = ["SingleStack", "PreferDualStack"][usize::from(is_dual)];
        let mut families = vec!["IPv4", "IPv6"];
        families.rotate_left(usize::from(is_six));
        families.truncate(1 + usize::from(is_dual));
        if named.first().is_none_or(|address| address != "None") {
            for family in families.iter().skip(named.len()) {
                named.push(self.free_address(family));
            }
        }
        spec["clusterIP"] = named[0].as_str().into();
        spec["clusterIPs"] = named.into();
        spec["ipFamilies"] = families.into();
        let policies = json!({"ipFamilyPolicy": policy, "internalTrafficPolicy": "Cluster"});
        fill(spec, &policies);
    }

    /// An address that no service has, of 10.96.0.0/16 or fd96::/112.
    fn free_address(&mut self, family: &str) -> String {
        let services = self.all("services", "").into_iter();
        let taken = services.flat_map(|service| texts(&service["spec"]["clusterIPs"]));
        let taken: Vec<String> = taken.collect();
        loop {
            self.addresses = self.addresses.wrapping_add(1).max(1);
            let [high, low] = self.addresses.to_be_bytes();
            let address = match family {
                "IPv6" => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, self.addresses).to_string(),
                _ => Ipv4Addr::new(10, 96, high, low).to_string(),
            };
            if !taken.contains(&address) {
                return address;
            }
        }
    }

    /// Deletes an object as its finalizers and its grace allow: what is left of it.
    pub(super) fn delete(&mut self, place: Place<'_>, grace: Option<u64>) -> Option<Arc<Value>> {
        let old = self.object(place)?;
        let has_ended = ["Succeeded", "Failed"].contains(&text(&old["status"]["phase"]));
        let grace = match old["spec"]["terminationGracePeriodSeconds"].as_u64() {
            usual if place.0 == "pods" && !has_ended => grace.or(usual).unwrap_or(30),
            _ => 0,
        };
        if grace == 0 && texts(&old["metadata"]["finalizers"]).is_empty() {
            self.take(place);
            return None;
        }
        let known = old["metadata"]["deletionGracePeriodSeconds"].as_u64();
        if known.is_some_and(|known| known <= grace) {
            return Some(old);
        }
        let mut ending = (*old).clone();
        let at = SystemTime::now() + Duration::from_secs(grace);
        ending["metadata"]["deletionTimestamp"] = written(at).into();
        ending["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        Some(self.put(place.0, ending))
    }
}

/// Where a stored object is.
pub(super) fn place<'a>(resource: &'a str, object: &'a Value) -> Place<'a> {
    let part = |name: &str| text(&object["metadata"][name]);
    (resource, part("namespace"), part("name"))
}

fn key((resource, namespace, name): Place<'_>) -> Key {
    (resource.to_owned(), namespace.to_owned(), name.to_owned())
}

fn is_in(key: &Key, resource: &str, namespace: &str) -> bool {
    key.0 == resource && (namespace.is_empty() || key.1 == namespace)
}

/// Gives a new object its identity.
pub(super) fn stamp(object: &mut Value, has_generation: bool) {
    let mut uid = format!("{:032x}", fastrand::u128(..));
    for dash in [8, 13, 18, 23] {
        uid.insert(dash, '-');
    }
    let metadata = &mut object["metadata"];
    metadata["uid"] = uid.into();
    metadata["creationTimestamp"] = written(SystemTime::now()).into();
    if has_generation {
        metadata["generation"] = 1.into();
    }
}
