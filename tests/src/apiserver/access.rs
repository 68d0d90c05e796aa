//! Who somebody is and what they may do: tokens, reviews, roles.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::failure::Failure;
use super::selectors::{Selector, texts};
use super::store::Store;
use super::time;

/// For whom tokens are that name nobody.
const DEFAULT_AUDIENCE: &str = "https://kubernetes.default.svc";

/// Who may do everything.
pub(super) const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";

/// Somebody who was recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// As `system:serviceaccount:NAMESPACE:NAME`.
    pub name: String,
    /// Groups, with `system:authenticated`.
    pub groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Somebody in these groups, beside `system:authenticated`.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().copied().chain([AUTHENTICATED]);
        Self {
            name: name.to_owned(),
            groups: groups.map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    /// Who may do everything.
    pub fn admin() -> Self {
        Self::new("admin", &[MASTERS])
    }

    /// A pod that runs as a service account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = format!("system:serviceaccounts:{namespace}");
        let name = format!("system:serviceaccount:{namespace}:{name}");
        Self::new(&name, &["system:serviceaccounts", &groups])
    }

    fn info(&self) -> Value {
        json!({"username": self.name, "uid": self.uid, "groups": self.groups, "extra": self.extra})
    }

    fn of_review(spec: &Value) -> Self {
        Self {
            name: spec["user"].as_str().unwrap_or_default().to_owned(),
            groups: texts(&spec["groups"]),
            ..Self::default()
        }
    }
}

/// A token that was given out.
#[derive(Clone, Debug)]
pub(super) struct Token {
    user: User,
    audiences: Vec<String>,
    ends: SystemTime,
    /// Namespace and name of the account, and of the pod, with their uids.
    account: Option<(String, String)>,
    pod: Option<(String, String, String)>,
}

/// Makes a token for somebody, and knows it from then on.
pub(super) fn mint(
    store: &mut Store,
    user: User,
    audiences: &[String],
    lifetime: Duration,
    account: Option<(&str, &str)>,
    pod: Option<(&str, &str)>,
) -> String {
    let ends = SystemTime::now() + lifetime;
    let audiences = match audiences {
        [] => vec![DEFAULT_AUDIENCE.to_owned()],
        some => some.to_vec(),
    };
    let seconds = ends
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let claims = json!({"sub": user.name, "aud": audiences, "exp": seconds});
    let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let text = format!(
        "{}.{}.{:032x}",
        encoded(r#"{"alg":"none"}"#),
        encoded(&claims.to_string()),
        fastrand::u128(..)
    );
    let mut token = Token {
        user,
        audiences,
        ends,
        account: account.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
        pod: None,
    };
    if let (Some((namespace, _)), Some((name, uid))) = (account, pod) {
        let extra = [("pod-name", name), ("pod-uid", uid)];
        token.user.extra = extra
            .map(|(key, value)| {
                let key = format!("authentication.kubernetes.io/{key}");
                (key, vec![value.to_owned()])
            })
            .into();
        token.pod = Some((namespace.to_owned(), name.to_owned(), uid.to_owned()));
    }
    store.tokens.insert(text.clone(), token);
    text
}

/// The user of a token, and for which of these audiences it is.
pub(super) fn recognise(
    store: &Store,
    text: &str,
    audiences: &[String],
) -> Result<(User, Vec<String>), &'static str> {
    let token = store.tokens.get(text).ok_or("invalid bearer token")?;
    if token.ends <= SystemTime::now() {
        return Err("token has expired");
    }
    let default = [DEFAULT_AUDIENCE.to_owned()];
    let asked = if audiences.is_empty() {
        &default
    } else {
        audiences
    };
    let common = asked.iter().filter(|asked| token.audiences.contains(asked));
    let common: Vec<String> = common.cloned().collect();
    if common.is_empty() {
        return Err("token audiences are not valid for the target");
    }
    let mut user = token.user.clone();
    if let Some((namespace, name)) = &token.account {
        let account = store.object("serviceaccounts", namespace, name);
        let account = account.ok_or("service account has been deleted")?;
        let uid = account["metadata"]["uid"].as_str();
        user.uid = uid.map(str::to_owned).unwrap_or_default();
    }
    if let Some((namespace, name, uid)) = &token.pod {
        let pod = store.object("pods", namespace, name);
        if pod.is_none_or(|pod| pod["metadata"]["uid"] != *uid) {
            return Err("pod has been deleted");
        }
    }
    Ok((user, common))
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    pub(super) verb: &'a str,
    pub(super) group: &'a str,
    /// With the subresource, as `pods/status`.
    pub(super) resource: &'a str,
    /// Empty: of the whole cluster.
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

impl Attempt<'_> {
    pub(super) fn refusal(&self, user: &User) -> Failure {
        let Self {
            verb,
            group,
            resource,
            namespace,
            name,
        } = self;
        let (resource_alone, _) = resource.split_once('/').unwrap_or((resource, ""));
        let id = super::kinds::id(group, resource_alone);
        let named = if name.is_empty() {
            String::new()
        } else {
            format!(" {name:?}")
        };
        let place = match *namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let message = format!(
            "{id}{named} is forbidden: User {:?} cannot {verb} resource {resource:?} in API group \
             {group:?} {place}",
            user.name
        );
        Failure::new(403, message)
    }
}

/// Whether the roles allow it.
pub(super) fn may(store: &Store, user: &User, attempt: Attempt<'_>) -> bool {
    let own = [
        "selfsubjectaccessreviews",
        "selfsubjectrulesreviews",
        "selfsubjectreviews",
    ];
    if own.contains(&attempt.resource) || user.groups.iter().any(|group| group == MASTERS) {
        return true;
    }
    let covers = |list: &Value, value: &str| {
        let list = texts(list);
        list.iter()
            .any(|allowed| allowed == "*" || allowed == value)
    };
    rules_of(store, user, attempt.namespace).iter().any(|rule| {
        covers(&rule["verbs"], attempt.verb)
            && covers(&rule["apiGroups"], attempt.group)
            && covers(&rule["resources"], attempt.resource)
            && (rule["resourceNames"].as_array().is_none_or(Vec::is_empty)
                || covers(&rule["resourceNames"], attempt.name))
    })
}

/// The rules that hold for somebody in a namespace.
fn rules_of(store: &Store, user: &User, namespace: &str) -> Vec<Value> {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let everywhere = store.all(&format!("clusterrolebindings.{GROUP}"), "");
    let here = match namespace {
        "" => Vec::new(),
        namespace => store.all(&format!("rolebindings.{GROUP}"), namespace),
    };
    let mut rules = Vec::new();
    for binding in everywhere.iter().chain(&here) {
        let of = &binding["metadata"]["namespace"];
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        let mut subjects = subjects.filter_map(|subject| {
            let name = subject["name"].as_str()?;
            Some(match subject["kind"].as_str()? {
                "Group" => user.groups.iter().any(|group| group == name),
                "ServiceAccount" => {
                    let namespace = subject["namespace"].as_str().or(of.as_str())?;
                    user.name == format!("system:serviceaccount:{namespace}:{name}")
                }
                _ => user.name == name,
            })
        });
        if !subjects.any(|is_meant| is_meant) {
            continue;
        }
        let name = binding["roleRef"]["name"].as_str().unwrap_or_default();
        let role = if binding["roleRef"]["kind"] == "ClusterRole" {
            store.object(&format!("clusterroles.{GROUP}"), "", name)
        } else {
            store.object(&format!("roles.{GROUP}"), namespace, name)
        };
        let Some(role) = role else {
            continue;
        };
        rules.extend(role["rules"].as_array().into_iter().flatten().cloned());
        let aggregated = role["aggregationRule"]["clusterRoleSelectors"].as_array();
        for selector in aggregated.into_iter().flatten().map(Selector::of_object) {
            for role in store.all(&format!("clusterroles.{GROUP}"), "") {
                if selector.selects(&role) {
                    rules.extend(role["rules"].as_array().into_iter().flatten().cloned());
                }
            }
        }
    }
    rules
}

/// Answers a question: the object with its status.
pub(super) fn answer(store: &Store, user: &User, plural: &str, mut question: Value) -> Value {
    let spec = question["spec"].clone();
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    question["status"] = match plural {
        "tokenreviews" => {
            match recognise(store, &text(&spec, "token"), &texts(&spec["audiences"])) {
                Ok((user, audiences)) => json!({
                    "authenticated": true, "user": user.info(), "audiences": audiences,
                }),
                Err(error) => json!({"user": {}, "error": error}),
            }
        }
        "selfsubjectreviews" => json!({"userInfo": user.info()}),
        "selfsubjectrulesreviews" => {
            let namespace = text(&spec, "namespace");
            let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
            let rules = if user.groups.iter().any(|group| group == MASTERS) {
                all
            } else {
                let rules = rules_of(store, user, &namespace).into_iter();
                rules.filter(|rule| !rule["resources"].is_null()).collect()
            };
            json!({"resourceRules": rules, "nonResourceRules": [], "incomplete": false})
        }
        _ => {
            let asking = match plural {
                "selfsubjectaccessreviews" => user.clone(),
                _ => User::of_review(&spec),
            };
            let about = &spec["resourceAttributes"];
            let part = |name: &str| about[name].as_str().unwrap_or_default();
            let resource = match part("subresource") {
                "" => part("resource").to_owned(),
                sub => format!("{}/{sub}", part("resource")),
            };
            let attempt = Attempt {
                verb: part("verb"),
                group: part("group"),
                resource: &resource,
                namespace: part("namespace"),
                name: part("name"),
            };
            json!({"allowed": about.is_object() && may(store, &asking, attempt)})
        }
    };
    question
}

/// Answers a request for a token of a service account.
pub(super) fn token_request(
    store: &mut Store,
    namespace: &str,
    name: &str,
    mut request: Value,
) -> Result<Value, Failure> {
    if store.object("serviceaccounts", namespace, name).is_none() {
        return Err(Failure::not_found("serviceaccounts", name));
    }
    let spec = &request["spec"];
    let lifetime = Duration::from_secs(spec["expirationSeconds"].as_u64().unwrap_or(3600));
    let bound = &spec["boundObjectRef"];
    let pod = if bound["kind"] == "Pod" {
        let pod_name = bound["name"].as_str().unwrap_or_default();
        let pod = store.object("pods", namespace, pod_name);
        let pod = pod.ok_or_else(|| Failure::not_found("pods", pod_name))?;
        let uid = pod["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if bound["uid"].as_str().is_some_and(|asked| asked != uid) {
            let why = "the UID in the bound object reference does not match the UID in record";
            return Err(Failure::conflict("pods", pod_name, why));
        }
        Some((pod_name.to_owned(), uid))
    } else {
        None
    };
    let token = mint(
        store,
        User::service_account(namespace, name),
        &texts(&spec["audiences"]),
        lifetime,
        Some((namespace, name)),
        pod.as_ref()
            .map(|(name, uid)| (name.as_str(), uid.as_str())),
    );
    request["status"] = json!({
        "token": token, "expirationTimestamp": time::written(SystemTime::now() + lifetime),
    });
    Ok(request)
}
