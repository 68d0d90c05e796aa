//! What needs no Helm. That the renderings are the chart's is tested in `tests/chart/test_renderings.py`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use weft_proto::names::cluster;

use super::deletion::{Identity, doomed, objects};
use super::next::DEFINITION;
use super::rendering::*;
use super::values::*;
use super::*;

/// What Helm made of values, made by `tests/chart/renderings.py`.
const CASES: &str = include_str!("../../../charts/renderings/digests.json");

/// One of them.
#[derive(Debug, Deserialize)]
struct Case {
    set: Vec<String>,
    ha: bool,
    sha256: String,
}

fn values(settings: &[impl AsRef<str>]) -> Values {
    let settings = settings.iter();
    let settings = settings.map(|setting| Setting::parse(setting.as_ref()).expect("a good one"));
    Values::new(&settings.collect::<Vec<_>>()).expect("each once")
}

fn stand_ins() -> Values {
    values(&[
        format!("namespace={NAMESPACE}"),
        format!("image={REGISTRY}"),
        format!("trustDomain={TRUST_DOMAIN}"),
    ])
}

/// Every object of a manifest in its order.
fn identities(manifest: &str) -> Vec<Identity> {
    let objects = objects(manifest);
    let identities = objects.iter().map(Identity::of);
    identities.map(|one| one.expect("a named object")).collect()
}

/// With a text replaced wherever it is.
fn replaced(object: &Value, values: &Values) -> Value {
    match object {
        Value::String(text) => rendered(text, values).into(),
        Value::Array(entries) => entries.iter().map(|one| replaced(one, values)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|(name, value)| (name.clone(), replaced(value, values)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

#[test]
fn what_can_be_set() {
    for good in [
        "namespace=mesh",
        "namespace=2-meshes",
        "image=",
        "image=registry.example:5000/mesh",
        "image=localhost:5000",
        "image=mesh/weft",
        "trustDomain=prod.example.org",
        "trustDomain=a_b-c",
    ] {
        assert!(Setting::parse(good).is_ok(), "{good}");
    }
    for (bad, why) in [
        ("replicas=3", "use helm with charts/weft"),
        ("injector.image=x", "use helm with charts/weft"),
        ("", "use helm with charts/weft"),
        ("namespace", "a value is missing"),
        ("namespace=", "1 to 63"),
        ("namespace=Mesh", "1 to 63"),
        ("namespace=a.b", "1 to 63"),
        ("namespace=default", "of its own"),
        ("namespace=kube-system", "of its own"),
        ("namespace=123", "something else than text"),
        ("namespace=1e3", "something else than text"),
        ("namespace=null", "something else than text"),
        ("namespace=on", "something else than text"),
        ("namespace=y", "something else than text"),
        ("namespace=0x10", "something else than text"),
        ("image=registry.example/", "without tag and digest"),
        (
            "image=registry.example/mesh:1.0/x",
            "without tag and digest",
        ),
        ("image=https://registry.example", "without tag and digest"),
        ("image=a b", "without tag and digest"),
        ("trustDomain=", "1 to 255"),
        ("trustDomain=Prod", "1 to 255"),
        ("trustDomain=a/b", "1 to 255"),
        ("trustDomain=1.5", "something else than text"),
        ("trustDomain=-", "something else than text"),
    ] {
        let refused = Setting::parse(bad).expect_err(bad);
        assert!(refused.contains(why), "{bad}: {refused}");
    }
    let twice = ["namespace=a", "image=b", "namespace=a"];
    let twice = twice.map(|setting| Setting::parse(setting).expect("a good one"));
    assert_eq!(
        Values::new(&twice).expect_err("twice").to_string(),
        "--set namespace is there twice: say which one is meant"
    );
}

#[test]
fn values_are_where_helm_has_them() {
    let cases: Vec<Case> = serde_json::from_str(CASES).expect("cases");
    let renderings = |ha| cases.iter().filter(move |case| case.ha == ha);
    assert!(renderings(true).count() >= 4 && renderings(false).count() >= 4);
    assert!(cases.iter().any(|case| case.set.is_empty()), "defaults too");
    for case in &cases {
        let rendering = if case.ha { HIGHLY_AVAILABLE } else { PLAIN };
        let text = rendered(rendering, &values(&case.set));
        let mut hex = String::new();
        for byte in digest(&SHA256, text.as_bytes()).as_ref() {
            let _ = write!(hex, "{byte:02x}");
        }
        assert_eq!(
            hex, case.sha256,
            "{case:?}; where the chart changed: tests/chart/renderings.py"
        );
    }
}

#[test]
fn stand_ins_stand_where_values_do() {
    for rendering in [PLAIN, HIGHLY_AVAILABLE] {
        assert_eq!(rendered(rendering, &stand_ins()), rendering);
        for stand_in in [NAMESPACE, REGISTRY, TRUST_DOMAIN] {
            assert!(rendering.contains(stand_in), "{stand_in}");
        }
        // What goes with an empty prefix is a whole "PREFIX/".
        let images = rendering.matches(&format!("{REGISTRY}/weft")).count();
        assert_eq!(rendering.matches(REGISTRY).count(), images);
        let plain = rendered(rendering, &Values::default());
        for image in ["weft", "weft-proxy"] {
            let image = format!("{image}:{}", env!("CARGO_PKG_VERSION"));
            assert!(plain.contains(&image), "{image}");
        }
    }
}

#[test]
fn what_others_need_comes_first() {
    for rendering in [PLAIN, HIGHLY_AVAILABLE] {
        let made = identities(&manifest(rendering, &Values::default()));
        assert_eq!(made[0].kind, "Namespace");
        let last = made.last().expect("objects");
        assert_eq!(
            (last.kind.as_str(), last.name.as_str()),
            (
                "MutatingWebhookConfiguration",
                cluster::WEBHOOK_CONFIGURATION
            )
        );
        let at = |kind: &str| made.iter().position(|one| one.kind == kind);
        let at = |kind: &str| at(kind).unwrap_or_else(|| panic!("no {kind}"));
        let rank = [
            "Namespace",
            "CustomResourceDefinition",
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "Role",
            "RoleBinding",
            "Service",
            "Deployment",
            "MutatingWebhookConfiguration",
        ];
        assert!(rank.map(at).is_sorted(), "{made:?}");
        for (index, one) in made.iter().enumerate() {
            assert!(!made[..index].contains(one), "{one:?} twice");
            let is_in_it = one.namespace.as_deref().is_none_or(|name| name == "weft");
            assert!(is_in_it, "{one:?}");
        }
        let definitions = made
            .iter()
            .filter(|one| one.kind == "CustomResourceDefinition");
        let definitions: Vec<_> = definitions.map(|one| one.name.as_str()).collect();
        assert_eq!(definitions, [DEFINITION]);
        for absent in ["helm.sh/hook:", "caBundle:"] {
            assert!(!rendering.contains(absent), "{absent}");
        }
    }
}

#[test]
fn all_that_is_made_is_deleted_once() {
    let values = values(&["namespace=mesh"]);
    let doomed = doomed(&values, false);
    let unique: BTreeSet<_> = doomed.iter().map(|one| format!("{one:?}")).collect();
    assert_eq!(unique.len(), doomed.len(), "{doomed:?}");
    assert_eq!(doomed[0].kind, "MutatingWebhookConfiguration");
    assert_eq!(doomed.last().expect("some").kind, "Namespace");
    let mut expected = 0;
    for rendering in [PLAIN, HIGHLY_AVAILABLE] {
        let made = identities(&manifest(rendering, &values));
        for one in &made {
            let is_kept = one.kind == "CustomResourceDefinition";
            assert_eq!(doomed.contains(one), !is_kept, "{one:?}");
        }
        expected = expected.max(made.len());
    }
    // Without the definition, with what the control plane makes.
    assert!(doomed.len() >= expected - 1 + 4);
    for (kind, name) in [
        ("Lease", "weft-control-plane"),
        ("Secret", "weft-authority"),
        ("Secret", "weft-injector-certificate"),
        ("ConfigMap", "weft-trust-bundle"),
    ] {
        let made = |one: &&Identity| one.kind == kind && one.name == name;
        let made = doomed.iter().find(made).expect(name);
        assert_eq!(made.namespace.as_deref(), Some("mesh"));
    }
    let list = deletion::manifest(&values, false);
    assert_eq!(identities(&list), doomed);
    let kept = deletion::doomed(&values, true);
    assert_eq!(kept, doomed[..doomed.len() - 1]);
}

#[test]
fn people_hear_what_is_left() {
    let said = next::after_uninstall("mesh", false);
    for words in [
        "namespace mesh with everything in it",
        "Secret weft-authority",
        "kubectl delete crd trafficpolicies.weft.dev",
        "kubectl delete configmap -A -l app.kubernetes.io/managed-by=weft-control-plane",
        "kubectl label namespaces -l weft.dev/inject weft.dev/inject-",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!next::after_uninstall("mesh", true).contains("everything in it"));
    assert!(next::after_install("mesh").contains("weft check -n mesh\n"));
    assert!(next::after_upgrade("weft").contains("weft check\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whatever is allowed, YAML reads the very value in the place of its stand-in, and nothing else changes.
    #[test]
    fn any_values_stay_text(
        namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        image in "([a-z0-9]{1,8}(\\.[a-z]{1,4})?(:[1-9][0-9]{0,3})?(/[a-z0-9]{1,6}){0,2})?",
        trust_domain in "[a-z0-9._-]{1,20}",
    ) {
        let settings = [
            format!("namespace={namespace}"),
            format!("image={image}"),
            format!("trustDomain={trust_domain}"),
        ];
        let settings = settings.iter().map(|setting| Setting::parse(setting));
        let settings: Result<Vec<_>, _> = settings.collect();
        prop_assume!(settings.is_ok());
        let values = Values::new(&settings.expect("assumed")).expect("each once");
        for rendering in [PLAIN, HIGHLY_AVAILABLE] {
            let text = manifest(rendering, &values);
            prop_assert!(!text.contains("stand-in"));
            let wanted: Vec<_> = objects(rendering).iter().map(|one| replaced(one, &values)).collect();
            prop_assert_eq!(&objects(&text)[1..], &wanted[..]);
        }
    }
}
