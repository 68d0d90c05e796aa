//! One pod in, a patch or a reason out.

use serde_json::Value;

use crate::Refusal;
use crate::annotations;
use crate::decide::{Decision, Namespace, Skip, decide};
use crate::patch::{self, Operation, patch};
use crate::settings::Settings;

/// What becomes of a pod, and warnings for who made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What becomes of it.
    pub verdict: Verdict,
    /// What is not as somebody may think, a sentence each.
    pub warnings: Vec<String>,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// These operations make it one with a sidecar. Applied to it, the same again is a
    /// [`Skip::AlreadyInjected`].
    Patched(Vec<Operation>),
    /// It stays as it is.
    Skipped(Skip),
    /// It must not run; all reasons.
    Refused(Vec<Refusal>),
}

/// What becomes of `pod`, which is a Pod or a pod template, in `namespace`.
pub fn inject(settings: &Settings, namespace: &Namespace, pod: &Value) -> Outcome {
    let (decision, mut warnings) = decide(settings, namespace, pod);
    let mut wrong = match decision {
        Decision::Skip(skip) => {
            if skip.is_surprise() {
                warnings.push(format!("no sidecar: {skip}"));
            }
            return Outcome {
                verdict: Verdict::Skipped(skip),
                warnings,
            };
        }
        Decision::Refuse(wrong) => wrong,
        Decision::Inject => Vec::new(),
    };
    let said = namespace.annotations.iter();
    let said = said.map(|(key, value)| (key.as_str(), value.as_str()));
    let verdict = match annotations::read(settings, said, pod) {
        Ok((config, unknown)) => {
            warnings.extend(unknown);
            wrong.extend(too_long(&config, pod));
            if wrong.is_empty() {
                let (operations, about) = patch(settings, &config, pod);
                warnings.extend(about);
                Verdict::Patched(operations)
            } else {
                Verdict::Refused(wrong)
            }
        }
        Err(more) => {
            wrong.extend(more);
            Verdict::Refused(wrong)
        }
    };
    Outcome { verdict, warnings }
}

/// The API server refuses a sleep that the grace period cuts short.
fn too_long(config: &annotations::Config, pod: &Value) -> Option<Refusal> {
    let sleep = config.pre_stop_sleep?.as_secs();
    let grace = patch::grace(pod);
    (sleep >= grace).then(|| {
        Refusal::new(
            format!(
                "the pre-stop-sleep of {sleep} s leaves nothing of the grace period of {grace} s"
            ),
            "shorten it, or raise terminationGracePeriodSeconds",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::json;
    use crate::settings::{PullPolicy, SidecarMode};

    #[test]
    fn the_pull_policy_is_of_the_containers_that_are_added_and_of_no_other() {
        let mut settings = Settings::new("weft", "cluster.local", Settings::default_image())
            .expect("good settings");
        settings.image_pull_policy = Some(PullPolicy::IfNotPresent);
        let namespace = Namespace {
            name: "shop".to_owned(),
            labels: BTreeMap::from([("weft.dev/inject".to_owned(), "enabled".to_owned())]),
            ..Namespace::default()
        };
        let bare = json!({"spec": {"containers": [{"name": "app"}]}});
        let own =
            json!({"spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "own"}]}});
        for mode in [SidecarMode::Native, SidecarMode::Legacy] {
            settings.sidecar_mode = mode;
            for pod in [&bare, &own] {
                let Verdict::Patched(operations) = inject(&settings, &namespace, pod).verdict
                else {
                    panic!("it is asked for");
                };
                let patch = serde_json::to_value(operations).expect("plain values");
                let patch: json_patch::Patch = serde_json::from_value(patch).expect("operations");
                let mut patched = pod.clone();
                json_patch::patch(&mut patched, &patch).expect("it applies");
                let mut ours = 0;
                for (_, container) in json::containers(&patched) {
                    let name = json::name(container);
                    let is_ours = name.starts_with("weft-");
                    ours += u32::from(is_ours);
                    let policy = json::text(container, "/imagePullPolicy");
                    assert_eq!(policy, is_ours.then_some("IfNotPresent"), "{mode}: {name}");
                }
                assert_eq!(ours, 2, "{mode}: {patched}");
            }
        }
    }
}
