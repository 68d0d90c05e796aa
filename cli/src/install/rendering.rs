//! The chart as the Helm engine renders it, in this program: once plain and once with the chart's
//! `values-ha.yaml`.
//!
//! It was rendered with values that nobody has, one for each [`Key`](super::values::Key). Putting others in
//! their place comes to what Helm renders with those, byte for byte: `tests/chart/renderings.py` makes the
//! renderings and the digests that the tests of this module compare with.

use weft_proto::names::cluster::MANAGED_BY_LABEL;

use super::values::Values;

/// Who made a namespace, as its label [`MANAGED_BY_LABEL`] says.
pub(super) const INSTALLED_BY: &str = "weft-install";

/// What stands for the namespace in a rendering.
pub(super) const NAMESPACE: &str = "weft-stand-in-namespace";
/// What stands for the images' prefix.
pub(super) const REGISTRY: &str = "registry.weft-stand-in.example:5000/images";
/// What stands for the trust domain.
pub(super) const TRUST_DOMAIN: &str = "trust.weft-stand-in.example";

/// The chart's objects with every value at its default.
pub(super) const PLAIN: &str = include_str!("../../../charts/renderings/weft.yaml");
/// The same with `values-ha.yaml`.
pub(super) const HIGHLY_AVAILABLE: &str = include_str!("../../../charts/renderings/weft-ha.yaml");

/// A rendering with these values, as Helm makes it: no namespace is among its objects.
pub(super) fn rendered(rendering: &str, values: &Values) -> String {
    let registry = match values.registry.as_str() {
        "" => String::new(),
        registry => format!("{registry}/"),
    };
    rendering
        .replace(NAMESPACE, &values.namespace)
        .replace(&format!("{REGISTRY}/"), &registry)
        .replace(TRUST_DOMAIN, &values.trust_domain)
}

/// All that a mesh needs, in an order in which an API server takes it.
pub(super) fn manifest(rendering: &str, values: &Values) -> String {
    namespace(&values.namespace) + &rendered(rendering, values)
}

/// The control plane's namespace, where nothing runs that `restricted` forbids.
fn namespace(name: &str) -> String {
    format!(
        "\
---
apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  labels:
    app.kubernetes.io/part-of: weft
    {MANAGED_BY_LABEL}: {INSTALLED_BY}
    pod-security.kubernetes.io/enforce: restricted
"
    )
}
