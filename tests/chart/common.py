"""What several tests need: rendered cases, names as the programs know them, schemas of Kubernetes."""

import functools
import os
import re
import unittest

import kubernetes_validate
import yaml
from kubernetes_validate import utils

import matrix
import render

# As installed, each schema is read anew for every object.
utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)

ROOT = render.ROOT
#: Of what the validator has: the oldest that the chart takes, one in the middle, and the newest.
VERSIONS = ["1.29", "1.33", ".".join(utils.latest_version().split(".")[:2])]
#: Kinds of the Prometheus operator, which Kubernetes has no schema of.
OPERATOR = "monitoring.coreos.com/v1"


def values_of(case):
    """The values of a case of the matrix."""
    values, _, _ = matrix.CASES[case]
    if values == matrix.HA:
        return yaml.safe_load((render.CHART / matrix.HA).read_text())
    return values


@functools.lru_cache(maxsize=None)
def objects(case):
    """Everything that a case renders, tests too. Not to be changed."""
    _, namespace, release = matrix.CASES[case]
    found = render.documents(values_of(case), namespace, release, tests=True)
    return [parsed for _, parsed in found]


def of_kind(case, *kinds):
    return [it for it in objects(case) if it["kind"] in kinds]


def one(case, kind, name):
    found = [it for it in of_kind(case, kind) if it["metadata"]["name"] == name]
    assert len(found) == 1, f"{case}: {len(found)} {kind} {name}"
    return found[0]


def pods(case):
    """Name, labels and spec of every pod that a case makes."""
    for deployment in of_kind(case, "Deployment"):
        template = deployment["spec"]["template"]
        yield deployment["metadata"]["name"], template["metadata"]["labels"], template["spec"]
    for pod in of_kind(case, "Pod"):
        yield pod["metadata"]["name"], pod["metadata"]["labels"], pod["spec"]


def matches(selector, labels):
    """Whether a selector by labels matches; only those with matchLabels are known."""
    assert set(selector) == {"matchLabels"}, selector
    return selector["matchLabels"].items() <= labels.items()


def refusal(item, version):
    """Why an API server of `version` would not know the object as it is: the place and what is there, or
    None."""
    try:
        kubernetes_validate.validate(item, version, strict=True)
        return None
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"


@functools.lru_cache(maxsize=None)
def names():
    """Constants of proto/src/names.rs, `module::NAME` to value."""
    text = (ROOT / "proto" / "src" / "names.rs").read_text()
    found, module = {}, ""
    for line in text.splitlines():
        if opened := re.match(r"pub mod (\w+) \{", line):
            module = opened[1] + "::"
        elif line == "}":
            module = ""
        elif constant := re.match(r'\s*pub const (\w+): [^=]+ = "?([^";]+)"?;', line):
            found[module + constant[1]] = constant[2]
    assert found["cluster::LEASE"] and found["ports::ADMIN"]
    return found


def every_case(test):
    """Runs a test method for each case of the matrix, each under its name."""

    @functools.wraps(test)
    def all_of_them(self):
        for case in matrix.CASES:
            with self.subTest(case=case):
                test(self, case)

    return all_of_them


def environment(name):
    """What the caller gave; the test is skipped, by name, where it did not."""
    value = os.environ.get(name)
    if not value:
        raise unittest.SkipTest(f"{name} is not set; `cargo test -p weft-tests --test chart` sets it")
    return value


def processes(case):
    """What a case's programs run with: by Deployment, the command and the variables, with values for
    those that Kubernetes fills in."""
    fields = {"metadata.namespace": matrix.CASES[case][1], "metadata.name": "pod-1", "status.podIP": "192.0.2.1",
              "spec.nodeName": "node-1"}
    found = {}
    for deployment in of_kind(case, "Deployment"):
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        variables = {
            it["name"]: it["value"] if "value" in it else fields[it["valueFrom"]["fieldRef"]["fieldPath"]]
            for it in container["env"]
        }
        found[deployment["metadata"]["name"]] = {"command": container["command"], "variables": variables}
    return found
