//! Pods in, patched pods out: `golden/NAME.yaml`, and of it `golden/NAME.out.yaml` with a native sidecar
//! and `golden/NAME.legacy.yaml` with a legacy one.
//!
//! An output begins with what was said, as comments. `WEFT_UPDATE_GOLDEN=1` writes the outputs anew
//! and fails all the same, so that nobody forgets to read what has changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use weft_injector::decide::{Namespace, Skip};
use weft_injector::inject::{Verdict, inject};
use weft_injector::patch::Operation;
use weft_injector::settings::{Settings, SidecarMode};
use weft_injector::values::Image;
use weft_injector::workload;

const UPDATE: &str = "WEFT_UPDATE_GOLDEN";
/// Fewer inputs would not be what the suite is for.
const LEAST_INPUTS: usize = 30;

const MODES: [SidecarMode; 2] = [SidecarMode::Native, SidecarMode::Legacy];

/// An image of no version, so that a new one does not change every file.
fn settings(mode: SidecarMode) -> Settings {
    let image = Image::parse("registry.example/weft-proxy:1.2.3").expect("an image");
    let settings = Settings::new("weft", "cluster.local", image).expect("good settings");
    Settings {
        sidecar_mode: mode,
        ..settings
    }
}

/// How the files of a mode's outputs end.
fn suffix(mode: SidecarMode) -> &'static str {
    match mode {
        SidecarMode::Native => "out.yaml",
        SidecarMode::Legacy => "legacy.yaml",
    }
}

fn namespace(name: &str) -> Namespace {
    Namespace {
        name: name.to_owned(),
        labels: BTreeMap::from([("weft.dev/inject".to_owned(), "enabled".to_owned())]),
        annotations: BTreeMap::new(),
    }
}

fn apply(object: &mut Value, operations: &[Operation]) {
    let patch = serde_json::to_value(operations).expect("plain values");
    let patch: json_patch::Patch = serde_json::from_value(patch).expect("JSON Patch");
    json_patch::patch(object, &patch).expect("a patch that fits");
}

/// Injects into every pod of `object`; what was said, and whether anything was patched.
fn injected(mode: SidecarMode, object: &mut Value) -> (String, bool) {
    let mut said = String::new();
    let mut is_patched = false;
    for place in workload::pods(object) {
        let pod = object
            .pointer(&place.pointer)
            .expect("a place that is there");
        let outcome = inject(&settings(mode), &namespace(&place.namespace), pod);
        for warning in &outcome.warnings {
            let _ = writeln!(said, "# warning: {warning}");
        }
        match outcome.verdict {
            Verdict::Patched(operations) => {
                let _ = writeln!(said, "# patched: {}", place.label);
                let operations: Vec<_> = operations
                    .into_iter()
                    .map(|operation| operation.under(&place.pointer))
                    .collect();
                apply(object, &operations);
                is_patched = true;
            }
            Verdict::Skipped(skip) => {
                let _ = writeln!(said, "# skipped: {skip}");
            }
            Verdict::Refused(wrong) => {
                for refusal in wrong {
                    let _ = writeln!(said, "# refused: {refusal}");
                }
            }
        }
    }
    (said, is_patched)
}

fn inputs() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<_> = fs::read_dir(dir)
        .expect("the directory of this suite")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            let name = path.to_string_lossy();
            !MODES.iter().any(|mode| name.ends_with(suffix(*mode)))
        })
        .collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("a file of this suite");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn pods_come_out_as_they_did() {
    let inputs = inputs();
    assert!(inputs.len() >= LEAST_INPUTS, "{} inputs", inputs.len());
    let is_update = std::env::var_os(UPDATE).is_some();
    let mut differ = Vec::new();
    for (path, mode) in product(&inputs) {
        let mut object = read(path);
        let before = object.clone();
        let (said, is_patched) = injected(mode, &mut object);
        assert!(!said.is_empty(), "{}: nothing was said", path.display());
        assert_eq!(is_patched, object != before, "{}", path.display());
        let yaml = serde_saphyr::to_string(&object).expect("plain values");
        let version = format!("weft.dev/injected: {:?}", env!("CARGO_PKG_VERSION"));
        let text = said + &yaml.replace(&version, "weft.dev/injected: VERSION");
        let expected = path.with_extension(suffix(mode));
        if is_update {
            fs::write(&expected, text).expect("the directory of this suite");
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            differ.push(expected);
        }
    }
    assert!(
        !is_update,
        "written: read what has changed, then run without {UPDATE}"
    );
    assert!(
        differ.is_empty(),
        "{differ:?} differ: {UPDATE}=1 writes them anew"
    );
}

/// Nor does one in the other mode.
#[test]
fn a_second_time_changes_nothing() {
    for mode in MODES {
        let mut patched = 0;
        for path in inputs() {
            let mut object = read(&path);
            let (_, is_patched) = injected(mode, &mut object);
            let once = object.clone();
            for again in MODES {
                let (said, is_again) = injected(again, &mut object);
                assert!(!is_again, "{}: {said}", path.display());
                assert_eq!(object, once, "{}", path.display());
            }
            patched += usize::from(is_patched);
        }
        assert!(patched >= 20, "only {patched} were patched");
    }
}

fn product(inputs: &[PathBuf]) -> impl Iterator<Item = (&Path, SidecarMode)> {
    let inputs = inputs.iter().map(PathBuf::as_path);
    inputs.flat_map(|path| MODES.into_iter().map(move |mode| (path, mode)))
}

fn container() -> impl Strategy<Value = Value> {
    let port = (1_u16.., prop::sample::select(vec!["TCP", "UDP", "SCTP"]));
    let probe = prop::sample::select(vec![
        json!(null),
        json!({"tcpSocket": {"port": 8080}, "periodSeconds": 3}),
        json!({"tcpSocket": {"port": "http"}}),
        json!({"httpGet": {"path": "/", "port": 1}}),
    ]);
    (prop::collection::vec(port, 0..4), probe, any::<bool>()).prop_map(|(ports, probe, named)| {
        let ports: Vec<_> = ports
            .into_iter()
            .map(|(port, protocol)| {
                json!({"containerPort": port, "protocol": protocol,
                                           "name": if named { "http" } else { "other" }})
            })
            .collect();
        json!({"name": "app", "image": "app", "ports": ports, "livenessProbe": probe,
               "fieldOfTomorrow": {"kept": true}})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let parts = || prop::option::of(prop::collection::vec(container(), 0..3));
    let annotations = prop::sample::select(vec![
        json!(null),
        json!({}),
        json!({"a": "b"}),
        json!({"config.weft.dev/pre-stop-sleep": "2s", "config.weft.dev/skip-inbound-ports": "8080"}),
    ]);
    let grace = prop::option::of(0_u64..5_000);
    let containers = prop::collection::vec(container(), 1..3);
    (containers, parts(), annotations, grace, any::<bool>()).prop_map(
        |(containers, init, annotations, grace, has_metadata)| {
            let mut pod = json!({"spec": {"containers": containers, "initContainers": init,
                                          "terminationGracePeriodSeconds": grace}});
            if has_metadata {
                pod["metadata"] = json!({"annotations": annotations});
            }
            pod
        },
    )
}

proptest! {
    /// Whatever the pod: a patch fits, adds our containers where they belong and our volumes behind,
    /// leaves the rest, and is not wanted again.
    #[test]
    fn a_patch_fits_every_pod(before in pod(), mode in prop::sample::select(MODES.to_vec())) {
        let namespace = namespace("shop");
        let Verdict::Patched(operations) = inject(&settings(mode), &namespace, &before).verdict else {
            // Our own ports, or a sleep longer than the grace period.
            return Ok(());
        };
        let mut after = before.clone();
        apply(&mut after, &operations);
        for again in MODES {
            let again = inject(&settings(again), &namespace, &after);
            prop_assert_eq!(again.verdict, Verdict::Skipped(Skip::AlreadyInjected));
        }
        let list = |of: &Value, name: &str| of["spec"][name].as_array().cloned().unwrap_or_default();
        let (mut init, mut containers) = (list(&after, "initContainers"), list(&after, "containers"));
        let sidecar = match mode {
            SidecarMode::Native => {
                prop_assert_eq!(&init.remove(0)["name"], "weft-init");
                init.remove(0)
            }
            SidecarMode::Legacy => {
                prop_assert_eq!(&init.pop().expect("the redirect")["name"], "weft-init");
                containers.remove(0)
            }
        };
        prop_assert_eq!(&sidecar["name"], "weft-proxy");
        for (ours, was) in [(&init, list(&before, "initContainers")), (&containers, list(&before, "containers"))] {
            prop_assert_eq!(ours.len(), was.len());
            for (container, was) in ours.iter().zip(&was) {
                prop_assert_eq!(&container["fieldOfTomorrow"], &was["fieldOfTomorrow"]);
                prop_assert_eq!(&container["ports"], &was["ports"]);
                prop_assert_eq!(&container["name"], &was["name"]);
            }
        }
    }
}
