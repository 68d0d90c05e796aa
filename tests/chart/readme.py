#!/usr/bin/env python3
"""Writes charts/weft/README.md from Chart.yaml and the comments of values.yaml; --check only compares."""

import json
import sys
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "weft"
PATH = CHART / "README.md"

HEAD = """\
<!-- Made from values.yaml by tests/chart/readme.py; not edited by hand. -->
# The Weft chart

{description}

It installs, into a namespace of their own: the definition of TrafficPolicy, the control plane, the injector and
its webhook. Nothing changes for any pod until its namespace, or the pod itself, is labelled.

```sh
helm install weft charts/weft --namespace weft --create-namespace
kubectl label namespace shop weft.dev/inject=enabled
helm test weft --namespace weft
```

- **Kubernetes** {kube_version} or newer, with or without a vendor's suffix: what the webhook's `matchConditions` and native
  sidecars need. `proxy.sidecarMode: legacy` is for platforms of these versions that do not run native sidecars.
- **Images** are not published anywhere: build them, and name your registry with `image.registry`.
- **One mesh per cluster**: names of objects are fixed, whatever the release is called.
- **For production** begin with `-f charts/weft/values-ha.yaml`.
- **TrafficPolicies stay** when the release is uninstalled, and so does their definition. Upgrades change it with the
  release. Where somebody else installs it (`crds.install: false`), this applies it:
  `weft internal crd | kubectl apply --server-side -f -`.
- **From `weft install` to Helm**: what is there already is taken over by `helm install --take-ownership`. The same holds
  for the definition where a release of another name is installed after one that was uninstalled.
- **The webhook's certificate** is made and renewed by the control plane, which writes `caBundle` too. It is not in the
  chart, so that no upgrade and no GitOps tool sees a difference.
- **Values** that are misspelled, of the wrong kind or out of bounds are refused, with the place.
- **Dashboards** are in `dashboards/`, alert rules in `rules/`, each usable without Helm.

## Values
"""


def entries(text):
    """Of each value, in its order: path, comment, default. A map whose entries have no comments is one
    value; its own comment is about all of them. Raises ValueError where a value has no comment."""
    lines = text.splitlines()
    comments, values = {}, yaml.safe_load(text)
    path, waiting = [], []
    for line in lines:
        stripped = line.strip()
        depth = (len(line) - len(line.lstrip())) // 2
        if stripped.startswith("#"):
            waiting.append(stripped.removeprefix("#").strip())
        elif not stripped:
            waiting = []
        elif not stripped.startswith("-"):
            path = path[:depth] + [stripped.split(":")[0]]
            comments[tuple(path)] = " ".join(waiting)
            waiting = []

    def has_comments_below(at):
        return any(said and len(path) > len(at) and path[: len(at)] == at for path, said in comments.items())

    def walk(value, at):
        if isinstance(value, dict) and value and has_comments_below(at):
            if at and comments[at]:
                yield at, comments[at], None
            for key, below in value.items():
                yield from walk(below, at + (key,))
            return
        if not comments[at]:
            raise ValueError(f"values.yaml: {'.'.join(at)} has no comment")
        yield at, comments[at], json.dumps(value)

    yield from walk(values, ())


def text():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    kube_version = chart["kubeVersion"].removeprefix(">=").removesuffix(".0-0")
    out = HEAD.format(description=chart["description"], kube_version=kube_version)
    section = None
    for path, said, default in entries((CHART / "values.yaml").read_text()):
        said = said.replace("|", "\\|")
        if default is None and len(path) == 1:
            section = path[0]
            out += f"\n### `{section}`\n\n{said}\n\n| Value | Default | Meaning |\n|---|---|---|\n"
            continue
        if path[0] != section:
            section = path[0]
            out += f"\n### `{section}`\n\n| Value | Default | Meaning |\n|---|---|---|\n"
        shown = "" if default is None else f"`{default}`"
        out += f"| `{'.'.join(path)}` | {shown} | {said} |\n"
    return out


def main():
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if PATH.read_text() == text() else f"{PATH} is stale")
    PATH.write_text(text())


if __name__ == "__main__":
    main()
