use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::policy::TrafficPolicy;

/// Texts that a pattern of the schema matches; the first ones of durations are in order.
fn texts(pattern: &str) -> &'static [&'static str] {
    use crate::policy::schema::words::{
        GROUP, GRPC_METHOD, GRPC_SERVICE, HEADER_VALUE, LABEL, LABEL_VALUE, PATH, PLAIN_PATH,
        SERVICE_ACCOUNT, SPIFFE_ID, SUBDOMAIN, TOKEN,
    };
    match pattern {
        crate::policy::DURATION_PATTERN => &[
            "0s", "1ms", "250ms", "1s", "1m", "5m", "1h", "1h30m", "99999h",
        ],
        LABEL | SUBDOMAIN | SERVICE_ACCOUNT => &["a", "web", "checkout-2", "x1"],
        LABEL_VALUE => &["", "a_b"],
        GROUP => &["", "", "", "apps"],
        TOKEN => &["x-user", "beta", "X-Canary", "connection"],
        HEADER_VALUE => &["", "text/plain", "a b"],
        PATH => &["/", "/orders"],
        PLAIN_PATH => &["/", "/orders", "/.well-known/a..b/", "/caf\u{e9}/%20"],
        SPIFFE_ID => &["spiffe://cluster.local/ns/a/sa/b", "spiffe://x/*"],
        GRPC_SERVICE | GRPC_METHOD => &["Quotes", "_x"],
        other => panic!("{other}"),
    }
}

/// Makes values of a schema: mostly good ones.
struct Maker {
    rng: fastrand::Rng,
}

impl Maker {
    fn value(&mut self, schema: &Schema, path: &str) -> Value {
        match schema.kind {
            Kind::Boolean => self.rng.bool().into(),
            Kind::Integer => {
                let (least, most) = (schema.range.0.unwrap_or(0), schema.range.1.unwrap_or(9));
                let few = most.min(least + 20);
                match self.rng.u8(..8) {
                    0 => least.into(),
                    1 => most.into(),
                    _ => self.rng.i64(least..=few).into(),
                }
            }
            Kind::String if !schema.words.is_empty() => {
                let word = &schema.words[self.rng.usize(..schema.words.len())];
                word.as_str().into()
            }
            Kind::String => match &schema.pattern {
                Some((pattern, _)) => {
                    let texts = texts(pattern);
                    texts[self.rng.usize(..texts.len())].into()
                }
                None => ["/a", "b", "c.d"][self.rng.usize(..3)].into(),
            },
            Kind::Array => {
                let most = schema.size.1.unwrap_or(2).min(3);
                let least = schema.size.0.unwrap_or(0);
                let items = schema.items.as_deref().unwrap();
                let count = self.rng.usize(least..=most);
                (0..count)
                    .map(|at| self.value(items, &entry(path, at)))
                    .collect()
            }
            Kind::Object => self.object(schema, path),
            other => panic!("the schema has no {other:?}"),
        }
    }

    fn object(&mut self, schema: &Schema, path: &str) -> Value {
        let mut fields = Map::new();
        // One stanza is enough to be asked about, and all of them are seldom good together.
        let one_in = match path {
            "" | "metadata" => u8::MAX,
            "spec" => 6,
            _ => 3,
        };
        for (name, property) in &schema.properties {
            if schema.required.contains(name) || self.rng.u8(..one_in) == 0 {
                let value = self.value(property, &field(path, name));
                fields.insert(name.clone(), value);
            }
        }
        Value::Object(fields)
    }

    /// Spoils one place.
    fn spoil(&mut self, value: &mut Value) {
        let deeper = self.rng.u8(..4) > 0;
        match value {
            Value::Object(fields) if deeper && !fields.is_empty() => {
                let at = self.rng.usize(..fields.len());
                if let Some((_, value)) = fields.iter_mut().nth(at) {
                    return self.spoil(value);
                }
            }
            Value::Array(entries) if deeper && !entries.is_empty() => {
                let at = self.rng.usize(..entries.len());
                return self.spoil(&mut entries[at]);
            }
            Value::Object(fields) if self.rng.bool() => {
                fields.insert("timeout".to_owned(), json!({"x": null}));
                return;
            }
            _ => {}
        }
        *value = match self.rng.u8(..9) {
            0 => Value::Null,
            1 => json!(-1),
            2 => json!(u64::MAX),
            3 => json!(0.5),
            4 => json!(2.0),
            5 => json!(true),
            6 => json!("\u{0}é("),
            7 => json!([[], null]),
            _ => json!({"": {}}),
        };
    }
}

fn messages(schema: &Schema, all: &mut BTreeSet<String>) {
    all.extend(schema.rules.iter().map(|rule| rule.message().to_owned()));
    let inner = schema.items.iter().chain(&schema.others);
    for inner in inner
        .map(|inner| &**inner)
        .chain(schema.properties.values())
    {
        messages(inner, all);
    }
}

/// What the schema accepts can be held, says the same when it is written again, and has the types'
/// own defaults; and no rule ever fails to have an answer.
#[test]
fn what_is_accepted_is_held_and_comes_back() {
    let mut known = BTreeSet::new();
    messages(&MANIFEST, &mut known);
    let (mut accepted, mut refused_by) = (0, BTreeSet::new());
    for seed in 0..6_000 {
        let mut maker = Maker {
            rng: fastrand::Rng::with_seed(seed),
        };
        let mut manifest = maker.value(&MANIFEST, "");
        manifest.as_object_mut().unwrap().remove("status");
        let spoiled = seed % 4 == 3;
        if spoiled {
            maker.spoil(&mut manifest);
        }
        let raw = manifest.clone();
        let found = MANIFEST.evaluate(&mut manifest);
        for violation in &found {
            for message in &known {
                if violation.reason.starts_with(message) {
                    assert_eq!(&violation.reason, message, "{raw}");
                    refused_by.insert(message.clone());
                }
            }
        }
        if !found.is_empty() {
            continue;
        }
        accepted += 1;
        // Spoiling may make a status, which nobody looks at.
        manifest.as_object_mut().unwrap().remove("status");
        let policy: TrafficPolicy = serde_json::from_value(manifest.clone())
            .unwrap_or_else(|error| panic!("{error}: {raw}"));
        if !spoiled {
            let by_types: TrafficPolicy = serde_json::from_value(raw.clone()).unwrap();
            assert_eq!(policy, by_types, "the defaults differ: {raw}");
        }
        let mut written = serde_json::to_value(&policy).unwrap();
        assert_eq!(MANIFEST.evaluate(&mut written), [], "{raw}");
        let again: TrafficPolicy = serde_json::from_value(written).unwrap();
        assert_eq!(again, policy, "{raw}");
        // Only what is beyond the schema can be said about it still.
        let beyond = |found: &Violation| found.reason.contains("not a regular expression");
        let told = policy.check();
        assert!(told.iter().all(beyond), "{raw}: {told:?}");
    }
    assert!(accepted > 300, "{accepted}");
    let silent: Vec<_> = known.difference(&refused_by).collect();
    assert!(silent.len() < 6, "rules that were never broken: {silent:?}");
}

/// A default is judged where it stands, before anything is filled into it: a cluster does so when it
/// gets the definition.
#[test]
fn defaults_are_good_by_themselves() {
    fn walk(schema: &Schema, path: &str, seen: &mut usize) {
        if let Some(default) = &schema.default {
            let mut found = Vec::new();
            shape::check(schema, default, path, &mut found);
            rules::check(schema, default, None, &mut found);
            // The core group is the only one that is good, and empty.
            assert_eq!(found, [], "{path}");
            *seen += 1;
        }
        if let Some(items) = &schema.items {
            walk(items, &entry(path, 0), seen);
        }
        for (name, property) in &schema.properties {
            walk(property, &field(path, name), seen);
        }
    }
    let mut seen = 0;
    walk(&MANIFEST, "", &mut seen);
    assert!(seen > 50, "{seen}");
}

/// What is said about a spec, with what to do about it.
fn told(spec: &Value) -> Vec<String> {
    let mut manifest = json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "p"},
        "spec": spec,
    });
    let told = MANIFEST.evaluate(&mut manifest).into_iter();
    told.map(|violation| format!("{violation} ({})", violation.mend))
        .collect()
}

#[test]
fn a_mistake_is_one_finding() {
    assert_eq!(
        told(&json!({"targetRefs": [{"name": "a"}], "timeout": {"request": "1s"}})),
        [
            "spec.timeout: unknown field \"timeout\": Additional properties are not allowed \
          (did you mean timeouts?)"
        ]
    );
    assert_eq!(
        told(&json!({"targetRefs": [{"name": "a"}], "attempts": 3, "type": "Cookie"})),
        [
            "spec.attempts: unknown field \"attempts\": Additional properties are not allowed \
             (move it into retries)",
            "spec.type: unknown field \"type\": Additional properties are not allowed \
             (leave it out, or look its place up in the reference)",
        ]
    );
    assert_eq!(
        told(&json!({"targetRefs": [{"name": "a"}], "timeouts": {"request": 5, "perTry": "9s"}})),
        [
            "spec.timeouts.request: must be a text, not the number 5 (write it as 250ms, 3s or 1h30m)"
        ]
    );
    // What is wrong elsewhere hides nothing.
    assert_eq!(
        told(&json!({
            "targetRefs": [{"name": "a"}],
            "mtls": {"mode": "strict"},
            "timeouts": {"request": "1s", "perTry": "2s"},
        })),
        [
            "spec.mtls.mode: \"strict\" is not one of Disabled, Permissive, Strict \
             (did you mean Strict?)",
            "spec.timeouts.perTry: perTry cannot be longer than request \
             (lower perTry, or raise request)",
        ]
    );
}

#[test]
fn null_is_left_out() {
    assert_eq!(
        told(&json!({"targetRefs": [{"name": "a", "kind": null}], "retries": {"attempts": null}})),
        [""; 0]
    );
    assert_eq!(
        told(&json!({"targetRefs": [{"name": "a"}], "retries": null})),
        [
            "spec: at least one policy stanza is required (add what the policy is for, as retries: {})"
        ]
    );
}

#[test]
fn the_envelope_is_looked_at_too() {
    let mut manifest = json!({
        "apiVersion": "weft.dev/v1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "P", "label": {}, "labels": {"a": 1, "b/c": "d"}},
        "spec": {"targetRefs": [{"name": "a"}], "retries": {}},
        "status": {"anything": [1]},
        "data": 1,
    });
    let found = MANIFEST.evaluate(&mut manifest);
    let paths: Vec<_> = found
        .iter()
        .map(|violation| violation.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "data",
            "metadata.label",
            "apiVersion",
            "metadata.labels.a",
            "metadata.name"
        ]
    );
    assert!(
        found.iter().all(|violation| !violation.mend.is_empty()),
        "{found:?}"
    );
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        prop::sample::select(vec![
            "apiVersion",
            "kind",
            "metadata",
            "spec",
            "targetRefs",
            "name",
            "timeouts",
            "request",
            "rules",
            "matches",
            "split",
            "backends",
            "fallback",
            "type",
            "value",
            "headers",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics_whatever_the_manifest_is(value in any_value(), spec in any_value()) {
        let _ = TrafficPolicy::read(value);
        let mut manifest = json!({
            "apiVersion": "weft.dev/v1alpha1",
            "kind": "TrafficPolicy",
            "metadata": {"name": "p"},
        });
        manifest["spec"] = spec;
        let _ = TrafficPolicy::read(manifest);
    }
}
