//! Events on the owners of pods: what `kubectl describe` shows below a ReplicaSet or a Job whose pods
//! cannot be made, or have no sidecar although somebody asked for one.
//!
//! Nothing waits for them: what does not fit into the queue is lost and counted. The same reason is not
//! given for the same owner again within [`QUIET`], and all together are limited in rate, since a
//! ReplicaSet tries again and again. They are core `v1` events, which `kubectl describe` reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use metrics::Counter;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::admission::shortened;
use crate::json;

/// How long the same reason is not given again for the same owner.
pub const QUIET: Duration = Duration::from_secs(600);
/// Who says so.
pub const COMPONENT: &str = "weft.dev/injector";
/// Owners and reasons that are remembered for that.
const MAX_REMEMBERED: usize = 4_096;
/// Events that may be made at once.
const BURST: f64 = 50.0;
/// Events per second in the long run.
const RATE: f64 = 5.0;
/// Events on their way to the API server.
const MAX_WAITING: usize = 64;
/// How long the API server may take for one.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an event's text: the bound of `events.k8s.io`, as which it can be read too.
const MAX_NOTE: usize = 1_024;
/// Bytes of an event's name that are its object's; with a dot and 16 digits it stays a valid name.
const MAX_NAME: usize = 230;

/// The object that a pod is made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its API version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace, which is the pod's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Something that has become of an owner's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Who is told.
    pub regarding: Owner,
    /// Whether somebody has to do something about it.
    pub warning: bool,
    /// In one word.
    pub reason: &'static str,
    /// For people.
    pub note: String,
}

/// Makes events, and loses them where they do not fit.
#[derive(Clone, Debug)]
pub struct Events {
    gate: Arc<Mutex<Gate>>,
    waiting: mpsc::Sender<News>,
    lost: Counter,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Owner {
    /// The controller of `pod`, if it has one.
    pub fn of(pod: &Value, namespace: &str) -> Option<Self> {
        let mut owners = json::list(pod, "/metadata/ownerReferences").iter();
        let owner = owners.find(|owner| owner["controller"] == true)?;
        let part = |place| json::text(owner, place).filter(|text| !text.is_empty());
        Some(Self {
            api_version: part("/apiVersion")?.to_owned(),
            kind: part("/kind")?.to_owned(),
            namespace: namespace.to_owned(),
            name: part("/name")?.to_owned(),
            uid: part("/uid")?.to_owned(),
        })
    }
}

/// What may become an event.
#[derive(Debug)]
struct Gate {
    given: HashMap<(String, &'static str), Instant>,
    left: f64,
    filled: Instant,
}

/// Why something does not become an event, or that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Yes,
    /// It was said lately.
    Repeated,
    /// There are too many.
    Beyond,
}

impl Gate {
    fn new(now: Instant) -> Self {
        Self {
            given: HashMap::new(),
            left: BURST,
            filled: now,
        }
    }

    fn ask(&mut self, uid: &str, reason: &'static str, now: Instant) -> Pass {
        let key = (uid.to_owned(), reason);
        let is_fresh = |at: &Instant| now.duration_since(*at) < QUIET;
        if self.given.get(&key).is_some_and(is_fresh) {
            return Pass::Repeated;
        }
        if self.given.len() >= MAX_REMEMBERED {
            self.given.retain(|_, at| is_fresh(at));
        }
        let since = now.duration_since(self.filled).as_secs_f64();
        self.left = (self.left + since * RATE).min(BURST);
        self.filled = now;
        if self.left < 1.0 || self.given.len() >= MAX_REMEMBERED {
            return Pass::Beyond;
        }
        self.left -= 1.0;
        self.given.insert(key, now);
        Pass::Yes
    }
}

impl Events {
    /// Starts to make events in the name of `instance`, this replica, until the last clone is dropped.
    pub fn start(client: Client, instance: String, lost: Counter) -> Self {
        let (waiting, mut next) = mpsc::channel::<News>(MAX_WAITING);
        let lost_on_the_way = lost.clone();
        let task = tokio::spawn(async move {
            while let Some(news) = next.recv().await {
                let api: Api<Event> = Api::namespaced(client.clone(), &news.regarding.namespace);
                let event = event(&news, &instance, fastrand::u64(..), Timestamp::now());
                let params = PostParams::default();
                let why = match timeout(PATIENCE, api.create(&params, &event)).await {
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "the API server does not answer".to_owned(),
                };
                lost_on_the_way.increment(1);
                let Owner { kind, name, .. } = &news.regarding;
                tracing::debug!(%kind, %name, "an event is lost: {why}");
            }
        });
        Self {
            gate: Arc::new(Mutex::new(Gate::new(Instant::now()))),
            waiting,
            lost,
            _task: Arc::new(AbortOnDropHandle::new(task)),
        }
    }

    /// Makes an event of it, unless it was said lately or there are too many.
    pub fn tell(&self, news: News) {
        let uid = &news.regarding.uid;
        let pass = self.gate.lock().ask(uid, news.reason, Instant::now());
        let is_lost = match pass {
            Pass::Yes => self.waiting.try_send(news).is_err(),
            Pass::Repeated => false,
            Pass::Beyond => true,
        };
        if is_lost {
            self.lost.increment(1);
        }
    }
}

fn event(news: &News, instance: &str, number: u64, now: Timestamp) -> Event {
    let owner = &news.regarding;
    // Names are ASCII.
    let stem = owner.name.get(..MAX_NAME).unwrap_or(&owner.name);
    let stem = stem.trim_end_matches(['.', '-']);
    let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{stem}.{number:016x}")),
            namespace: Some(owner.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.clone()),
            namespace: Some(owner.namespace.clone()),
            name: Some(owner.name.clone()),
            uid: Some(owner.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(if news.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(news.reason.to_owned()),
        message: Some(shortened(news.note.clone(), MAX_NOTE)),
        action: Some("Injecting".to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(seconds)),
        last_timestamp: Some(Time(seconds)),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            ..EventSource::default()
        }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owner(name: &str) -> Owner {
        Owner {
            api_version: "apps/v1".to_owned(),
            kind: "ReplicaSet".to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
        }
    }

    #[test]
    fn the_owner_is_the_controller() {
        let reference = |name: &str, controller: Value| {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": format!("uid-{name}"),
                "controller": controller})
        };
        let pod = |owners: Value| json!({"metadata": {"ownerReferences": owners}});
        let both = pod(json!([
            reference("a", json!(false)),
            reference("b", json!(true))
        ]));
        assert_eq!(Owner::of(&both, "shop"), Some(owner("b")));
        for none in [
            json!({}),
            pod(Value::Null),
            pod(json!([reference("a", Value::Null)])),
            pod(json!([{"controller": true, "name": "a"}])),
            pod(json!("x")),
        ] {
            assert_eq!(Owner::of(&none, "shop"), None, "{none}");
        }
    }

    #[test]
    fn a_gate_says_things_once_and_is_bounded() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        assert_eq!(gate.ask("a", "R", start), Pass::Yes);
        assert_eq!(gate.ask("a", "R", start + QUIET / 2), Pass::Repeated);
        assert_eq!(gate.ask("a", "Other", start + QUIET / 2), Pass::Yes);
        assert_eq!(gate.ask("a", "R", start + QUIET), Pass::Yes);

        let mut gate = Gate::new(start);
        let mut given = 0.0;
        for index in 0..200 {
            let pass = gate.ask(&index.to_string(), "R", start);
            given += f64::from(u8::from(pass == Pass::Yes));
        }
        assert!((given - BURST).abs() < 0.5, "{given}");
        for index in 0..2 * MAX_REMEMBERED {
            let now = start + Duration::from_secs(1) * (index as u32 / 5);
            gate.ask(&format!("more {index}"), "R", now);
            assert!(gate.given.len() <= MAX_REMEMBERED);
        }
    }

    #[test]
    fn an_event_is_one_that_servers_take() {
        let news = News {
            regarding: owner(&format!("{}.", "n".repeat(252))),
            warning: true,
            reason: "InjectionRefused",
            note: "wrong\n".repeat(1_000),
        };
        let event = event(&news, "injector-1", 7, Timestamp::UNIX_EPOCH);
        let name = event.metadata.name.expect("a name");
        assert!(
            name.len() <= 253 && name.ends_with("n.0000000000000007"),
            "{name}"
        );
        let message = event.message.expect("a message");
        assert!(message.len() <= MAX_NOTE && message.ends_with('…'));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.involved_object.uid, Some(news.regarding.uid));
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
    }
}
