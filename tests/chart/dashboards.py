#!/usr/bin/env python3
"""Writes charts/weft/dashboards/*.json from the descriptions in tests/chart/boards; --check only compares."""

import json
import sys
from pathlib import Path

from boards import cluster, proxies, services

FOLDER = Path(__file__).resolve().parents[2] / "charts" / "weft" / "dashboards"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Columns of Grafana's grid.
WIDTH = 24
HEIGHTS = {"stat": 4, "timeseries": 8, "table": 8}


def variable(name, label, query, every):
    """A variable with the values of a label; `every`: any number of them, all at first."""
    made = {
        "name": name, "label": label, "type": "query", "datasource": SOURCE,
        "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1, "hide": 0,
    }
    if not every:
        return made | {"current": {}, "includeAll": False, "multi": False}
    return made | {"current": {"text": ["All"], "value": ["$__all"]}, "includeAll": True, "multi": True, "allValue": ".*"}


def target(kind, index, expression, legend):
    made = {"refId": "ABCDEFGH"[index], "datasource": SOURCE, "expr": expression}
    if kind == "table":
        return made | {"format": "table", "instant": True}
    return made | ({"legendFormat": legend} if legend else {})


def options(kind):
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    if kind == "table":
        return {"showHeader": True}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}


def fields(panel):
    defaults = {"unit": panel["unit"]}
    if steps := panel.get("steps"):
        # The first colour holds from below; each later one from its value on.
        made = [{"color": color, "value": value} for color, value in zip(steps[::2], [None, *steps[1::2]])]
        defaults["thresholds"] = {"mode": "absolute", "steps": made}
    if panel["kind"] == "timeseries":
        custom = {"lineWidth": 1, "fillOpacity": 20 if panel.get("stacked") else 5}
        defaults["custom"] = custom | ({"stacking": {"mode": "normal"}} if panel.get("stacked") else {})
    if link := panel.get("link"):
        title, path = link
        defaults["links"] = [{"title": title, "url": f"/d/{path}&${{__url_time_range}}&var-datasource=${{datasource}}"}]
    overrides = [
        {"matcher": {"id": "byName", "options": f"Value #{'ABCDEFGH'[index]}"}, "properties": [
            {"id": "displayName", "value": name}, {"id": "unit", "value": unit}]}
        for index, (name, unit) in enumerate(panel.get("columns", []))]
    return {"defaults": defaults, "overrides": overrides}


def panels(described):
    """From left to right; what has no room begins a new line."""
    x = y = height = 0
    for number, panel in enumerate(described, 1):
        kind, width = panel["kind"], panel["width"]
        if x + width > WIDTH or (x and HEIGHTS[kind] != height):
            x, y = 0, y + height
        height = HEIGHTS[kind]
        made = {
            "id": number, "type": kind, "title": panel["title"], "description": panel["about"], "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": width, "h": height}, "fieldConfig": fields(panel),
            "targets": [target(kind, index, *query) for index, query in enumerate(panel["queries"])],
            "options": options(kind),
        }
        if kind == "table":
            made["transformations"] = [
                {"id": "merge", "options": {}}, {"id": "organize", "options": {"excludeByName": {"Time": True}}}]
        x += width
        yield made


def dashboard(uid, title, about, variables, described):
    source = {
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {},
        "hide": 0, "refresh": 1}
    return {
        "id": None, "uid": uid, "title": f"Weft / {title}", "description": about, "tags": ["weft"], "editable": True,
        "schemaVersion": 39, "version": 1, "timezone": "browser", "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"}, "graphTooltip": 1,
        "links": [{"type": "dashboards", "title": "Weft", "tags": ["weft"], "asDropdown": True, "includeVars": True,
                   "keepTime": True}],
        "annotations": {"list": []},
        "templating": {"list": [source, *(variable(*it) for it in variables)]},
        "panels": list(panels(described)),
    }


def files():
    """Name and text of every file."""
    for module in (services, proxies, cluster):
        for uid, *rest in module.BOARDS:
            made = dashboard(uid, *rest)
            yield f"{uid.removeprefix('weft-')}.json", json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def stale():
    """Files that are not what they are to be."""
    wanted = dict(files())
    there = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(f"stale: {', '.join(stale())}" if stale() else 0)
    for name, text in files():
        (FOLDER / name).write_text(text)
