//! A sidecar that applies what a session sends always ends up with the newest content.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use prost::Message;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::update::Resource;
use weft_proto::discovery::{
    Endpoint, Endpoints, EndpointsKey, Held, NotFound, ResourceKey, ServerMessage, ServiceRef,
    SocketAddress, Update, Version, server_message,
};

use crate::serve::memo::{Compiled, endpoints_delta};
use crate::serve::session::{MAX_KEY_LEN, MAX_SUBSCRIPTIONS, Session, Step, TooMany};

fn key(index: usize) -> ResourceKey {
    let service = ServiceRef {
        namespace: "shop".to_owned(),
        name: format!("service-{index}"),
        port: 80,
    };
    let service = Some(service);
    ResourceKey {
        kind: Some(Kind::Endpoints(EndpointsKey { service })),
    }
}

/// Endpoints as a set of last address bytes, each with a weight.
fn endpoints(content: &[(u8, u32)]) -> Endpoints {
    let content: std::collections::BTreeMap<u8, u32> = content.iter().copied().collect();
    let endpoint = |(last, weight)| Endpoint {
        address: Some(SocketAddress {
            ip: vec![10, 0, 0, last],
            port: 80,
        }),
        weight,
        workload: "a name that makes a full message longer than a delta".to_owned(),
        ..Endpoint::default()
    };
    Endpoints {
        endpoints: content.into_iter().map(endpoint).collect(),
    }
}

/// What the memo does, without a model.
#[derive(Default)]
struct Contents {
    revision: u64,
    newest: HashMap<ResourceKey, Arc<Compiled>>,
}

impl Contents {
    fn put(&mut self, index: usize, content: &[(u8, u32)]) {
        self.revision += 1;
        let resource = Resource::Endpoints(endpoints(content));
        let previous = self.newest.get(&key(index)).cloned();
        if let Some(compiled) =
            Compiled::new(&key(index), resource, self.revision, previous.as_deref())
        {
            self.newest.insert(key(index), Arc::new(compiled));
        }
    }

    fn look_up(&self, key: &ResourceKey) -> (Arc<Compiled>, u64) {
        let missing = || {
            let resource = Resource::NotFound(NotFound {});
            Arc::new(Compiled::new(key, resource, 0, None).unwrap())
        };
        let compiled = self.newest.get(key).cloned().unwrap_or_else(missing);
        (compiled, self.revision)
    }
}

fn decode(message: &[u8]) -> Update {
    match ServerMessage::decode(message).unwrap().kind {
        Some(server_message::Kind::Update(update)) => update,
        other => panic!("not an update: {other:?}"),
    }
}

/// The sidecar's side.
#[derive(Default)]
struct Sidecar {
    has: HashMap<ResourceKey, Vec<Endpoint>>,
    deltas: usize,
}

impl Sidecar {
    fn apply(&mut self, update: Update) {
        let key = update.key.unwrap();
        match update.resource.unwrap() {
            Resource::Endpoints(full) => {
                self.has.insert(key, full.endpoints);
            }
            Resource::EndpointsDelta(delta) => {
                self.deltas += 1;
                let set = self.has.get_mut(&key).expect("a delta builds on something");
                let changed = |address: &Option<SocketAddress>| {
                    delta
                        .upsert
                        .iter()
                        .any(|endpoint| endpoint.address == *address)
                        || delta
                            .remove
                            .iter()
                            .any(|gone| Some(gone) == address.as_ref())
                };
                set.retain(|endpoint| !changed(&endpoint.address));
                set.extend(delta.upsert);
                set.sort_by_key(|endpoint| endpoint.address.clone().unwrap().ip);
            }
            Resource::NotFound(_) => {
                self.has.remove(&key);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Subscribe(usize),
    Unsubscribe(usize),
    Change(usize, Vec<(u8, u32)>),
    Send,
}

fn event() -> impl Strategy<Value = Event> {
    let content = prop::collection::vec((0u8..6, 1u32..3), 0..6);
    prop_oneof![
        (0usize..4).prop_map(Event::Subscribe),
        (0usize..4).prop_map(Event::Unsubscribe),
        (0usize..4, content).prop_map(|(index, content)| Event::Change(index, content)),
        Just(Event::Send),
        Just(Event::Send),
    ]
}

proptest! {
    #[test]
    fn the_sidecar_ends_with_the_newest(events in prop::collection::vec(event(), 0..80)) {
        let now = Instant::now();
        let mut contents = Contents::default();
        let mut session = Session::new(Vec::new(), now).unwrap();
        let mut sidecar = Sidecar::default();
        let mut subscribed = std::collections::BTreeSet::new();
        for event in events {
            match event {
                Event::Subscribe(index) => {
                    subscribed.insert(index);
                    prop_assert_eq!(session.subscribe(key(index)), Ok(true));
                }
                Event::Unsubscribe(index) => {
                    subscribed.remove(&index);
                    session.unsubscribe(&key(index));
                    sidecar.has.remove(&key(index));
                }
                Event::Change(index, content) => {
                    contents.put(index, &content);
                    session.touch_changed(|_| true);
                }
                Event::Send => {
                    if let Step::Send(message) = session.next(now, |key| contents.look_up(key)) {
                        sidecar.apply(decode(&message));
                    }
                }
            }
        }
        let mut sent = 0;
        while let Step::Send(message) = session.next(now, |key| contents.look_up(key)) {
            sidecar.apply(decode(&message));
            sent += 1;
        }
        prop_assert!(sent <= subscribed.len(), "one message per resource at most");
        prop_assert!(!session.has_pending());
        for index in subscribed {
            let (compiled, _) = contents.look_up(&key(index));
            let wanted = match decode(&compiled.full).resource.unwrap() {
                Resource::Endpoints(endpoints) => Some(endpoints.endpoints),
                _ => None,
            };
            prop_assert_eq!(sidecar.has.get(&key(index)), wanted.as_ref());
        }
    }

    #[test]
    fn a_delta_makes_one_set_of_another(
        before in prop::collection::vec((0u8..8, 1u32..3), 0..8),
        after in prop::collection::vec((0u8..8, 1u32..3), 0..8),
    ) {
        let (before, after) = (endpoints(&before), endpoints(&after));
        let delta = endpoints_delta(&before, &after).unwrap();
        let mut sidecar = Sidecar::default();
        sidecar.has.insert(key(0), before.endpoints.clone());
        sidecar.apply(Update {
            key: Some(key(0)),
            version: None,
            resource: Some(Resource::EndpointsDelta(delta)),
        });
        prop_assert_eq!(&sidecar.has[&key(0)], &after.endpoints);
    }
}

#[test]
fn a_small_change_travels_as_a_delta() {
    let now = Instant::now();
    let mut contents = Contents::default();
    let mut session = Session::new(Vec::new(), now).unwrap();
    let mut sidecar = Sidecar::default();
    session.subscribe(key(0)).unwrap();
    for content in [
        &[(1, 1), (2, 1), (3, 1)][..],
        &[(1, 1), (3, 1)],
        &[(1, 1), (3, 2)],
    ] {
        contents.put(0, content);
        session.touch_changed(|_| true);
        let Step::Send(message) = session.next(now, |key| contents.look_up(key)) else {
            panic!("a change is sent");
        };
        sidecar.apply(decode(&message));
    }
    assert_eq!(sidecar.deltas, 2);
    assert_eq!(sidecar.has[&key(0)], endpoints(&[(1, 1), (3, 2)]).endpoints);
}

#[test]
fn who_missed_a_version_gets_everything() {
    let now = Instant::now();
    let mut contents = Contents::default();
    let mut session = Session::new(Vec::new(), now).unwrap();
    contents.put(0, &[(1, 1), (2, 1), (3, 1)]);
    session.subscribe(key(0)).unwrap();
    assert!(matches!(
        session.next(now, |key| contents.look_up(key)),
        Step::Send(_)
    ));
    contents.put(0, &[(1, 1), (2, 1)]);
    contents.put(0, &[(1, 1)]);
    session.touch_changed(|_| true);
    let Step::Send(message) = session.next(now, |key| contents.look_up(key)) else {
        panic!("a change is sent");
    };
    assert!(matches!(
        decode(&message).resource,
        Some(Resource::Endpoints(_))
    ));
}

fn held(index: usize, version: Option<Version>) -> Held {
    Held {
        key: Some(key(index)),
        version,
    }
}

#[test]
fn what_is_held_already_is_not_sent_again() {
    let now = Instant::now();
    let mut contents = Contents::default();
    contents.put(0, &[(1, 1)]);
    let version = decode(&contents.look_up(&key(0)).0.full).version;
    let mut session = Session::new(vec![held(0, version)], now).unwrap();
    session.subscribe(key(0)).unwrap();
    assert_eq!(session.next(now, |key| contents.look_up(key)), Step::Idle);

    // A later change comes whole: this stream has sent nothing that a delta could build on.
    contents.put(0, &[(1, 1), (2, 1)]);
    session.touch_changed(|_| true);
    let Step::Send(message) = session.next(now, |key| contents.look_up(key)) else {
        panic!("a change is sent");
    };
    assert!(matches!(
        decode(&message).resource,
        Some(Resource::Endpoints(_))
    ));
}

#[test]
fn a_replica_that_lags_is_given_time() {
    let start = Instant::now();
    let patience = start + Duration::from_secs(10);
    let mut contents = Contents::default();
    contents.put(0, &[(1, 1)]);
    let ahead = Version {
        content_hash: vec![7; 16],
        source_revision: 5,
        created_at: None,
    };
    let mut session = Session::new(vec![held(0, Some(ahead))], patience).unwrap();
    session.subscribe(key(0)).unwrap();
    assert_eq!(session.next(start, |key| contents.look_up(key)), Step::Idle);
    assert_eq!(session.patience_ends(), Some(patience));

    // Still behind after a change.
    contents.put(0, &[(2, 1)]);
    session.touch_changed(|_| true);
    assert_eq!(session.next(start, |key| contents.look_up(key)), Step::Idle);

    // Caught up: sent at once.
    let mut caught_up = contents.look_up(&key(0));
    caught_up.1 = 5;
    session.touch_changed(|_| true);
    assert!(matches!(
        session.next(start, |_| caught_up.clone()),
        Step::Send(_)
    ));
    assert_eq!(session.patience_ends(), None);
}

#[test]
fn a_replica_that_never_catches_up_is_followed() {
    let start = Instant::now();
    let patience = start + Duration::from_secs(10);
    let mut contents = Contents::default();
    contents.put(0, &[(1, 1)]);
    let ahead = Version {
        content_hash: vec![7; 16],
        source_revision: 5,
        created_at: None,
    };
    let mut session = Session::new(vec![held(0, Some(ahead))], patience).unwrap();
    session.subscribe(key(0)).unwrap();
    assert_eq!(session.next(start, |key| contents.look_up(key)), Step::Idle);
    assert_eq!(session.lose_patience(), 1);
    assert!(matches!(
        session.next(patience, |key| contents.look_up(key)),
        Step::Send(_)
    ));
}

#[test]
fn subscriptions_are_bounded() {
    let now = Instant::now();
    let mut session = Session::new(Vec::new(), now).unwrap();
    for index in 0..MAX_SUBSCRIPTIONS {
        assert_eq!(session.subscribe(key(index)), Ok(true));
    }
    assert_eq!(session.subscribe(key(0)), Ok(true));
    assert_eq!(session.subscribe(key(MAX_SUBSCRIPTIONS)), Err(TooMany));
    session.unsubscribe(&key(7));
    assert_eq!(session.subscribe(key(MAX_SUBSCRIPTIONS)), Ok(true));
    let held = (0..=MAX_SUBSCRIPTIONS)
        .map(|index| held(index, None))
        .collect();
    assert_eq!(Session::new(held, now).err(), Some(TooMany));
}

#[test]
fn keys_that_nobody_knows_are_ignored() {
    let mut session = Session::new(Vec::new(), Instant::now()).unwrap();
    assert_eq!(session.subscribe(ResourceKey::default()), Ok(false));
    let authority = "x".repeat(MAX_KEY_LEN);
    let kind = Kind::Authority(weft_proto::discovery::AuthorityKey { authority });
    assert_eq!(
        session.subscribe(ResourceKey { kind: Some(kind) }),
        Ok(false)
    );
    assert!(!session.has_pending());
}
