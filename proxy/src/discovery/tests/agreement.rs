use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What a control plane does to one set of endpoints.
#[derive(Clone, Debug)]
enum Act {
    /// Sends the set whole.
    Full(Vec<u8>),
    /// Sends a change.
    Delta(Vec<u8>, Vec<u8>),
    /// Sends a change that cannot be read.
    Broken(Vec<u8>),
    /// Loses the stream, changes, and is found again.
    Lost(Vec<u8>),
}

fn act() -> impl Strategy<Value = Act> {
    let lasts = || proptest::collection::vec(1_u8..9, 0..4);
    prop_oneof![
        lasts().prop_map(Act::Full),
        (lasts(), lasts()).prop_map(|(upsert, remove)| Act::Delta(upsert, remove)),
        lasts().prop_map(Act::Broken),
        lasts().prop_map(Act::Lost),
    ]
}

proptest! {
    /// After every good message, and whatever came before, the sidecar has what the control plane
    /// believes that it has; a broken one changes nothing.
    #[test]
    fn sidecar_and_control_plane_agree(acts in proptest::collection::vec(act(), 1..30)) {
        let Bench { discovery, mut changes, identity } = Bench::new();
        let shared = &discovery.0;
        let watched = discovery.endpoints(&cart());
        let key = Key::Endpoints(cart());
        let now = Instant::now();

        // The control plane's: the set, as it believes to have sent it, and its revision.
        let mut set = BTreeSet::new();
        let hash = |set: &BTreeSet<u8>| {
            std::iter::once(0).chain(set.iter().copied()).collect::<Vec<u8>>()
        };
        let mut session = Session::open(shared, &identity, &mut changes);
        tell(&mut session, hello_reply());
        drain(&mut session);
        for (revision, act) in (1..).zip(acts) {
            let before = watched.load();
            let mut good = true;
            let resource = match act {
                Act::Full(lasts) => {
                    set = lasts.iter().copied().collect();
                    Some(full(&lasts))
                }
                Act::Delta(upsert, remove) => {
                    set.retain(|last| !remove.contains(last));
                    set.extend(upsert.iter().copied());
                    Some(delta(&upsert, &remove))
                }
                Act::Broken(upsert) => {
                    good = false;
                    set.extend(upsert.iter().copied());
                    let mut broken = delta(&upsert, &[]);
                    if let Resource::EndpointsDelta(delta) = &mut broken {
                        delta.remove.push(wire::SocketAddress::default());
                    }
                    Some(broken)
                }
                Act::Lost(lasts) => {
                    set = lasts.iter().copied().collect();
                    session = Session::open(shared, &identity, &mut changes);
                    tell(&mut session, hello_reply());
                    let held = drain(&mut session).into_iter().find_map(|said| match said {
                        Said::Hello(hello) => Some(hello.held),
                        _ => None,
                    });
                    let same = |held: &wire::Held| {
                        held.version.as_ref().is_some_and(|it| it.content_hash == hash(&set))
                    };
                    let unchanged = held.unwrap().iter().any(same);
                    (!unchanged).then(|| full(&lasts))
                }
            };
            let send = |session: &mut Session<'_>, resource| {
                let update = wire::Update {
                    key: Some(key.to_wire()),
                    version: Some(wire::Version {
                        content_hash: hash(&set),
                        source_revision: revision,
                        created_at: None,
                    }),
                    resource: Some(resource),
                };
                let message = wire::ServerMessage { kind: Some(Say::Update(update)) };
                session.on_message(message, now).unwrap();
                drain(session)
            };
            if let Some(resource) = resource {
                let said = send(&mut session, resource);
                if said.iter().any(|it| matches!(it, Said::Subscribe(_))) {
                    let lasts: Vec<_> = set.iter().copied().collect();
                    let said = send(&mut session, full(&lasts));
                    prop_assert!(matches!(&said[..], [Said::Ack(_)]));
                } else if !good {
                    prop_assert!(matches!(&said[..], [Said::Nack(_)]));
                }
            }
            if good {
                let expected: Vec<_> = set.iter().map(|last| address(*last)).collect();
                prop_assert_eq!(addresses(&watched), expected);
            } else {
                let after = watched.load();
                prop_assert_eq!(before.as_deref(), after.as_deref());
            }
        }
    }
}
