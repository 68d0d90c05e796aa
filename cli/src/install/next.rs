//! What people are told beside a manifest.

use weft_proto::names::{
    CONTROL_PLANE_NAMESPACE, INJECT_ENABLED, INJECT_LABEL,
    cluster::{self, AUTHORITY_SECRET, MANAGED_BY, MANAGED_BY_LABEL},
};

/// What is kept.
pub(super) const DEFINITION: &str = "trafficpolicies.weft.dev";

/// The commands that follow an installation.
pub(super) fn after_install(namespace: &str) -> String {
    format!(
        "\
Next, with NAME for a namespace of applications:
  weft check{flag}
      says whether all of it works
  kubectl label namespace NAME {INJECT_LABEL}={INJECT_ENABLED}
      gives new pods there a sidecar
  kubectl -n NAME rollout restart deployment
      replaces the pods that run already
",
        flag = flag(namespace),
    )
}

/// The commands that follow an upgrade.
pub(super) fn after_upgrade(namespace: &str) -> String {
    format!(
        "\
Next, with NAME for a namespace of applications:
  kubectl -n {namespace} rollout status deployment {control_plane}
      waits for the new control plane; sidecars go on meanwhile
  kubectl -n NAME rollout restart deployment
      gives pods the new sidecar: those that run keep theirs
  weft check{flag}
      says whether all of it works, and which sidecars are of another version
",
        control_plane = cluster::CONTROL_PLANE_SERVICE,
        flag = flag(namespace),
    )
}

/// What is deleted, what is left, and how to remove that.
pub(super) fn after_uninstall(namespace: &str, keeps_namespace: bool) -> String {
    let deleted = if keeps_namespace {
        format!("Weft's objects in namespace {namespace}")
    } else {
        format!("namespace {namespace} with everything in it")
    };
    format!(
        "\
Deletes Weft's cluster-wide objects, and {deleted}.
Among them is Secret {AUTHORITY_SECRET}, the mesh's certificate authority.

Kept: CustomResourceDefinition {DEFINITION}, and with it every TrafficPolicy. To delete all of them too:
  kubectl delete crd {DEFINITION}

Left in other namespaces, with NAME for each of them:
  kubectl label namespaces -l {INJECT_LABEL} {INJECT_LABEL}-
      takes away the namespaces' labels; those of pods are in their own manifests
  kubectl -n NAME rollout restart deployment
      replaces the pods that have a sidecar
  kubectl delete configmap -A -l {MANAGED_BY_LABEL}={MANAGED_BY}
      deletes the trust bundles that sidecars start with
",
    )
}

/// Tells other commands where the control plane is.
fn flag(namespace: &str) -> String {
    match namespace {
        CONTROL_PLANE_NAMESPACE => String::new(),
        other => format!(" -n {other}"),
    }
}
