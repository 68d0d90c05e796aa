//! Which weights come of what is wanted, who moves, and what is left of a file.

use std::fs;
use std::path::PathBuf;

use clap::Parser as _;
use proptest::prelude::*;
use serde_json::json;

use super::model::{Endpoint, Side, State};
use super::plan::movements;
use super::*;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(subcommand)]
    command: CanaryCommand,
}

fn of(args: &[&str]) -> Of {
    let line = ["canary", "get"].into_iter().chain(args.iter().copied());
    match Line::try_parse_from(line).unwrap().command {
        CanaryCommand::Get(get) => get.of,
        other => panic!("{other:?}"),
    }
}

fn side(name: &str, weight: u32) -> Side {
    let ready = true;
    let name = name.to_owned();
    Side {
        endpoints: Some(vec![Endpoint {
            name: format!("{name}-1"),
            ready,
        }]),
        name,
        weight,
        forced: false,
    }
}

fn canary(weights: &[u32]) -> Canary {
    let names = ["v1", "v2", "v3", "v4"];
    let sides = names.iter().zip(weights);
    Canary {
        namespace: "default".to_owned(),
        service: "shop".to_owned(),
        section: None,
        policy: "shop".to_owned(),
        place: None,
        sticky: Some("cookie weft-canary".to_owned()),
        when_empty: "Fail".to_owned(),
        mirror: None,
        backends: sides.map(|(name, weight)| side(name, *weight)).collect(),
        proxies: None,
        programmed: None,
        routes: Vec::new(),
    }
}

fn set(weights: &[(&str, u32)]) -> Wanted {
    Wanted::Set(
        weights
            .iter()
            .map(|(name, weight)| ((*name).to_owned(), *weight))
            .collect(),
    )
}

fn plan(before: &[u32], wanted: &Wanted) -> Plan {
    Plan::of(&canary(before), wanted, false).unwrap()
}

#[test]
fn what_is_wanted_becomes_weights() {
    assert_eq!(plan(&[95, 5], &set(&[("v2", 10)])).after, [95, 10]);
    assert_eq!(plan(&[95, 5], &Wanted::Abort).after, [100, 0]);
    assert_eq!(plan(&[95, 5], &Wanted::Promote(None)).after, [0, 100]);
    let second = Wanted::Promote(Some("v2".to_owned()));
    assert_eq!(plan(&[95, 5, 3], &second).after, [0, 103, 0]);
    let most = plan::MAX_WEIGHT;
    assert_eq!(plan(&[most, most], &Wanted::Abort).after, [most, 0]);
    let same = plan(&[95, 5], &set(&[("v1", 95)]));
    assert!(!same.changes() && same.moves.is_empty() && same.warnings.is_empty());
}

#[test]
fn what_may_not_be_is_refused() {
    let refused = |canary: &Canary, wanted: &Wanted| Plan::of(canary, wanted, false).unwrap_err();
    let good = canary(&[95, 5]);
    for (wanted, words) in [
        (
            set(&[("v9", 1)]),
            "v9 is no backend of the policy shop, which has v1, v2",
        ),
        (set(&[("v1", 0), ("v2", 0)]), "every request would fail"),
        (set(&[("v2", 1), ("v2", 2)]), "v2 is there twice"),
        (Wanted::Promote(Some("x".to_owned())), "x is no backend"),
    ] {
        let why = refused(&good, &wanted);
        assert!(why.contains(words), "{why}");
    }
    let mut routed = good.clone();
    routed.routes.push("HTTPRoute shop".to_owned());
    let why = refused(&routed, &Wanted::Abort);
    assert!(why.starts_with("HTTPRoute shop holds the weights"), "{why}");
    let mut copied = canary(&[100, 0]);
    copied.mirror = Some("v2".to_owned());
    let why = refused(&copied, &Wanted::Promote(None));
    assert!(why.contains("v2 gets copies"), "{why}");
}

#[test]
fn traffic_to_where_nobody_is_wants_force() {
    let mut empty = canary(&[95, 5]);
    for endpoints in [
        Vec::new(),
        vec![Endpoint {
            name: "v2-1".to_owned(),
            ready: false,
        }],
    ] {
        empty.backends[1].endpoints = Some(endpoints);
        let more = set(&[("v2", 10)]);
        let why = Plan::of(&empty, &more, false).unwrap_err();
        assert!(
            why.contains("v2 has no endpoint") && why.contains("--force"),
            "{why}"
        );
        assert_eq!(Plan::of(&empty, &more, true).unwrap().warnings.len(), 1);
        // Away from it is always good.
        assert!(Plan::of(&empty, &Wanted::Abort, false).is_ok());
    }
    empty.when_empty = "NextBackend".to_owned();
    let plan = Plan::of(&empty, &set(&[("v2", 10)]), false).unwrap();
    assert!(plan.warnings[0].contains("the next backend"), "{plan:?}");
    // Where nobody knows, nobody is stopped.
    empty.when_empty = "Fail".to_owned();
    empty.backends[1].endpoints = None;
    assert!(Plan::of(&empty, &set(&[("v2", 10)]), false).is_ok());
}

#[test]
fn users_who_move_are_counted() {
    let forth = plan(&[90, 10], &set(&[("v1", 80), ("v2", 20)]));
    assert_eq!(forth.moves.len(), 1);
    let one = &forth.moves[0];
    assert_eq!((&*one.from, &*one.to), ("v1", "v2"));
    assert!((one.percent - 10.0).abs() < 1e-9);
    assert!(forth.warnings.is_empty(), "{forth:?}");

    let back = plan(&[80, 20], &set(&[("v1", 90), ("v2", 10)]));
    assert_eq!(
        back.warnings,
        ["10.00 % of all users go back from v2 to v1"]
    );

    // The middle keeps its share and loses its users to the last.
    let through = plan(&[90, 5, 5], &set(&[("v1", 80), ("v3", 15)]));
    assert_eq!(through.warnings.len(), 1, "{through:?}");
    assert!(
        through.warnings[0].starts_with("15.00 % of all users change sides where 10.00 %"),
        "{through:?}"
    );

    // To end a canary is to send its users back, which needs no warning.
    let end = plan(&[80, 20], &Wanted::Abort);
    assert!(end.warnings.is_empty() && (end.moves[0].percent - 20.0).abs() < 1e-9);

    let mut by_chance = canary(&[80, 20]);
    by_chance.sticky = None;
    let plan = Plan::of(&by_chance, &set(&[("v2", 0)]), false).unwrap();
    assert!(plan.moves.is_empty() && plan.warnings.is_empty());
}

/// As a sidecar chooses: proxy/src/resilience/split.rs.
fn chosen(weights: &[u32], point: u64) -> Option<usize> {
    let total: u128 = weights.iter().copied().map(u128::from).sum();
    let position = (u128::from(point) * total) >> 64;
    let mut end = 0;
    weights.iter().position(|weight| {
        end += u128::from(*weight);
        position < end
    })
}

proptest! {
    /// Against sidecars' own choice, at ten thousand points.
    #[test]
    fn movements_are_those_of_sidecars(
        (before, after) in (2..6_usize).prop_flat_map(|sides| {
            let weights = prop::collection::vec(0..200_u32, sides)
                .prop_filter("a weight", |all| all.iter().any(|weight| *weight > 0));
            (weights.clone(), weights)
        }),
    ) {
        const POINTS: u64 = 10_000;
        let movements = movements(&before, &after);
        let mut counted = std::collections::BTreeMap::new();
        for number in 0..POINTS {
            let point = u64::MAX / POINTS * number;
            let (from, to) = (chosen(&before, point).unwrap(), chosen(&after, point).unwrap());
            if from != to {
                *counted.entry((from, to)).or_insert(0_u64) += 1;
            }
        }
        for from in 0..before.len() {
            for to in 0..before.len() {
                let said: f64 = movements.iter().filter(|it| (it.0, it.1) == (from, to)).map(|it| it.2).sum();
                let counted = *counted.get(&(from, to)).unwrap_or(&0) as f64 * 100.0 / POINTS as f64;
                prop_assert!((said - counted).abs() < 0.05, "{from} {to}: {said} {counted}");
            }
        }
    }

    /// Whatever the weights, a file keeps everything else; and the same weights again change nothing.
    #[test]
    fn a_file_keeps_all_but_its_weights(first in 0..1_000_001_u32, second in 1..1_000_001_u32) {
        let changed = edit::with_weights(FILE, 1, &[first, second]).unwrap();
        let wanted = FILE
            .replacen("weight: 95 ", &format!("weight: {first} "), 1)
            .replacen("weight: 5}", &format!("weight: {second}}}"), 1);
        prop_assert_eq!(&changed, &wanted);
        prop_assert_eq!(edit::with_weights(&changed, 1, &[first, second]).unwrap(), changed);
    }
}

const FILE: &str = "\
# Größe: a comment, weight: 95
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: other, namespace: default}
spec: {targetRefs: [{kind: Service, name: cart}], retries: {}}
--- # the canary
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata:
  name: shop   # of the shop
spec:
  targetRefs: [{kind: Service, name: shop}]

  split:
    backends:
      - name: shop-v1
        weight: 95    # most
      - {matches: [{headers: [{name: x-who, value: \"Jürgen, weight: 5\"}]}], name: shop-v2, weight: 5}  # few
    sticky: {type: Cookie}
...
";

#[test]
fn what_cannot_be_changed_in_place_is_refused() {
    let in_hex = FILE.replacen("weight: 95 ", "weight: 0x5f ", 1);
    let unwritten = FILE.replacen("        weight: 95    # most\n", "", 1);
    let by_alias =
        FILE.replacen("weight: 95 ", "weight: &w 95 ", 1)
            .replacen("weight: 5}", "weight: *w}", 1);
    for (text, weights, words) in [
        (&in_hex, [90, 10], "not written as the number"),
        (&unwritten, [90, 10], "means 1"),
        (&by_alias, [90, 10], "not written as the number"),
        // The other one would come along.
        (&by_alias, [90, 95], "more than the weights"),
    ] {
        let why = edit::with_weights(text, 1, &weights).expect_err(text);
        assert!(why.contains(words), "{why}");
    }
    // What stays need not be written.
    assert_eq!(
        edit::with_weights(&unwritten, 1, &[1, 5]).unwrap(),
        unwritten
    );
    assert!(
        edit::with_weights(FILE, 0, &[1, 2]).is_err(),
        "no split there"
    );
    assert!(
        edit::with_weights(FILE, 2, &[1, 2]).is_err(),
        "no such document"
    );
    assert!(edit::with_weights(FILE, 1, &[1]).is_err(), "other backends");
}

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let name = format!("weft-canary-{}-{:x}", std::process::id(), fastrand::u64(..));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap();
    }

    fn of(&self, more: &[&str]) -> Of {
        let dir = self.0.display().to_string();
        of(&[&["shop", "-f", &dir][..], more].concat())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const MESH: &str = "\
trustDomain: cluster.local
networks: [10.0.0.0/8]
workloads:
- {name: shop-1, addresses: [10.0.0.1], ports: [{port: 8080}]}
services:
- {name: shop, clusterIPs: [10.9.0.1], ports: [{port: 80, targetPort: 8080}], endpoints: [{workload: shop-1}]}
- {name: shop-v1, clusterIPs: [10.9.0.2], ports: [{port: 80, targetPort: 8080}], endpoints: [{workload: shop-1}]}
- {name: shop-v2, clusterIPs: [10.9.0.3], ports: [{port: 80, targetPort: 8080}]}
";

#[test]
fn a_file_is_found_changed_and_nothing_left_behind() {
    let dir = Dir::new();
    dir.write("policies.yaml", FILE);
    dir.write(".hidden.yaml", FILE);
    dir.write("notes.txt", FILE);
    let found = files::find(&dir.of(&[])).unwrap();
    let place = found.canary.place.as_deref().unwrap();
    assert!(place.ends_with("policies.yaml:6"), "{place}");
    assert_eq!(found.canary.weights(), [95, 5]);
    assert!(found.canary.backends[1].forced);
    assert_eq!(
        found.canary.backends[0].ready(),
        None,
        "no mesh is among the files"
    );
    let plan = Plan::of(
        &found.canary,
        &set(&[("shop-v1", 80), ("shop-v2", 20)]),
        false,
    )
    .unwrap();
    found.write(&plan).unwrap();
    assert_eq!(
        files::find(&dir.of(&[])).unwrap().canary.weights(),
        [80, 20]
    );
    let text = fs::read_to_string(dir.0.join("policies.yaml")).unwrap();
    let wanted =
        FILE.replacen("weight: 95 ", "weight: 80 ", 1)
            .replacen("weight: 5}", "weight: 20}", 1);
    assert_eq!(text, wanted);
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 3, "no draft stays");

    // Somebody else writes between looking and writing.
    let found = files::find(&dir.of(&[])).unwrap();
    dir.write("policies.yaml", FILE);
    let plan = Plan::of(&found.canary, &Wanted::Abort, false).unwrap();
    let Err(Trouble::Refused(why)) = found.write(&plan) else {
        panic!("written over somebody");
    };
    assert!(why.contains("somebody else"), "{why}");
    assert_eq!(
        fs::read_to_string(dir.0.join("policies.yaml")).unwrap(),
        FILE
    );
}

#[test]
fn endpoints_are_those_of_the_mesh() {
    let dir = Dir::new();
    dir.write("policies.yaml", FILE);
    dir.write("mesh.yaml", MESH);
    let found = files::find(&dir.of(&[])).unwrap();
    let ready = found.canary.backends.iter().map(Side::ready);
    assert_eq!(ready.collect::<Vec<_>>(), [Some((1, 1)), Some((0, 0))]);
    let text = text::shown(&found.canary, Paint::plain());
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
    let sides: Vec<_> = text
        .lines()
        .skip_while(|line| !line.starts_with("BACKEND"))
        .collect();
    assert_eq!(
        sides,
        [
            "BACKEND  WEIGHT  SHARE    READY   ENDPOINTS",
            "shop-v1  95      95.00 %  1 of 1  shop-1",
            "shop-v2  5       5.00 %   0 of 0  and by matches",
        ]
    );
}

#[test]
fn only_one_policy_is_meant() {
    let dir = Dir::new();
    dir.write("a.yaml", FILE);
    dir.write("b.yaml", &FILE.replace("name: shop   #", "name: more   #"));
    let refused = |of: &Of| match files::find(of) {
        Err(Trouble::Refused(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("found"),
    };
    let why = refused(&dir.of(&[]));
    assert!(
        why.contains("shop, more") && why.contains("--policy"),
        "{why}"
    );
    let found = files::find(&dir.of(&["--policy", "more"])).unwrap();
    assert_eq!(found.canary.policy, "more");
    let why = refused(&dir.of(&["-n", "elsewhere"]));
    assert!(
        why.contains("no TrafficPolicy has split.backends for the service elsewhere/shop"),
        "{why}"
    );
    let route = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: shop}]
  rules: [{backendRefs: [{name: shop-v1, port: 80, weight: 1}]}]
";
    dir.write("route.yaml", route);
    let found = files::find(&dir.of(&["--policy", "more"])).unwrap();
    let why = Plan::of(&found.canary, &Wanted::Abort, false).unwrap_err();
    assert!(
        why.starts_with("HTTPRoute shop holds the weights of shop"),
        "{why}"
    );
}

#[test]
fn what_the_control_plane_says_is_of_this_generation() {
    let status = |observed: i64, programmed: &str| {
        json!({
            "conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": observed},
                {"type": "Programmed", "status": programmed, "reason": "Pending", "message": "on its way",
                 "observedGeneration": observed},
            ],
            "proxies": {"acknowledged": 1, "total": 2},
        })
    };
    assert_eq!(policy::said(&status(3, "True"), 4), (None, None));
    assert_eq!(policy::said(&json!(null), 1), (None, None));
    let state = |status: &serde_json::Value| policy::said(status, 4).1.unwrap().state;
    let mut on_its_way = status(4, "False");
    on_its_way["conditions"][1]["reason"] = "Reconciling".into();
    let (proxies, programmed) = policy::said(&on_its_way, 4);
    assert_eq!(proxies.map(|it| (it.acknowledged, it.total)), Some((1, 2)));
    let programmed = programmed.unwrap();
    assert_eq!(programmed.state, State::OnItsWay);
    assert_eq!(programmed.message, "Reconciling: on its way");
    assert_eq!(state(&status(4, "True")), State::Everywhere);
    let mut nobody = status(4, "Unknown");
    nobody["conditions"][1]["reason"] = "NoSidecars".into();
    assert_eq!(state(&nobody), State::NoSidecars);
    let mut refused = status(4, "True");
    refused["conditions"][0]["status"] = "False".into();
    refused["conditions"][0]["message"] = "no such service".into();
    let (_, programmed) = policy::said(&refused, 4);
    let programmed = programmed.unwrap();
    assert_eq!(programmed.state, State::Refused);
    assert!(
        programmed.message.ends_with("no such service"),
        "{programmed:?}"
    );
    assert_eq!(state(&status(4, "False")), State::Refused);
}
