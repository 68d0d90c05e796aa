#!/usr/bin/env python3
"""Renders the chart with the real Helm engine, as `helm template` would.

    python tests/chart/render.py [--values FILE]... [--set a.b=c]... [--namespace NS] [--release NAME]
                                 [--tests] [-o OUT]

Prints one stream of YAML documents, each under the template that it is from, definitions first and the
webhook last, as they may be applied. NOTES.txt is left out, and so are the objects of `helm test` unless
--tests asks for them.
"""

import argparse
import functools
import sys
from pathlib import Path

import yaml
from helm_python import Chart
from helm_python.errors import HelmError

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "weft"

# What others need comes first. The webhook comes last: from then on pods of labelled namespaces wait for it.
ORDER = [
    "CustomResourceDefinition", "ServiceAccount", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "Role",
    "RoleBinding", "Service", "Deployment", "PodDisruptionBudget", "HorizontalPodAutoscaler",
    "NetworkPolicy", "PodMonitor", "ServiceMonitor", "PrometheusRule", "Pod",
    "MutatingWebhookConfiguration",
]
HOOK = "helm.sh/hook"


class Strict(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):
    """Refuses a key that is there twice."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise ValueError(f"a key is there twice: {sorted(keys)}")
        return super().construct_mapping(node, deep)


@functools.lru_cache(maxsize=None)
def chart():
    """The chart, read once."""
    return Chart.load(CHART)


def templates(values=None, namespace="weft", release="weft"):
    """Text by template. Raises HelmError where the values are refused."""
    return chart().render(values or {}, name=release, namespace=namespace)


def documents(values=None, namespace="weft", release="weft", tests=False):
    """Pairs of a text and the object that it is, in the order of ORDER."""
    found = []
    for template, text in sorted(templates(values, namespace, release).items()):
        if not template.endswith(".yaml"):
            continue
        for part in text.split("\n---\n"):
            part = part.removeprefix("---\n").strip("\n")
            parsed = yaml.load(part, Loader=Strict)
            if parsed is None:
                continue
            if HOOK in parsed["metadata"].get("annotations", {}) and not tests:
                continue
            found.append((f"# Source: {template}\n{part}\n", parsed))
    return sorted(found, key=lambda pair: ORDER.index(pair[1]["kind"]))


def stream(values=None, namespace="weft", release="weft", tests=False):
    """All of it as one text."""
    texts = [text for text, _ in documents(values, namespace, release, tests)]
    return "---\n" + "---\n".join(texts)


def merge(below, above):
    """What Helm makes of two files of values: maps are merged, everything else replaces."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = merge(below.get(key), value) if key in below else value
    return merged


def assignment(text):
    """`a.b=c` as values; what follows the equals sign is read as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME.NAME=VALUE")
    for name in reversed(path.split(".")):
        value = {name: value if isinstance(value, dict) else yaml.safe_load(value)}
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", action="append", default=[], metavar="FILE", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", type=assignment)
    parser.add_argument("--namespace", default="weft")
    parser.add_argument("--release", default="weft")
    parser.add_argument("--tests", action="store_true", help="with the objects of `helm test`")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, help="a file; stdout without it")
    args = parser.parse_args()
    read = [yaml.safe_load(path.read_text()) or {} for path in args.values]
    values = functools.reduce(merge, read + args.set, {})
    try:
        text = stream(values, args.namespace, args.release, args.tests)
    except HelmError as error:
        sys.exit(f"render.py: {error}")
    if args.output:
        args.output.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
