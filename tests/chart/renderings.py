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

import yaml

import render

RENDERINGS = render.ROOT / "charts" / "renderings"
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


def rendered(settings, ha):
    """What Helm renders for what `--set` and `--ha` of `weft install` say."""
    values = yaml.safe_load((render.CHART / "values-ha.yaml").read_text()) if ha else {}
    if "image" in settings:
        values = render.merge(values, {"image": {"registry": settings["image"]}})
    if "trustDomain" in settings:
        values = render.merge(values, {"mesh": {"trustDomain": settings["trustDomain"]}})
    return render.stream(values, settings.get("namespace", "weft"))


def renderings():
    """Every file of charts/renderings by its name."""
    digests = []
    for ha in (False, True):
        for settings in CASES:
            digests.append({
                "set": [f"{key}={value}" for key, value in settings.items()],
                "ha": ha,
                "sha256": hashlib.sha256(rendered(settings, ha).encode()).hexdigest(),
            })
    return {
        "weft.yaml": rendered(STAND_INS, False),
        "weft-ha.yaml": rendered(STAND_INS, True),
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
            print(f"charts/renderings/{name} is not what the chart renders to: run tests/chart/renderings.py")
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
