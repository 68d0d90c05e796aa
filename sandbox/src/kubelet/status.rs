//! What a pod's status says, from the state of its containers.

use serde_json::{Value, json};

use super::environment::Place;
use super::machine::{Container, Machine, Phase, Role, State};
use super::plan::Plan;

/// The status of a pod whose containers are in this state; `waiting` is why nothing has begun.
pub(super) fn status(plan: &Plan, machine: &Machine, place: &Place, waiting: &str) -> Value {
    let addresses = place.addresses.iter();
    let addresses: Vec<Value> = addresses.map(|ip| json!({"ip": ip})).collect();
    let hosts = json!([{"ip": place.host}]);
    let condition = |kind: &str, holds: bool| json!({"type": kind, "status": if holds { "True" } else { "False" }});
    let of = |is_meant: fn(Role) -> bool| -> Vec<Value> {
        let all = plan.containers.iter().zip(machine.containers());
        let all = all.filter(|(planned, _)| is_meant(planned.role));
        all.map(|(planned, container)| {
            let image = planned.spec.image.as_deref().unwrap_or_default();
            json!({
                "name": planned.spec.name, "image": image, "imageID": image,
                "ready": is_ready(planned.role, container), "restartCount": container.restarts(),
                "started": container.has_passed(), "state": state(container.state(), waiting),
            })
        })
        .collect()
    };
    json!({
        "phase": phase(machine.phase()),
        "podIP": place.addresses.first(), "podIPs": addresses,
        "hostIP": place.host, "hostIPs": hosts,
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", machine.is_initialised()),
            condition("ContainersReady", machine.is_ready()),
            condition("Ready", machine.is_ready()),
        ],
        "initContainerStatuses": of(|role| role != Role::Main),
        "containerStatuses": of(|role| role == Role::Main),
    })
}

/// The status of a pod that cannot be run here.
pub(super) fn refused(why: &str) -> Value {
    json!({"phase": "Failed", "reason": "Unsupported", "message": why})
}

fn is_ready(role: Role, container: &Container) -> bool {
    match role {
        Role::Init => container.has_passed(),
        Role::Sidecar | Role::Main => container.is_ready(),
    }
}

fn state(state: State, waiting: &str) -> Value {
    match state {
        State::Waiting => json!({"waiting": {"reason": "PodInitializing", "message": waiting}}),
        State::Running { .. } => json!({"running": {}}),
        State::Ended { code, .. } => {
            let reason = if code == 0 { "Completed" } else { "Error" };
            json!({"terminated": {"exitCode": code, "reason": reason}})
        }
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    }
}
