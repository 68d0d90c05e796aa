//! Who somebody is and what they may do: tokens, reviews, roles.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::failure::Failure;
use super::json::{covers, entries, text, texts, written};
use super::selectors::Selector;
use super::store::Store;

/// For whom tokens are that name nobody.
const DEFAULT_AUDIENCE: &str = "https://kubernetes.default.svc";

/// Who may do everything.
pub(super) const MASTERS: &str = "system:masters";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Somebody who was recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// As `system:serviceaccount:NAMESPACE:NAME`.
    pub name: String,
    /// Groups, with `system:authenticated`.
    pub groups: Vec<String>,
    uid: String,
    extra: BTreeMap<&'static str, Vec<String>>,
}

impl User {
    /// Somebody in these groups, beside `system:authenticated`.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().copied().chain(["system:authenticated"]);
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

    /// Namespace and name of the account, if it is one.
    fn account(&self) -> Option<(&str, &str)> {
        let name = self.name.strip_prefix("system:serviceaccount:")?;
        name.split_once(':')
    }

    /// The same, in a pod of this name and uid.
    pub(super) fn of_pod(mut self, (name, uid): (&str, &str)) -> Self {
        self.extra = [
            (POD_NAME, vec![name.to_owned()]),
            (POD_UID, vec![uid.to_owned()]),
        ]
        .into();
        self
    }

    pub(super) fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }

    fn info(&self) -> Value {
        json!({"username": self.name, "uid": self.uid, "groups": self.groups, "extra": self.extra})
    }
}

/// A token that was given out.
#[derive(Clone, Debug)]
pub(super) struct Token {
    user: User,
    audiences: Vec<String>,
    ends: SystemTime,
}

impl Token {
    pub(super) fn new(user: User, mut audiences: Vec<String>, lifetime: Duration) -> Self {
        if audiences.is_empty() {
            audiences.push(DEFAULT_AUDIENCE.to_owned());
        }
        let ends = SystemTime::now() + lifetime;
        Self {
            user,
            audiences,
            ends,
        }
    }

    /// Gives it out: from now on the store knows the text.
    pub(super) fn mint(self, store: &mut Store) -> String {
        let ends = self.ends.duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = json!({"sub": self.user.name, "aud": self.audiences, "exp": ends.as_secs()});
        let [header, claims] =
            [json!({"alg": "none"}), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let minted = format!("{header}.{claims}.{:032x}", fastrand::u128(..));
        store.tokens.insert(minted.clone(), self);
        minted
    }
}

/// The user of a token, and for which of these audiences it is.
pub(super) fn recognise(
    store: &Store,
    token: &str,
    audiences: &[String],
) -> Result<(User, Vec<String>), &'static str> {
    let token = store.tokens.get(token).ok_or("invalid bearer token")?;
    if token.ends <= SystemTime::now() {
        return Err("token has expired");
    }
    let default = &[DEFAULT_AUDIENCE.to_owned()][..];
    let asked = [audiences, default][usize::from(audiences.is_empty())].iter();
    let audiences = asked
        .filter(|asked| token.audiences.contains(asked))
        .cloned();
    let audiences: Vec<String> = audiences.collect();
    if audiences.is_empty() {
        return Err("token audiences are not valid for the target");
    }
    let mut user = token.user.clone();
    if let Some((namespace, account)) = user.account() {
        let found = store.object(("serviceaccounts", namespace, account));
        let found = found.ok_or("service account has been deleted")?;
        text(&found["metadata"]["uid"]).clone_into(&mut user.uid);
    }
    if let (Some(name), Some(uid)) = (user.extra.get(POD_NAME), user.extra.get(POD_UID)) {
        let (namespace, _) = user.account().unwrap_or_default();
        let pod = store.object(("pods", namespace, &name[0]));
        if pod.is_none_or(|pod| pod["metadata"]["uid"] != uid[0]) {
            return Err("pod has been deleted");
        }
    }
    Ok((user, audiences))
}

/// Why somebody may not do something, as attributes of a review name it.
pub(super) fn forbidden(user: &User, attributes: &Value) -> Failure {
    let part = |name: &str| text(&attributes[name]);
    let (group, resource, verb) = (part("group"), resource(attributes), part("verb"));
    let id = super::kinds::id(group, part("resource"));
    let place = match part("namespace") {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let name = &user.name;
    let message = format!(
        "{id} is forbidden: User {name:?} cannot {verb} resource {resource:?} in API group \
         {group:?} {place}"
    );
    Failure::new(403, message)
}

/// As rules name it: `pods`, or `pods/status`.
pub(super) fn resource(attributes: &Value) -> String {
    let resource = text(&attributes["resource"]);
    match text(&attributes["subresource"]) {
        "" => resource.to_owned(),
        sub => format!("{resource}/{sub}"),
    }
}

/// Whether the roles allow what attributes of a review name.
pub(super) fn may(store: &Store, user: &User, attributes: &Value) -> bool {
    let part = |name: &str| text(&attributes[name]);
    let rules = rules_of(store, user, part("namespace"));
    let mut rules = rules.iter().filter(|rule| {
        let names = &rule["resourceNames"];
        covers(&rule["verbs"], part("verb"))
            && covers(&rule["apiGroups"], part("group"))
            && covers(&rule["resources"], &resource(attributes))
            && (entries(names).next().is_none() || covers(names, part("name")))
    });
    // Everybody may ask about themselves.
    user.is_master() || part("resource").starts_with("selfsubject") || rules.next().is_some()
}

/// The rules that hold for somebody in a namespace.
fn rules_of(store: &Store, user: &User, namespace: &str) -> Vec<Value> {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let mut bindings = store.all(&format!("clusterrolebindings.{GROUP}"), "");
    if !namespace.is_empty() {
        bindings.extend(store.all(&format!("rolebindings.{GROUP}"), namespace));
    }
    bindings.retain(|binding| {
        entries(&binding["subjects"]).any(|subject| {
            let name = text(&subject["name"]);
            match text(&subject["kind"]) {
                "Group" => user.groups.iter().any(|group| group == name),
                "ServiceAccount" => {
                    let here = text(&binding["metadata"]["namespace"]);
                    let namespace = subject["namespace"].as_str().unwrap_or(here);
                    user.name == format!("system:serviceaccount:{namespace}:{name}")
                }
                _ => user.name == name,
            }
        })
    });
    let mut rules = Vec::new();
    for reference in bindings.iter().map(|binding| &binding["roleRef"]) {
        let name = text(&reference["name"]);
        let role = match text(&reference["kind"]) {
            "ClusterRole" => store.object((&format!("clusterroles.{GROUP}"), "", name)),
            _ => store.object((&format!("roles.{GROUP}"), namespace, name)),
        };
        let Some(role) = role else { continue };
        rules.extend(entries(&role["rules"]).cloned());
        let aggregated = entries(&role["aggregationRule"]["clusterRoleSelectors"]);
        for selector in aggregated.map(Selector::of_object) {
            let mut parts = store.all(&format!("clusterroles.{GROUP}"), "");
            parts.retain(|role| selector.selects(role));
            for part in parts {
                rules.extend(entries(&part["rules"]).cloned());
            }
        }
    }
    rules
}

/// Answers a question: the object with its status.
pub(super) fn answer(store: &Store, user: &User, plural: &str, question: &Value) -> Value {
    let spec = &question["spec"];
    let about = &spec["resourceAttributes"];
    let status = match plural {
        "tokenreviews" => {
            let found = recognise(store, text(&spec["token"]), &texts(&spec["audiences"]));
            let found = found.map(|(user, audiences)| {
                json!({"authenticated": true, "user": user.info(), "audiences": audiences})
            });
            found.unwrap_or_else(|error| json!({"user": {}, "error": error}))
        }
        "selfsubjectrulesreviews" => {
            let mut rules = rules_of(store, user, text(&spec["namespace"]));
            rules.retain(|rule| !rule["resources"].is_null());
            if user.is_master() {
                rules = vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})];
            }
            json!({"resourceRules": rules, "nonResourceRules": [], "incomplete": false})
        }
        _ => {
            let mut asking = user.clone();
            if plural == "subjectaccessreviews" {
                text(&spec["user"]).clone_into(&mut asking.name);
                asking.groups = texts(&spec["groups"]);
            }
            json!({"allowed": about.is_object() && may(store, &asking, about)})
        }
    };
    let mut answer = question.clone();
    answer["status"] = status;
    answer
}

/// Answers a request for a token of a service account.
pub(super) fn token_request(
    store: &mut Store,
    (namespace, account): (&str, &str),
    request: &Value,
) -> Result<Value, Failure> {
    let known = store.object(("serviceaccounts", namespace, account));
    known.ok_or_else(|| Failure::not_found("serviceaccounts", account))?;
    let spec = &request["spec"];
    let lifetime = Duration::from_secs(spec["expirationSeconds"].as_u64().unwrap_or(3600));
    let mut user = User::service_account(namespace, account);
    let bound = &spec["boundObjectRef"];
    if bound["kind"] == "Pod" {
        let name = text(&bound["name"]);
        let pod = store.object(("pods", namespace, name));
        let pod = pod.ok_or_else(|| Failure::not_found("pods", name))?;
        let uid = text(&pod["metadata"]["uid"]);
        if bound["uid"].as_str().is_some_and(|asked| asked != uid) {
            return Err(Failure::conflict(
                "pods",
                name,
                "it has another UID than the reference",
            ));
        }
        user = user.of_pod((name, uid));
    }
    let token = Token::new(user, texts(&spec["audiences"]), lifetime);
    let ends = written(token.ends);
    let mut answer = request.clone();
    answer["status"] = json!({"token": token.mint(store), "expirationTimestamp": ends});
    Ok(answer)
}
