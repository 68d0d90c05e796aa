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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::kubelet::machine::Restart;

    #[test]
    fn a_status_says_what_whoever_watches_it_waits_for() {
        let pod = json!({"metadata": {}, "spec": {
            "restartPolicy": "Never",
            "initContainers": [{"name": "sidecar", "image": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "a"}],
        }});
        let plan = Plan::read(&serde_json::from_value(pod).unwrap()).unwrap();
        let roles = plan.containers.iter().map(|it| it.role);
        let mut machine = Machine::new(roles, Restart::Never, Duration::from_secs(1));
        let place = Place {
            addresses: vec!["10.42.0.2".to_owned(), "fd42::2".to_owned()],
            ..Place::default()
        };
        let now = Instant::now();
        let first = status(&plan, &machine, &place, "it waits");
        assert_eq!(
            (&first["phase"], &first["podIP"]),
            (&"Pending".into(), &"10.42.0.2".into())
        );
        assert_eq!(first["podIPs"][1]["ip"], "fd42::2");
        let waiting = &first["containerStatuses"][0]["state"]["waiting"];
        assert_eq!(waiting["message"], "it waits");
        machine.next(now);
        machine.passed(0);
        machine.next(now);
        for number in 0..2 {
            machine.ready(number, true);
        }
        let ready = status(&plan, &machine, &place, "");
        assert_eq!(ready["phase"], "Running");
        assert_eq!(
            ready["conditions"][3],
            json!({"type": "Ready", "status": "True"})
        );
        assert_eq!(ready["initContainerStatuses"][0]["started"], true);
        machine.ended(1, 3, now);
        let ended = status(&plan, &machine, &place, "");
        let terminated = &ended["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(terminated["exitCode"], 3);
        assert_eq!(ended["conditions"][3]["status"], "False");
        machine.next(now);
        machine.ended(0, 0, now);
        assert_eq!(status(&plan, &machine, &place, "")["phase"], "Failed");
    }
}
