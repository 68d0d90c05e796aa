"""Monitors, alert rules and dashboards: they select what is there, and ask for metrics that are there."""

import json
import re
import unittest

import yaml

import render
from common import OPERATOR, ROOT, every_case, matches, names, objects, of_kind, one, pods, values_of

# The programs say their metrics' names where they make them.
SOURCES = ["proxy/src", "control-plane/src", "injector/src"]
# Made by Prometheus itself, or by Kubernetes.
FUNCTIONS = {
    "absent", "and", "avg", "avg_over_time", "bool", "bottomk", "by", "count", "group_left", "group_right",
    "histogram_quantile", "ignoring", "increase", "label_values", "max", "max_over_time", "min", "offset", "on", "or",
    "rate", "sum", "time", "topk", "unless", "vector", "without",
}
GROUPING = r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)"
# What rules record is named by the level, what it is, and how it came about.
RECORDED = r"\bweft:[a-z_]+:[a-z0-9_]+"
TARGET_LABELS = {"namespace", "pod", "workload", "job", "le"}


def metrics():
    """Names of all metrics that the programs make, as literals in their sources; tests do not count."""
    found = set()
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.rs"):
            if "tests" not in path.parts and path.name != "tests.rs":
                text = path.read_text().split("#[cfg(test)]\nmod tests {")[0]
                found |= set(re.findall(r'"((?:weft|process)_[a-z_]+)"', text))
    assert "weft_requests_total" in found and "weft_control_plane_streams" in found
    return found


def label_words():
    """Words that the sources have as literals, labels among them: enough to find one that is misspelled."""
    text = "".join(path.read_text() for folder in SOURCES for path in (ROOT / folder).rglob("*.rs"))
    return set(re.findall(r'"([a-z_]+)"', text))


def wanted(expression):
    """Metrics that an expression of PromQL asks for, and labels that it names."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    labels = set()
    for inside in re.findall(r"\{([^}]*)\}", bare):
        labels |= set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", inside))
    for inside in re.findall(GROUPING, bare):
        labels |= {it.strip() for it in inside.split(",")} - {""}
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|" + GROUPING.replace("([^)]*)", "[^)]*"), " ", bare)
    recorded = set(re.findall(RECORDED, bare))
    found = set(re.findall(r"[a-z_][a-z_0-9]{2,}", re.sub(RECORDED, " ", bare))) - FUNCTIONS
    return {re.sub(r"_(bucket|sum|count)$", "", it) for it in found} | recorded, labels


def rules():
    """Every rule of the chart's files."""
    files = [yaml.safe_load(path.read_text()) for path in sorted((render.CHART / "rules").glob("*.yaml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def expressions():
    """Place and text of everything that is asked of Prometheus."""
    for rule in rules():
        yield f"rule {rule.get('alert') or rule['record']}", rule["expr"]
    for path in sorted((render.CHART / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                query = variable["query"]["query"]
                yield f"{path.name}: ${variable['name']}", re.fullmatch(r"label_values\((.*), \w+\)", query)[1]


# Fields of the operator's kinds, as far as they are used here: what is misspelled is none of them.
RELABELING = {"action", "sourceLabels", "regex", "targetLabel", "replacement"}
ENDPOINT = {"port", "path", "interval", "scrapeTimeout", "relabelings", "metricRelabelings"}
MONITOR = {"namespaceSelector", "selector"}
FIELDS = {
    "PodMonitor": MONITOR | {"podMetricsEndpoints"},
    "ServiceMonitor": MONITOR | {"endpoints"},
    "PrometheusRule": {"groups"},
}


class Monitors(unittest.TestCase):
    @every_case
    def test_fields_are_those_of_the_operator(self, case):
        for item in of_kind(case, *FIELDS):
            self.assertEqual(set(item["spec"]), FIELDS[item["kind"]])
            for endpoint in item["spec"].get("podMetricsEndpoints", item["spec"].get("endpoints", [])):
                self.assertLessEqual({"port", "path", "interval", "scrapeTimeout"}, set(endpoint))
                self.assertLessEqual(set(endpoint), ENDPOINT)
                for rule in endpoint["relabelings"] + endpoint.get("metricRelabelings", []):
                    self.assertLessEqual(set(rule), RELABELING)
                    self.assertIn(rule["action"], ["replace", "labeldrop"])
            for group in item["spec"].get("groups", []):
                self.assertEqual(set(group), {"name", "rules"})

    def test_they_are_asked_for(self):
        self.assertEqual([it for it in objects("defaults") if it["apiVersion"] == OPERATOR], [])
        monitors = {(it["kind"], it["metadata"]["name"]) for it in objects("everything") if it["apiVersion"] == OPERATOR}
        self.assertEqual(monitors, {
            ("PodMonitor", "weft-sidecars"), ("PodMonitor", "weft-control-plane"),
            ("PodMonitor", "weft-injector"), ("PrometheusRule", "weft"), ("PrometheusRule", "weft-http"),
        })

    @every_case
    def test_components_are_selected_by_a_port_that_they_have(self, case):
        found = [it for it in of_kind(case, "PodMonitor") if it["metadata"]["name"] != "weft-sidecars"]
        for monitor in found:
            (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
            selected = [spec for _, labels, spec in pods(case) if matches(monitor["spec"]["selector"], labels)]
            self.assertEqual(len(selected), 1)
            ports = [port["name"] for port in selected[0]["containers"][0]["ports"]]
            self.assertIn(endpoint["port"], ports)
        for monitor in of_kind(case, "ServiceMonitor"):
            (endpoint,) = monitor["spec"]["endpoints"]
            services = of_kind(case, "Service")
            services = [it for it in services if matches(monitor["spec"]["selector"], it["metadata"]["labels"])]
            self.assertEqual(len(services), 1)
            self.assertIn(endpoint["port"], [port["name"] for port in services[0]["spec"]["ports"]])
            found.append(monitor)
        asked = values_of(case).get("monitoring", {})
        asked = any(asked.get(kind, {}).get("components") for kind in ("podMonitor", "serviceMonitor"))
        self.assertEqual(len(found), 2 if asked else 0)
        for monitor in found:
            self.assertEqual(monitor["spec"]["namespaceSelector"], {"matchNames": [monitor["metadata"]["namespace"]]})

    def test_sidecars_are_selected_by_their_port_everywhere(self):
        spec = one("pod-monitors", "PodMonitor", "weft-sidecars")["spec"]
        self.assertEqual((spec["namespaceSelector"], spec["selector"]), ({"any": True}, {}))
        (endpoint,) = spec["podMetricsEndpoints"]
        golden = (ROOT / "injector/tests/golden/plain.out.yaml").read_text()
        sidecar = next(it for it in yaml.safe_load(golden)["spec"]["initContainers"] if it["name"] == names()["PROXY_CONTAINER"])
        self.assertIn(endpoint["port"], [port["name"] for port in sidecar["ports"]])
        # Weft's own pods have another name for it, else they would be fetched twice.
        for _, _, own in pods("pod-monitors"):
            for container in own["containers"]:
                self.assertNotIn(endpoint["port"], [port["name"] for port in container.get("ports", [])])

    def test_a_sidecars_workload_is_the_pods_owner(self):
        spec = one("pod-monitors", "PodMonitor", "weft-sidecars")["spec"]
        rules = spec["podMetricsEndpoints"][0]["relabelings"]

        def workload(pod, kind="", name=""):
            labels = {"__meta_kubernetes_pod_name": pod, "__meta_kubernetes_pod_controller_kind": kind,
                      "__meta_kubernetes_pod_controller_name": name, "__meta_kubernetes_namespace": "shop"}
            # As Prometheus does it.
            for rule in rules:
                value = ";".join(labels.get(it, "") for it in rule.get("sourceLabels", []))
                if found := re.fullmatch(rule.get("regex", "(.*)"), value):
                    replacement = rule.get("replacement", "$1").replace("$1", r"\1" if found.groups() else "")
                    labels[rule["targetLabel"]] = found.expand(replacement)
            self.assertEqual((labels["namespace"], labels["pod"], labels["job"]), ("shop", pod, "weft-sidecars"))
            return labels["workload"]

        self.assertEqual(workload("web-7d4b9c-x2x", "ReplicaSet", "web-7d4b9c"), "web")
        self.assertEqual(workload("a-b-7d4b9c-x2x", "ReplicaSet", "a-b-7d4b9c"), "a-b")
        self.assertEqual(workload("db-0", "StatefulSet", "db"), "db")
        self.assertEqual(workload("alone"), "alone")


class Asked(unittest.TestCase):
    """Rules and dashboards ask for what the programs have."""

    def test_metrics_and_labels_are_there(self):
        there, words, count = metrics(), label_words() | TARGET_LABELS, 0
        there |= {rule["record"] for rule in rules() if "record" in rule}
        for place, expression in expressions():
            asked, labels = wanted(expression)
            with self.subTest(place=place):
                self.assertTrue(asked, expression)
                self.assertLessEqual(asked, there)
                self.assertLessEqual(labels, words)
            count += 1
        self.assertGreater(count, 150)

    def test_what_is_not_there_is_found(self):
        asked, labels = wanted('sum by (a) (rate(weft_bogus_total{direction="x", b!~"y"}[5m])) > time()')
        self.assertEqual((asked, labels), ({"weft_bogus_total"}, {"a", "b", "direction"}))
        self.assertNotIn("weft_bogus_total", metrics())

    def test_rules_are_the_file(self):
        rule = one("everything", "PrometheusRule", "weft")
        text = (render.CHART / "rules" / "weft.rules.yaml").read_text()
        pages = values_of("everything")["monitoring"]["prometheusRule"]["runbooks"]
        self.assertTrue(pages.endswith("/"))
        text = text.replace("runbook_url: docs/runbooks/", f"runbook_url: {pages}")
        self.assertEqual(rule["spec"], yaml.safe_load(text))
        self.assertEqual(rule["metadata"]["labels"]["release"], "prometheus")
        seen = set()
        for group in rule["spec"]["groups"]:
            for alert in group["rules"]:
                if "record" in alert:
                    self.assertEqual(set(alert), {"record", "expr"})
                    self.assertRegex(alert["record"], f"^{RECORDED}$")
                    continue
                self.assertLessEqual(set(alert), {"alert", "expr", "for", "labels", "annotations"})
                self.assertIn(alert["labels"]["severity"], ["critical", "warning", "info"])
                self.assertEqual(set(alert["annotations"]), {"summary", "description", "runbook_url"})
                self.assertRegex(alert["alert"], r"^Weft[A-Za-z]+$")
                self.assertEqual(alert["annotations"]["runbook_url"], f"{pages}{alert['alert']}.md")
                self.assertNotIn(alert["alert"], seen)
                seen.add(alert["alert"])
        self.assertGreater(len(seen), 20)

    def test_rules_for_other_names_are_the_file(self):
        rule = one("everything", "PrometheusRule", "weft-http")
        self.assertEqual(rule["spec"], yaml.safe_load((render.CHART / "rules" / "http.rules.yaml").read_text()))

    def test_dashboards_are_current(self):
        import dashboards

        self.assertEqual(dashboards.stale(), [], "run `target/python/bin/python tests/chart/dashboards.py`")

    def test_dashboards_lead_to_each_other(self):
        boards = {}
        for path in (render.CHART / "dashboards").glob("*.json"):
            dashboard = json.loads(path.read_text())
            variables = {it["name"] for it in dashboard["templating"]["list"]}
            boards[dashboard["uid"]] = (variables, path.read_text())
        reached = set()
        for uid, (_, text) in boards.items():
            for there, variables in re.findall(r'"/d/([a-z-]+)\?([^"]*)"', text):
                reached.add(there)
                self.assertLessEqual(set(re.findall(r"var-(\w+)=", variables)), boards[there][0], f"{uid} to {there}")
        # The overview is where one begins.
        self.assertEqual(boards.keys() - reached, {"weft-overview"})

    def test_dashboards_are_the_files(self):
        maps = [it for it in of_kind("everything", "ConfigMap")]
        files = sorted((render.CHART / "dashboards").glob("*.json"))
        self.assertEqual(len(maps), len(files))
        for path, found in zip(files, maps):
            (text,) = found["data"].values()
            self.assertEqual(json.loads(text), json.loads(path.read_text()))
            self.assertLess(len(text), 1 << 20)
            self.assertEqual(found["metadata"]["labels"]["grafana_dashboard"], "1")
            self.assertEqual(found["metadata"]["namespace"], "grafana")
            self.assertEqual(found["metadata"]["annotations"], {"grafana_folder": "Weft"})
        self.assertEqual(of_kind("defaults", "ConfigMap"), [])

    def test_dashboards_run_anywhere(self):
        uids = set()
        for path in sorted((render.CHART / "dashboards").glob("*.json")):
            dashboard = json.loads(path.read_text())
            self.assertIsNone(dashboard["id"])
            self.assertNotIn("__inputs", dashboard)
            self.assertGreaterEqual(dashboard["schemaVersion"], 36)
            self.assertNotIn(dashboard["uid"], uids)
            uids.add(dashboard["uid"])
            variables = {it["name"] for it in dashboard["templating"]["list"]}
            source = {"type": "prometheus", "uid": "${datasource}"}
            ids, places = set(), []
            for panel in dashboard["panels"]:
                self.assertNotIn(panel["id"], ids)
                ids.add(panel["id"])
                self.assertTrue(panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"])
                self.assertEqual(panel["datasource"], source)
                grid = panel["gridPos"]
                self.assertLessEqual(grid["x"] + grid["w"], 24)
                for other in places:
                    apart = (grid["x"] >= other["x"] + other["w"] or other["x"] >= grid["x"] + grid["w"]
                             or grid["y"] >= other["y"] + other["h"] or other["y"] >= grid["y"] + grid["h"])
                    self.assertTrue(apart, f"{path.name}: {panel['title']} covers another panel")
                places.append(grid)
                for target in panel["targets"]:
                    self.assertEqual(target["datasource"], source)
                    used = set(re.findall(r"\$(?!__)\{?(\w+)", target["expr"]))
                    self.assertLessEqual(used, variables)
                    self.assertEqual(target["expr"].count("("), target["expr"].count(")"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
