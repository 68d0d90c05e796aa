"""Renders the chart for `weft install`, which has the renderings inside: charts/renderings/.

    python tests/chart/renderings.py            makes them anew
    python tests/chart/renderings.py --check    exit code 1 where they are not the chart's

`weft.yaml` and `weft-ha.yaml` are what Helm renders with values that nobody has: stand-ins, which
`weft install` replaces. `digests.json` says what Helm renders with other values: the tests of
cli/src/install prove that replacing comes to the same, byte for byte.
"""

import hashlib
import json
import sys
from pathlib import Path

import yaml
from helm_python import Chart

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "weft"
RENDERINGS = ROOT / "charts" / "renderings"
# Here and in cli/src/install/rendering.rs.
STAND_INS = {
    "namespace": "weft-stand-in-namespace",
    "image": "registry.weft-stand-in.example:5000/images",
    "trustDomain": "trust.weft-stand-in.example",
}
# What nothing in the chart may depend on but by writing it down: short and long, of letters and of others.
CASES = [
    {},
    {"namespace": "mesh"},
    {"image": "registry.example:5000/mesh"},
    {"trustDomain": "prod.example.org"},
    {"namespace": "a", "image": "r", "trustDomain": "t"},
    {"namespace": "5-meshes-" + 54 * "n", "image": "localhost:5000", "trustDomain": "a_b-" + 251 * "t"},
    {"namespace": "weft-system", "image": "registry.example/a/b/c", "trustDomain": "weft.local"},
]
# The order in which Helm installs kinds, as far as the chart has them. What is missing here is refused.
ORDER = [
    "NetworkPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "ConfigMap",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "Deployment",
    "HorizontalPodAutoscaler",
    "MutatingWebhookConfiguration",
]
HOOK = "helm.sh/hook"


def helm_values(settings, ha):
    """The chart's values for what `--set` and `--ha` of `weft install` say."""
    values = yaml.safe_load((CHART / "values-ha.yaml").read_text()) if ha else {}
    if "image" in settings:
        values.setdefault("image", {})["registry"] = settings["image"]
    if "trustDomain" in settings:
        values.setdefault("mesh", {})["trustDomain"] = settings["trustDomain"]
    return values


def rendered(chart, settings, ha):
    """What Helm renders, in the order in which it installs, without hooks, notes and what is empty."""
    values = helm_values(settings, ha)
    chart.validate_schema(values)
    files = chart.render(values, name="weft", namespace=settings.get("namespace", "weft"))
    documents = []
    for path, text in sorted(files.items()):
        if not path.endswith(".yaml"):
            continue
        for document in ("\n" + text).split("\n---"):
            objects = yaml.safe_load(document)
            if objects is None:
                continue
            metadata = objects["metadata"]
            if HOOK in metadata.get("annotations", {}):
                continue
            place = (ORDER.index(objects["kind"]), path, metadata["name"])
            documents.append((place, f"---\n# Source: {path}\n{document.strip()}\n"))
    return "".join(document for _, document in sorted(documents))


def renderings():
    """Every file of charts/renderings by its name."""
    with Chart.load(CHART) as chart:
        digests = []
        for ha in (False, True):
            for settings in CASES:
                text = rendered(chart, settings, ha)
                digests.append({
                    "set": [f"{key}={value}" for key, value in settings.items()],
                    "ha": ha,
                    "sha256": hashlib.sha256(text.encode()).hexdigest(),
                })
        return {
            "weft.yaml": rendered(chart, STAND_INS, False),
            "weft-ha.yaml": rendered(chart, STAND_INS, True),
            "digests.json": json.dumps(digests, indent=2) + "\n",
        }


def stale():
    """Names of the files that are not what the chart renders to, or are not there."""
    made = renderings()
    there = {path.name: path.read_text() for path in RENDERINGS.iterdir()}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def main(arguments):
    if arguments == ["--check"]:
        wrong = stale()
        for name in wrong:
            print(f"charts/renderings/{name} is not what the chart renders to: run {Path(__file__).name}")
        return 1 if wrong else 0
    if arguments:
        print(__doc__)
        return 64
    RENDERINGS.mkdir(exist_ok=True)
    for name, text in renderings().items():
        (RENDERINGS / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
