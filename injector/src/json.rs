//! Looking into pods: what is absent, null or of another type is nothing. Such a pod is either
//! refused by its shape before anything is added ([`crate::decide`]) or by the API server.

use serde_json::{Map, Value};

/// The text at `pointer` (RFC 6901).
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

/// The elements of the list at `pointer`.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The entries of the object at `pointer` that are text.
pub(crate) fn texts<'a>(
    value: &'a Value,
    pointer: &str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let entries = value.pointer(pointer).and_then(Value::as_object);
    let entries = entries.into_iter().flat_map(Map::iter);
    entries.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

/// The `name` of a container or a volume.
pub(crate) fn name(value: &Value) -> &str {
    text(value, "/name").unwrap_or_default()
}

/// Whether something is there, other than null.
pub(crate) fn is_there(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}

/// Containers of the pod that run for as long as it does: its own, and sidecars among its init
/// containers; with the pointer of each.
pub(crate) fn running(pod: &Value) -> impl Iterator<Item = (String, &Value)> {
    let sidecars = places(pod, "/spec/initContainers")
        .filter(|(_, container)| text(container, "/restartPolicy") == Some("Always"));
    sidecars.chain(places(pod, "/spec/containers"))
}

/// All containers of the pod, with the pointer of each.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = (String, &Value)> {
    places(pod, "/spec/initContainers").chain(places(pod, "/spec/containers"))
}

/// The containers at `pointer`, with the pointer of each.
pub(crate) fn places<'a>(
    pod: &'a Value,
    pointer: &'static str,
) -> impl Iterator<Item = (String, &'a Value)> {
    let containers = list(pod, pointer).iter().enumerate();
    containers.map(move |(at, container)| (format!("{pointer}/{at}"), container))
}

/// Whether a `containerPort` is of TCP, which is what a port without a protocol is.
pub(crate) fn is_tcp(port: &Value) -> bool {
    text(port, "/protocol").is_none_or(|protocol| protocol == "TCP")
}

/// The number of a `containerPort`.
pub(crate) fn port_number(port: &Value) -> Option<u16> {
    port.get("containerPort")?.as_u64()?.try_into().ok()
}
