//! The kinds that are served: those of a cluster, and those that definitions add; and discovery.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use weft_control_plane::policy::Definition;

use super::json::{entries, fill, text, texts};

/// One resource, in one version.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) kind: String,
    pub(super) names: Value,
    pub(super) namespaced: bool,
    /// Whether its status is written apart.
    pub(super) has_status: bool,
    pub(super) sort: Sort,
    /// Of custom resources: how objects are judged.
    pub(super) definition: Option<Definition>,
    /// Of custom resources, as it was given: it says which lists are maps.
    pub(super) schema: Value,
}

/// Where a resource comes from, which decides what is done to its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Stored as it comes.
    Plain,
    /// As [`Self::Plain`], with a generation.
    Counted,
    /// By a definition.
    Custom,
    /// A question, which is answered and not stored.
    Question,
}

impl Resource {
    /// As `pods` or `leases.coordination.k8s.io`.
    pub(super) fn id(&self) -> String {
        id(&self.group, &self.plural)
    }

    pub(super) fn api_version(&self) -> String {
        let slash = if self.group.is_empty() { "" } else { "/" };
        format!("{}{slash}{}", self.group, self.version)
    }

    pub(super) fn has_generation(&self) -> bool {
        matches!(self.sort, Sort::Counted | Sort::Custom)
    }

    /// Reads a definition, in each version that it serves, or says what is wrong with it.
    pub(super) fn custom(crd: &Value) -> Result<Vec<Self>, String> {
        let spec = &crd["spec"];
        let served = entries(&spec["versions"]).filter(|version| version["served"] == true);
        let read = served.map(|served| Self::read(spec, served, Sort::Custom));
        let read = read.collect::<Result<Vec<_>, _>>()?;
        if read.iter().any(|read| crd["metadata"]["name"] != read.id()) || read.is_empty() {
            return Err("metadata.name must be PLURAL.GROUP, of a served version".to_owned());
        }
        Ok(read)
    }

    /// Reads a line of [`BUILT_IN`].
    fn built_in(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let [api_version, kind, plural, short, flags] = std::array::from_fn(|_| word());
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let short: Vec<_> = short.split(',').filter(|name| *name != "-").collect();
        let status = if flags.contains('s') {
            json!({})
        } else {
            Value::Null
        };
        let spec = json!({
            "group": group, "scope": if flags.contains('n') { "Namespaced" } else { "Cluster" },
            "names": {"plural": plural, "kind": kind, "shortNames": short},
        });
        let version = json!({"name": version, "subresources": {"status": status}});
        let sort = match (flags.contains('q'), flags.contains('g')) {
            (true, _) => Sort::Question,
            (_, true) => Sort::Counted,
            _ => Sort::Plain,
        };
        Self::read(&spec, &version, sort).expect("the table holds what is required")
    }

    fn read(spec: &Value, version: &Value, sort: Sort) -> Result<Self, String> {
        let required = |value: &Value, name: &str| {
            let found = value[name].as_str().map(str::to_owned);
            found.ok_or_else(|| format!("{name} is required"))
        };
        let schema = &version["schema"]["openAPIV3Schema"];
        let is_custom = sort == Sort::Custom;
        let mut names = spec["names"].clone();
        let kind = required(&names, "kind")?;
        let derived = json!({"singular": kind.to_lowercase(), "listKind": format!("{kind}List")});
        fill(&mut names, &derived);
        Ok(Self {
            group: required(spec, "group")?,
            version: required(version, "name")?,
            plural: required(&names, "plural")?,
            kind,
            names,
            namespaced: spec["scope"] == "Namespaced",
            has_status: !version["subresources"]["status"].is_null(),
            sort,
            definition: is_custom.then(|| Definition::new(schema)).transpose()?,
            schema: schema.clone(),
        })
    }

    /// As discovery tells it, with its subresources.
    fn described(&self) -> Vec<Value> {
        let all = "create delete deletecollection get list patch update watch";
        let is_question = self.sort == Sort::Question;
        let mut parts = vec![("", &*self.kind, if is_question { "create" } else { all })];
        if self.has_status {
            parts.push(("/status", &self.kind, "get patch update"));
        }
        if self.plural == "serviceaccounts" {
            parts.push(("/token", "TokenRequest", "create"));
        }
        let described = parts.into_iter().map(|(sub, kind, verbs)| {
            let names = [&self.names, &Value::Null][usize::from(!sub.is_empty())];
            json!({
                "name": format!("{}{sub}", self.plural), "singularName": text(&names["singular"]),
                "shortNames": texts(&names["shortNames"]), "categories": texts(&names["categories"]),
                "kind": kind, "namespaced": self.namespaced,
                "verbs": verbs.split(' ').collect::<Vec<_>>(),
            })
        });
        described.collect()
    }
}

/// Every resource, by [`Resource::id`] and version.
#[derive(Debug, Default)]
pub(super) struct Kinds(pub(super) BTreeMap<String, Arc<Resource>>);

impl Kinds {
    pub(super) fn new() -> Self {
        let resources = BUILT_IN.trim().lines().map(Resource::built_in);
        let mut kinds = Self::default();
        kinds.add(resources);
        kinds
    }

    pub(super) fn add(&mut self, resources: impl IntoIterator<Item = Resource>) {
        let resources = resources.into_iter();
        let key = |resource: &Resource| format!("{}/{}", resource.id(), resource.version);
        self.0
            .extend(resources.map(|resource| (key(&resource), Arc::new(resource))));
    }

    /// Discovery and the pages beside it. None for what is not there.
    pub(super) fn page(&self, path: &[&str]) -> Option<Value> {
        match path {
            ["version"] => Some(json!({
                "major": "1", "minor": "33", "gitVersion": "v1.33.0", "platform": "linux/amd64",
            })),
            ["healthz" | "livez" | "readyz"] => Some("ok".into()),
            ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
            ["api", "v1"] => Some(self.resources("", "v1")),
            ["apis"] => {
                let groups: BTreeSet<&str> = self.0.values().map(|one| &*one.group).collect();
                let groups = groups.into_iter().filter(|group| !group.is_empty());
                let groups: Vec<_> = groups.filter_map(|group| self.group(group)).collect();
                Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
            }
            ["apis", group] => self.group(group),
            ["apis", group, version] => self.group(group).map(|_| self.resources(group, version)),
            _ => None,
        }
    }

    /// A group with its versions, the first of which is `v1` where it has that.
    fn group(&self, group: &str) -> Option<Value> {
        let resources = self.0.values().filter(|resource| resource.group == group);
        let versions: BTreeSet<&str> = resources.map(|one| &*one.version).collect();
        let described =
            |version| json!({"groupVersion": format!("{group}/{version}"), "version": version});
        let versions: Vec<_> = versions.into_iter().map(described).collect();
        Some(json!({
            "kind": "APIGroup", "apiVersion": "v1", "name": group,
            "preferredVersion": versions.first()?, "versions": versions,
        }))
    }

    fn resources(&self, group: &str, version: &str) -> Value {
        let is_here = |one: &&Arc<Resource>| one.group == group && one.version == version;
        let here = self.0.values().filter(is_here);
        let described: Vec<_> = here.flat_map(|resource| resource.described()).collect();
        let slash = if group.is_empty() { "" } else { "/" };
        json!({
            "kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": format!("{group}{slash}{version}"), "resources": described,
        })
    }
}

/// As [`Resource::id`], of a plural with or without a subresource.
pub(super) fn id(group: &str, plural: &str) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    format!("{plural}{dot}{group}")
}

/// API version, kind, plural, short names, and flags: `n`amespaced, has a `s`tatus, has a `g`eneration,
/// is a `q`uestion.
const BUILT_IN: &str = "
v1 Namespace namespaces ns s
v1 Node nodes no s
v1 Pod pods po ns
v1 Service services svc ns
v1 Secret secrets - n
v1 ConfigMap configmaps cm n
v1 ServiceAccount serviceaccounts sa n
v1 Event events ev n
events.k8s.io/v1 Event events ev n
discovery.k8s.io/v1 EndpointSlice endpointslices - n
coordination.k8s.io/v1 Lease leases - n
apps/v1 Deployment deployments deploy nsg
apps/v1 ReplicaSet replicasets rs nsg
batch/v1 Job jobs - nsg
policy/v1 PodDisruptionBudget poddisruptionbudgets pdb nsg
admissionregistration.k8s.io/v1 MutatingWebhookConfiguration mutatingwebhookconfigurations - g
apiextensions.k8s.io/v1 CustomResourceDefinition customresourcedefinitions crd,crds sg
rbac.authorization.k8s.io/v1 Role roles - n
rbac.authorization.k8s.io/v1 RoleBinding rolebindings - n
rbac.authorization.k8s.io/v1 ClusterRole clusterroles - -
rbac.authorization.k8s.io/v1 ClusterRoleBinding clusterrolebindings - -
authentication.k8s.io/v1 TokenReview tokenreviews - q
authorization.k8s.io/v1 SubjectAccessReview subjectaccessreviews - q
authorization.k8s.io/v1 SelfSubjectAccessReview selfsubjectaccessreviews - q
authorization.k8s.io/v1 SelfSubjectRulesReview selfsubjectrulesreviews - q
";
