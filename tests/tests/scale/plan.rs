//! What the cluster has, and who calls whom: pure, by size.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{
    AuthorityKey, EndpointsKey, InboundKey, OutboundKey, ResourceKey, ServiceRef, TrustBundleKey,
};

/// What every service is addressed by.
pub(crate) const PORT: u32 = 80;
/// What every application listens on.
pub(crate) const TARGET_PORT: u32 = 8080;
/// Services that a sidecar calls, the one that all call among them.
const CALLS: usize = 10;
/// Of these, so many by authority; the others by address.
const BY_AUTHORITY: usize = 4;
/// One service in so many has a policy of its own, without timeouts.
const OWN_POLICY: usize = 25;

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
    pub(crate) namespaces: usize,
}

impl Size {
    /// Ten endpoints behind each service, and a connected sidecar at one of them.
    pub(crate) const fn of(services: usize) -> Self {
        let namespaces = match services {
            0..200 => 5,
            _ => 20,
        };
        Self {
            services,
            endpoints: 10 * services,
            namespaces,
        }
    }

    /// Sidecars that are connected: the first endpoint of each service.
    pub(crate) const fn streams(self) -> usize {
        self.services
    }
}

/// What a subscription of a sidecar is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Topic {
    Bundle,
    Inbound(u32),
    /// What a service means, by address or authority.
    Service(usize),
    Endpoints(usize),
}

/// A cluster of a size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) size: Size,
}

impl Plan {
    pub(crate) fn namespace(self, service: usize) -> String {
        format!("team-{:02}", service % self.size.namespaces)
    }

    pub(crate) fn each(self) -> usize {
        self.size.endpoints / self.size.services
    }

    pub(crate) fn address(self, service: usize, index: usize) -> Ipv4Addr {
        let number = (service * self.each() + index + 1) as u32;
        let [_, high, middle, low] = number.to_be_bytes();
        Ipv4Addr::new(10, 64 + high, middle, low)
    }

    /// The services that a sidecar calls: service 0, which all call, and others, near and far.
    pub(crate) fn calls(self, stream: usize) -> Vec<usize> {
        let all = self.size.services;
        let mut calls = BTreeSet::from([0]);
        let mut next = stream;
        while calls.len() < CALLS.min(all) {
            next = (next * 7 + 13 + calls.len()) % all;
            while !calls.insert(next) {
                next = (next + 1) % all;
            }
        }
        calls.into_iter().collect()
    }

    /// What a sidecar asks for when it starts and as its application calls; endpoints it asks for when
    /// it knows the backends.
    pub(crate) fn subscriptions(self, stream: usize) -> Vec<(Topic, ResourceKey)> {
        let mut kinds = vec![
            (Topic::Bundle, Kind::TrustBundle(TrustBundleKey {})),
            (Topic::Inbound(0), Kind::Inbound(InboundKey { port: 0 })),
            (
                Topic::Inbound(TARGET_PORT),
                Kind::Inbound(InboundKey { port: TARGET_PORT }),
            ),
        ];
        for (place, service) in self.calls(stream).into_iter().enumerate() {
            let kind = if place % CALLS < BY_AUTHORITY {
                let (name, namespace) = (service_name(service), self.namespace(service));
                Kind::Authority(AuthorityKey {
                    authority: format!("{name}.{namespace}:{PORT}"),
                })
            } else {
                Kind::Outbound(OutboundKey {
                    ip: cluster_ip(service).octets().to_vec(),
                    port: PORT,
                })
            };
            kinds.push((Topic::Service(service), kind));
        }
        let kinds = kinds.into_iter();
        kinds
            .map(|(topic, kind)| (topic, ResourceKey { kind: Some(kind) }))
            .collect()
    }

    /// Everything that a sidecar has in the end.
    pub(crate) fn topics(self, stream: usize) -> BTreeSet<Topic> {
        let own = self.subscriptions(stream).into_iter();
        let own = own.map(|(topic, _)| topic);
        let calls = self.calls(stream).into_iter();
        own.chain(calls.map(Topic::Endpoints)).collect()
    }

    /// Every sidecar with each of its topics that these are.
    pub(crate) fn concerned(
        self,
        is_meant: impl Fn(usize, Topic) -> bool,
    ) -> BTreeSet<(usize, Topic)> {
        let streams = 0..self.size.streams();
        let all = streams.flat_map(|stream| {
            let topics = self.topics(stream).into_iter();
            topics.map(move |topic| (stream, topic))
        });
        all.filter(|(stream, topic)| is_meant(*stream, *topic))
            .collect()
    }

    /// Everything but slices, in an order in which it can be created.
    pub(crate) fn manifests(self) -> Vec<Value> {
        let mut all = vec![json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "weft"},
        })];
        for namespace in 0..self.size.namespaces {
            all.push(json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": self.namespace(namespace),
                             "labels": {"weft.dev/inject": "enabled"}},
            }));
            all.push(self.namespace_policy(namespace, 30));
        }
        for service in 0..self.size.services {
            all.push(self.service_manifest(service));
            all.push(json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": account(service),
                             "namespace": self.namespace(service)},
            }));
            for index in 0..self.each() {
                all.push(self.pod_manifest(service, index));
            }
            if service % OWN_POLICY == 1 {
                all.push(self.own_policy(service));
            }
        }
        all
    }

    /// Its `request` timeout and its rate limit are this number of seconds and a thousand times that
    /// many requests, for clients and for servers to see.
    pub(crate) fn namespace_policy(self, namespace: usize, seconds: u32) -> Value {
        let name = self.namespace(namespace);
        json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": "defaults", "namespace": name},
            "spec": {
                "targetRefs": [{"kind": "Namespace", "name": name}],
                "mtls": {"mode": "Strict"},
                "timeouts": {"request": format!("{seconds}s"), "connect": "500ms"},
                "rateLimit": {"requestsPerSecond": seconds * 1000},
            },
        })
    }

    fn own_policy(self, service: usize) -> Value {
        json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": service_name(service), "namespace": self.namespace(service)},
            "spec": {
                "targetRefs": [{"kind": "Service", "name": service_name(service)}],
                "retries": {"attempts": 2, "statusCodes": [502, 503],
                            "methods": ["GET", "HEAD"]},
                "circuitBreaker": {"consecutiveFailures": {"threshold": 5}},
            },
        })
    }

    fn service_manifest(self, service: usize) -> Value {
        let name = service_name(service);
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": self.namespace(service),
                         "labels": {"app": name}},
            "spec": {
                "type": "ClusterIP", "clusterIP": cluster_ip(service).to_string(),
                "selector": {"app": name},
                "ports": [{"name": "http", "port": PORT, "targetPort": "http",
                           "protocol": "TCP", "appProtocol": "http"}],
            },
        })
    }

    /// With what a real pod has beside what the mesh reads of it.
    fn pod_manifest(self, service: usize, index: usize) -> Value {
        let (app, ip) = (service_name(service), self.address(service, index));
        let environment: Vec<_> = (0..10)
            .map(|number| json!({"name": format!("SETTING_{number}"), "value": "a value"}))
            .collect();
        let container = |name: &str, image: &str| {
            json!({"name": name, "image": format!("registry.example/{image}:1.2.3"),
                   "ports": [{"name": "http", "containerPort": TARGET_PORT, "protocol": "TCP"}],
                   "env": environment,
                   "resources": {"requests": {"cpu": "100m", "memory": "128Mi"},
                                 "limits": {"memory": "256Mi"}},
                   "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"},
                                      "periodSeconds": 5},
                   "volumeMounts": [{"name": "token", "readOnly": true,
                                     "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]})
        };
        let mut sidecar = container("weft-proxy", "weft-proxy");
        sidecar["restartPolicy"] = "Always".into();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod_name(service, index), "namespace": self.namespace(service),
                "labels": {"app": app, "pod-template-hash": "7d9c6b5f4"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                                     "name": format!("{app}-7d9c6b5f4"), "uid": "1",
                                     "controller": true, "blockOwnerDeletion": true}],
            },
            "spec": {
                "serviceAccountName": account(service), "nodeName": format!("node-{index}"),
                "initContainers": [sidecar], "containers": [container("app", &app)],
                "volumes": [{"name": "token", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}],
            },
            "status": {
                "phase": "Running", "podIP": ip.to_string(), "podIPs": [{"ip": ip.to_string()}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        })
    }

    /// The service's slice, where those that `ready` refuses are not ready.
    pub(crate) fn slice(self, service: usize, ready: impl Fn(usize) -> bool) -> Value {
        let namespace = self.namespace(service);
        let endpoints = (0..self.each()).map(|index| {
            let ready = ready(index);
            json!({
                "addresses": [self.address(service, index).to_string()],
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "nodeName": format!("node-{index}"), "zone": format!("zone-{}", index % 3),
                "targetRef": {"kind": "Pod", "namespace": namespace,
                              "name": pod_name(service, index)},
            })
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-abcde", service_name(service)), "namespace": namespace,
                "labels": {"kubernetes.io/service-name": service_name(service)},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP",
                       "appProtocol": "http"}],
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    }
}

/// The name of a service.
pub(crate) fn service_name(service: usize) -> String {
    format!("service-{service:04}")
}

/// The name of a pod behind it.
pub(crate) fn pod_name(service: usize, index: usize) -> String {
    format!("service-{service:04}-7d9c6b5f4-{index:05}")
}

/// The service account of these pods.
pub(crate) fn account(service: usize) -> String {
    format!("account-{service:04}")
}

fn cluster_ip(service: usize) -> Ipv4Addr {
    let [_, _, high, low] = (service as u32 + 1).to_be_bytes();
    Ipv4Addr::new(10, 96, high, low)
}

/// The endpoints of a backend, and which service it is.
pub(crate) fn endpoints(backend: &ServiceRef) -> (Topic, ResourceKey) {
    let number = backend.name.rsplit('-').next();
    let service = number.and_then(|number| number.parse().ok());
    let kind = Kind::Endpoints(EndpointsKey {
        service: Some(backend.clone()),
    });
    let topic = Topic::Endpoints(service.expect("a service of this plan"));
    (topic, ResourceKey { kind: Some(kind) })
}

/// Whether a manifest is a pod whose sidecar connects; they come in the order of their streams.
pub(crate) fn is_connected(manifest: &Value) -> bool {
    let name = manifest["metadata"]["name"].as_str().unwrap_or_default();
    manifest["kind"] == "Pod" && name.ends_with("-00000")
}
