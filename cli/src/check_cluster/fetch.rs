//! Fetches what checks look at. What cannot be had is a fact too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt as _, stream};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::{Value, json};
use weft_control_plane::check::check;
use weft_control_plane::source::files::Once;
use weft_control_plane::source::kubernetes::{list_once, settings_of};
use weft_proto::names::{API_GROUP, API_VERSION, cluster};

use super::control_plane::own_pods;
use super::facts::{After, Before, Common, Fetched, Maybe, Trouble, list};
use crate::cluster::{described, setting};

/// Objects of one answer at most.
const PAGE: usize = 500;
/// Requests on the way at once.
const AT_ONCE: usize = 8;
/// Asked for instead of an object where its contents are nobody's business.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const GATEWAY: &str = "gateway.networking.k8s.io";

/// What Weft is made of, as `RESOURCE.GROUP`: in the whole cluster.
const CLUSTER_WIDE: [&str; 4] = [
    "customresourcedefinitions.apiextensions.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
];
/// In the control plane's namespace.
const NAMESPACED: [&str; 7] = [
    "serviceaccounts",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "configmaps",
    "services",
    "deployments.apps",
    "poddisruptionbudgets.policy",
];

/// A cluster that is asked.
pub(super) struct Cluster<'a> {
    pub(super) client: Client,
    /// The control plane's.
    pub(super) namespace: String,
    /// Is told what is asked for next.
    pub(super) progress: &'a dyn Fn(&str),
}

impl Cluster<'_> {
    pub(super) async fn common(&self) -> Common {
        (self.progress)("the API server");
        let version = self.get("/version", None).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut facts = Common {
            now: now.unwrap_or_default().as_secs() as i64,
            namespace: self.namespace.clone(),
            version,
            policies: Ok(None),
            routes: Vec::new(),
            namespaces: Ok(Vec::new()),
            webhooks: Ok(Vec::new()),
            cilium: Ok(None),
        };
        if facts.version.is_err() {
            return facts;
        }
        (self.progress)("definitions");
        facts.policies = self
            .definition(&format!("trafficpolicies.{API_GROUP}"))
            .await;
        for (kind, plural) in [("HTTPRoute", "httproutes"), ("GRPCRoute", "grpcroutes")] {
            let definition = self.definition(&format!("{plural}.{GATEWAY}")).await;
            facts.routes.push((kind, definition));
        }
        (self.progress)("namespaces and webhooks");
        facts.namespaces = self.list("/api/v1/namespaces").await;
        let group = "/apis/admissionregistration.k8s.io/v1";
        facts.webhooks = self
            .list(&format!("{group}/mutatingwebhookconfigurations"))
            .await;
        let cilium = "/api/v1/namespaces/kube-system/configmaps/cilium-config";
        facts.cilium = self.find(cilium, None).await;
        facts
    }

    pub(super) async fn before(&self) -> Before {
        (self.progress)("what you may create");
        let cluster_wide = CLUSTER_WIDE.iter().map(|what| (*what, None));
        let own = NAMESPACED
            .iter()
            .map(|what| (*what, Some(&*self.namespace)));
        let asked = stream::iter(cluster_wide.chain(own)).map(|(what, namespace)| async move {
            (what.to_owned(), self.may_create(what, namespace).await)
        });
        Before {
            creatable: asked.buffered(AT_ONCE).collect().await,
        }
    }

    pub(super) async fn after(&self, common: &Common) -> After {
        let namespace = &self.namespace;
        let own = format!("/api/v1/namespaces/{namespace}");
        (self.progress)("pods");
        let pods = self.list("/api/v1/pods").await;
        (self.progress)("the control plane");
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        let slices = self.list(&slices).await;
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        let lease = self
            .find(&format!("{leases}/{}", cluster::LEASE), None)
            .await;
        let authority = format!("{own}/secrets/{}", cluster::AUTHORITY_SECRET);
        let mut authority = self.find(&authority, Some(METADATA)).await;
        if matches!(authority, Ok(None)) {
            // Somebody else may give the issuer.
            let given = format!("{own}/secrets/{}", cluster::ISSUER_SECRET);
            authority = self.find(&given, Some(METADATA)).await;
        }
        let webhook_secret = format!("{own}/secrets/{}", cluster::WEBHOOK_SECRET);
        let webhook_secret = self.find(&webhook_secret, None).await;
        (self.progress)("trust bundles");
        let bundles = self.bundles(common).await;
        (self.progress)("policies and routes");
        let objects = vec![
            (
                "TrafficPolicy",
                self.list(&format!("/apis/{API_VERSION}/trafficpolicies"))
                    .await,
            ),
            (
                "HTTPRoute",
                self.list(&format!("/apis/{GATEWAY}/v1/httproutes")).await,
            ),
            (
                "GRPCRoute",
                self.list(&format!("/apis/{GATEWAY}/v1/grpcroutes")).await,
            ),
        ];
        (self.progress)("what the mesh is made of");
        let report = self
            .report(common, pods.as_deref().unwrap_or_default())
            .await;
        After {
            pods,
            slices,
            lease,
            authority,
            webhook_secret,
            bundles,
            objects,
            report,
        }
    }

    async fn bundles(&self, common: &Common) -> BTreeMap<String, Maybe> {
        let injected = common.injected();
        let all: BTreeSet<_> = injected.into_iter().chain([&*self.namespace]).collect();
        let asked = stream::iter(all).map(|namespace| async move {
            let name = cluster::TRUST_BUNDLE;
            let map = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
            (namespace.to_owned(), self.find(&map, None).await)
        });
        asked.buffer_unordered(AT_ONCE).collect().await
    }

    /// The control plane's own rules on everything, under the settings that it runs with.
    async fn report(
        &self,
        common: &Common,
        pods: &[Value],
    ) -> Fetched<weft_control_plane::check::Report> {
        let own = own_pods(common, pods).into_iter();
        // What is no pod after all says nothing.
        let own = own.filter_map(|pod| serde_json::from_value(pod.clone()).ok());
        let own: Vec<Pod> = own.collect();
        let settings = settings_of(|name| setting(&own, name)).map_err(Trouble::Failed)?;
        let objects = list_once(self.client.clone(), &settings).await;
        let objects = objects.map_err(|error| {
            if error.is_forbidden() {
                Trouble::Forbidden
            } else {
                Trouble::Failed(described(&error))
            }
        })?;
        Ok(check(Once {
            objects,
            has_mesh: true,
        }))
    }

    async fn may_create(&self, what: &str, namespace: Option<&str>) -> Fetched<bool> {
        let (resource, group) = what.split_once('.').unwrap_or((what, ""));
        let mut attributes = json!({"verb": "create", "resource": resource, "group": group});
        if let Some(namespace) = namespace {
            attributes["namespace"] = namespace.into();
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let request = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
            .header("content-type", "application/json")
            .body(review.to_string().into_bytes());
        let answer = self.ask(request).await?;
        Ok(answer["status"]["allowed"] == true)
    }

    async fn definition(&self, name: &str) -> Maybe {
        let all = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        self.find(&format!("{all}/{name}"), None).await
    }

    /// One object, which may not be there.
    async fn find(&self, path: &str, accept: Option<&str>) -> Maybe {
        match self.get(path, accept).await {
            Ok(object) => Ok(Some(object)),
            Err(Trouble::Absent) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// Every object of a kind, page by page.
    async fn list(&self, path: &str) -> Fetched<Vec<Value>> {
        let (mut all, mut next) = (Vec::new(), String::new());
        loop {
            let page = self
                .get(&format!("{path}?limit={PAGE}{next}"), None)
                .await?;
            all.extend(list(&page["items"]).cloned());
            match page["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => {
                    let token = form_urlencoded::byte_serialize(token.as_bytes());
                    next = format!("&continue={}", token.collect::<String>());
                }
                _ => return Ok(all),
            }
        }
    }

    async fn get(&self, path: &str, accept: Option<&str>) -> Fetched<Value> {
        let accept = accept.unwrap_or("application/json");
        let request = Request::get(path).header("accept", accept).body(Vec::new());
        self.ask(request).await
    }

    async fn ask(&self, request: http::Result<Request<Vec<u8>>>) -> Fetched<Value> {
        let request = request.map_err(|error| Trouble::Failed(error.to_string()))?;
        let answer = self.client.request::<Value>(request).await;
        answer.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 403 => Trouble::Forbidden,
            kube::Error::Api(status) if status.code == 404 => Trouble::Absent,
            kube::Error::Api(status) => Trouble::Failed(status.message.clone()),
            _ => Trouble::Failed(described(&error)),
        })
    }
}
