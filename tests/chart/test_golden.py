"""What the injector makes of pods is what Kubernetes knows, from the oldest version that can know it on.

`injector/tests/golden/NAME.yaml` are inputs, `NAME.out.yaml` what comes out of them, `NAME.legacy.yaml` the
same with sidecars of the legacy mode.
"""

import copy
import functools
import unittest

import yaml
from kubernetes_validate import utils

from common import ROOT, refusal

GOLDEN = ROOT / "injector" / "tests" / "golden"
VERSIONS = sorted({version.rsplit(".", 1)[0] for version in utils.all_versions()}, key=lambda it: int(it.split(".")[1]))
OLDEST, NEWEST = VERSIONS[0], VERSIONS[-1]
MIDDLE = VERSIONS[len(VERSIONS) // 2]

# What older versions do not know, why it is there all the same, and the version whose schema has it first.
FEATURES = {
    "restartPolicy of an init container": (
        "1.28", "a native sidecar is one; by default from 1.29 on, so older clusters take the legacy mode"),
    "sleep before the end": (
        "1.29", "only where an annotation asks for it; by default from 1.30 on"),
}
# Inputs that no API server would take, on purpose: what it is, and where.
STRANGE = {"unknown-fields": ["fieldOfTomorrow", "anotherOne"]}
# Fewer would not be what the suite is for.
LEAST = 30


def resources(path):
    """Objects of a file, lists taken apart."""
    for item in yaml.safe_load_all(path.read_text()):
        if not item:
            continue
        yield from item["items"] if item["kind"].endswith("List") else [item]


def without(node, names):
    """The same without these fields, wherever they are, and how many there were."""
    if isinstance(node, dict):
        kept = {key: without(value, names) for key, value in node.items() if key not in names}
        return ({key: value for key, (value, _) in kept.items()},
                sum(count for _, count in kept.values()) + len(node) - len(kept))
    if isinstance(node, list):
        parts = [without(value, names) for value in node]
        return [value for value, _ in parts], sum(count for _, count in parts)
    return node, 0


def pod_specs(node):
    """Specs of the pods in an object, however deep."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from pod_specs(value)
    elif isinstance(node, list):
        for value in node:
            yield from pod_specs(value)


def features(item):
    """Which of FEATURES an object uses."""
    found = set()
    for spec in pod_specs(item):
        if any("restartPolicy" in it for it in spec.get("initContainers") or []):
            found.add("restartPolicy of an init container")
        containers = (spec.get("containers") or []) + (spec.get("initContainers") or [])
        for container in containers:
            hooks = (container.get("lifecycle") or {}).values()
            if any("sleep" in (hook or {}) for hook in hooks):
                found.add("sleep before the end")
    return found


@functools.lru_cache(maxsize=None)
def outputs():
    """Pairs of a file and its objects, strange fields taken out."""
    found = []
    for path in sorted(GOLDEN.glob("*.yaml")):
        name, _, kind = path.stem.partition(".")
        if kind not in ("out", "legacy"):
            continue
        for item in resources(path):
            if strange := STRANGE.get(name):
                item, count = without(item, strange)
                assert count == len(strange), f"{path}: {count} of {strange}"
            found.append((path.name, item))
    return found


def is_after(version, than):
    return int(version.split(".")[1]) >= int(than.split(".")[1])


class Golden(unittest.TestCase):
    def oldest_of(self, item):
        needed = [FEATURES[feature][0] for feature in features(item)]
        return max(needed + [OLDEST], key=lambda it: int(it.split(".")[1]))

    def test_there_are_enough(self):
        names = {name.split(".")[0] for name, _ in outputs()}
        self.assertGreaterEqual(len(names), LEAST)
        inputs = {path.stem for path in GOLDEN.glob("*.yaml") if "." not in path.stem}
        self.assertEqual(names, inputs)

    def test_every_output_is_known_from_its_oldest_version_on(self):
        for name, item in outputs():
            oldest = self.oldest_of(item)
            for version in [oldest] + [it for it in (MIDDLE, NEWEST) if is_after(it, oldest)]:
                with self.subTest(file=name, version=version):
                    self.assertIsNone(refusal(item, version))

    def test_no_version_is_left_out_without_need(self):
        """The version before the oldest refuses what it does not know, and nothing else."""
        for name, item in outputs():
            oldest = self.oldest_of(item)
            if oldest == OLDEST:
                continue
            before = VERSIONS[VERSIONS.index(oldest) - 1]
            field = "sleep" if oldest == "1.29" else "restartPolicy"
            with self.subTest(file=name, version=before):
                self.assertIn(f"'{field}' was unexpected", refusal(item, before) or "")

    def test_every_exception_is_needed(self):
        used = set().union(*(features(item) for _, item in outputs()))
        self.assertEqual(used, set(FEATURES))
        for name, fields in STRANGE.items():
            for item in resources(GOLDEN / f"{name}.out.yaml"):
                for version in (OLDEST, MIDDLE, NEWEST):
                    self.assertRegex(refusal(item, version) or "", "|".join(fields))

    def test_legacy_sidecars_need_no_newer_version_than_the_pod(self):
        for name, item in outputs():
            if not name.endswith(".legacy.yaml"):
                continue
            source = GOLDEN / (name.split(".")[0] + ".yaml")
            own = set().union(*(features(it) for it in resources(source)))
            with self.subTest(file=name):
                self.assertLessEqual(features(item) - {"sleep before the end"}, own)

    def test_a_typo_would_be_found(self):
        name, item = outputs()[0]
        broken = copy.deepcopy(item)
        next(pod_specs(broken))["containers"][0]["imagePulPolicy"] = "Always"
        self.assertIn("'imagePulPolicy' was unexpected", refusal(broken, NEWEST))


if __name__ == "__main__":
    unittest.main(verbosity=2)
