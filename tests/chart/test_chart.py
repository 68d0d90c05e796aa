"""What the chart renders: accepted by Kubernetes, consistent in itself, and no more allowed than needed."""

import json
import re
import tempfile
import unittest
from pathlib import Path

import yaml
from helm_python import Chart, lint
from helm_python.errors import HelmError

import matrix
import render
from common import (
    OPERATOR, ROOT, VERSIONS, environment, every_case, matches, names, objects, of_kind, one, pods,
    refusal, values_of,
)

CLUSTER_WIDE = {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"}
#: What a Deployment runs, by its name: component, program, service account.
PROGRAMS = {
    "weft-control-plane": ("control-plane", ["weft-control-plane", "serve"], "control-plane"),
    "weft-injector": ("injector", ["weft-injector"], "injector"),
}


class Accepted(unittest.TestCase):
    """By Helm and by Kubernetes."""

    @every_case
    def test_lints_strictly(self, case):
        report = lint(render.CHART, values_of(case), strict=True, namespace=matrix.CASES[case][1])
        self.assertEqual((report["messages"], report["errors"]), ([], []))
        self.assertEqual(report["total_charts_linted"], 1)

    @every_case
    def test_is_what_kubernetes_knows(self, case):
        checked = 0
        for item in objects(case):
            if item["apiVersion"] == OPERATOR:
                continue
            for version in VERSIONS:
                self.assertIsNone(refusal(item, version), f"{version}: {item['metadata']['name']}")
                checked += 1
        self.assertGreaterEqual(checked, 3 * 18)

    def test_what_kubernetes_does_not_know_is_found(self):
        # The tests above can fail.
        item = json.loads(json.dumps(one("defaults", "Deployment", "weft-injector")))
        item["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
        self.assertIn("'readinesProbe' was unexpected", refusal(item, VERSIONS[0]))

    def test_an_archive_has_all_of_it(self):
        with tempfile.TemporaryDirectory() as folder:
            packed = Chart.load_archive(Path(render.chart().save(folder)).read_bytes())
        values = matrix.EVERYTHING
        self.assertEqual(packed.render(values, name="weft", namespace="weft"), render.templates(values))

    def test_versions_with_a_vendors_suffix_pass(self):
        wanted = yaml.safe_load((render.CHART / "Chart.yaml").read_text())["kubeVersion"]
        self.assertEqual(wanted.strip(">=").split(".0-0")[0], VERSIONS[0])
        asked = {
            "v1.29.0": "true", "v1.29.15-gke.1503000": "true", "v1.31.4-eks-2d5f260": "true",
            "v1.33.1+k3s1": "true", "v1.34.0-alpha.1": "true", "v1.37.0": "true", "v1.28.15": "false",
            "v1.28.15-eks-2d5f260": "false",
        }
        with tempfile.TemporaryDirectory() as folder:
            # Helm compares kubeVersion with the same function.
            (Path(folder) / "templates").mkdir()
            (Path(folder) / "Chart.yaml").write_text("apiVersion: v2\nname: probe\nversion: 0.1.0\n")
            lines = [f"{version!r}: {{{{ semverCompare {json.dumps(wanted)} {json.dumps(version)} }}}}"
                     for version in asked]
            (Path(folder) / "templates" / "probe.yaml").write_text("\n".join(lines))
            rendered = Chart.load(folder).render({}, name="probe", namespace="probe")
        said = yaml.safe_load(rendered["probe/templates/probe.yaml"])
        self.assertEqual({key: str(value).lower() for key, value in said.items()}, asked)

    def test_bad_values_are_refused(self):
        for name, (values, said) in matrix.REFUSED.items():
            with self.subTest(refused=name), self.assertRaises(HelmError) as raised:
                render.templates(values)
            self.assertIn(said, str(raised.exception), name)

    def test_namespaces_of_kubernetes_are_refused(self):
        with self.assertRaisesRegex(HelmError, "cannot be installed into namespace kube-system"):
            render.templates({}, namespace="kube-system")

    def test_every_object_of_the_schema_is_closed(self):
        schema = json.loads((render.CHART / "values.schema.json").read_text())
        # What Kubernetes has the schema of, and what belongs to a parent chart.
        open_ones = {"nodeAffinity", "podAffinity", "podAntiAffinity", "valueFrom", "global"}
        seen = []

        def walk(node, path):
            if isinstance(node, dict):
                if node.get("type") == "object" and path[-1] not in open_ones:
                    seen.append(path)
                    self.assertIn("additionalProperties", node, path)
                    self.assertIsNot(node["additionalProperties"], True, path)
                for key, value in node.items():
                    walk(value, path + [key])
            elif isinstance(node, list):
                for value in node:
                    walk(value, path)

        walk(schema, ["values"])
        self.assertGreater(len(seen), 30)

    def test_the_schema_knows_exactly_the_values(self):
        schema = json.loads((render.CHART / "values.schema.json").read_text())
        values = yaml.safe_load((render.CHART / "values.yaml").read_text())

        def walk(node, value, path):
            if "$ref" in node:
                node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
            if node.get("type") != "object" or "properties" not in node or not isinstance(value, dict):
                return
            known = set(node["properties"])
            if value:
                optional = {"global", "ephemeral-storage", "matchExpressions"}
                optional |= {"cpu"} if path.endswith("resources.limits") else set()
                self.assertEqual(known - set(value) - optional, set(), path)
            for key in value:
                walk(node["properties"][key], value[key], f"{path}.{key}")

        walk(schema, values, "")


class Consistent(unittest.TestCase):
    """Names, labels, selectors and ports fit together."""

    @every_case
    def test_objects_are_where_they_belong(self, case):
        _, namespace, release = matrix.CASES[case]
        seen = set()
        for item in objects(case):
            meta, kind = item["metadata"], item["kind"]
            self.assertNotIn(kind, ["Namespace", "TrafficPolicy", "Secret"])
            wanted = None if kind in CLUSTER_WIDE else namespace
            if meta.get("labels", {}).get("app.kubernetes.io/component") == "dashboards":
                wanted = values_of(case)["dashboards"].get("namespace") or namespace
            self.assertEqual(meta.get("namespace"), wanted, meta["name"])
            identity = (kind, meta.get("namespace"), meta["name"])
            self.assertNotIn(identity, seen)
            seen.add(identity)
            # Made from the types, for every chart the same.
            if kind == "CustomResourceDefinition":
                continue
            labels = meta["labels"]
            self.assertEqual(labels["app.kubernetes.io/name"], "weft")
            self.assertEqual(labels["app.kubernetes.io/instance"], release)
            self.assertEqual(labels["app.kubernetes.io/part-of"], "weft")
            self.assertEqual(labels["app.kubernetes.io/managed-by"], "Helm")
            self.assertRegex(labels["helm.sh/chart"], r"^weft-\d+\.\d+\.\d+")
            self.assertIn("app.kubernetes.io/version", labels)
            self.assertIn("app.kubernetes.io/component", labels)
            common = values_of(case).get("commonLabels", {})
            self.assertLessEqual(common.items(), labels.items(), meta["name"])
        for name, labels, _ in pods(case):
            component = "controlPlane" if name == "weft-control-plane" else "injector"
            more = values_of(case).get(component, {}).get("podLabels", {}) if name in PROGRAMS else {}
            self.assertLessEqual(more.items(), labels.items(), name)

    @every_case
    def test_selectors_match_pods_and_nothing_else(self, case):
        wanted = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}
        all_pods = {name: labels for name, labels, _ in pods(case)}
        selectors = []
        for item in objects(case):
            kind, spec, name = item["kind"], item.get("spec", {}), item["metadata"]["name"]
            if kind in ("Deployment", "PodDisruptionBudget"):
                selectors.append((name, name, spec["selector"]))
            elif kind == "Service":
                of = next(it for it in PROGRAMS if name.startswith(it))
                selectors.append((name, of, {"matchLabels": spec["selector"]}))
            elif kind == "NetworkPolicy":
                selectors.append((name, name, spec["podSelector"]))
            elif kind == "PodMonitor" and spec["selector"]:
                selectors.append((name, name, spec["selector"]))
            if kind == "Deployment":
                for spread in spec["template"]["spec"].get("topologySpreadConstraints", []):
                    selectors.append((name, name, spread["labelSelector"]))
        for by, of, selector in selectors:
            self.assertEqual(set(selector["matchLabels"]), wanted, by)
            found = [name for name, labels in all_pods.items() if matches(selector, labels)]
            self.assertEqual(found, [of], by)
        self.assertGreaterEqual(len(selectors), 5)

    def test_selectors_do_not_change_with_values(self):
        # Those of a Deployment cannot be changed.
        for name in PROGRAMS:
            selectors = [one(case, "Deployment", name)["spec"]["selector"] for case in ("defaults", "everything", "ha")]
            self.assertEqual(selectors[1:], selectors[:-1])

    @every_case
    def test_ports_are_those_of_the_programs(self, case):
        number = {name.split("::")[1]: int(value) for name, value in names().items() if name.startswith("ports::")}
        wanted = {
            "weft-control-plane": {"grpc": number["CONTROL_PLANE"], "admin": number["ADMIN"]},
            "weft-injector": {"https-webhook": number["WEBHOOK"], "admin": number["ADMIN"]},
        }
        for name, ports in wanted.items():
            container = one(case, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]
            self.assertEqual({it["name"]: it["containerPort"] for it in container["ports"]}, ports)
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                self.assertIn(container[probe]["httpGet"]["port"], ports)
            self.assertEqual(container["livenessProbe"]["httpGet"]["path"], "/live")
            self.assertEqual(container["readinessProbe"]["httpGet"]["path"], "/ready")
        for service in of_kind(case, "Service"):
            of = next(it for it in PROGRAMS if service["metadata"]["name"].startswith(it))
            for port in service["spec"]["ports"]:
                self.assertIn(port["targetPort"], wanted[of])
                self.assertIn("appProtocol", port)
                if port["name"] != "https-webhook":
                    # What is spelled by number elsewhere is the same number.
                    self.assertEqual(port["port"], wanted[of][port["targetPort"]])
        for policy in of_kind(case, "NetworkPolicy"):
            ports = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
            self.assertEqual(ports, set(wanted[policy["metadata"]["name"]]))

    @every_case
    def test_services_are_those_that_programs_look_for(self, case):
        known = names()
        control_plane = one(case, "Service", known["cluster::CONTROL_PLANE_SERVICE"])
        self.assertNotEqual(control_plane["spec"].get("clusterIP"), "None")
        replicas = one(case, "Service", known["cluster::REPLICAS_SERVICE"])
        self.assertEqual(replicas["spec"]["clusterIP"], "None")
        self.assertIs(replicas["spec"]["publishNotReadyAddresses"], True)
        # The only port, as whoever reads its endpoints takes the first.
        self.assertEqual([it["name"] for it in replicas["spec"]["ports"]], ["grpc"])
        injector = one(case, "Service", known["cluster::WEBHOOK_SERVICE"])
        self.assertEqual([(it["port"], it["targetPort"]) for it in injector["spec"]["ports"]], [(443, "https-webhook")])

    @every_case
    def test_variables_are_those_that_programs_read(self, case):
        known = {value for name, value in names().items() if name.startswith("env::")}
        values = render.merge(yaml.safe_load((render.CHART / "values.yaml").read_text()), values_of(case))
        for name, (_, command, account) in PROGRAMS.items():
            spec = one(case, "Deployment", name)["spec"]["template"]["spec"]
            container = spec["containers"][0]
            self.assertEqual(container["command"], command)
            self.assertEqual(spec["serviceAccountName"], account)
            variables = [it["name"] for it in container["env"]]
            self.assertEqual(len(variables), len(set(variables)))
            own = {it for it in variables if it.startswith("WEFT_")}
            self.assertLessEqual(own, known)
            self.assertLessEqual({"WEFT_NAMESPACE", "WEFT_POD_NAME", "WEFT_TRUST_DOMAIN", "WEFT_LOG_LEVEL"}, own)
            said = {it["name"]: it.get("value") for it in container["env"]}
            self.assertEqual(said["WEFT_TRUST_DOMAIN"], values["mesh"]["trustDomain"])
            if name == "weft-injector":
                resources = values["proxy"]["resources"]
                for amount, (kind, what) in {
                    "CPU_REQUEST": ("requests", "cpu"), "CPU_LIMIT": ("limits", "cpu"),
                    "MEMORY_REQUEST": ("requests", "memory"), "MEMORY_LIMIT": ("limits", "memory"),
                }.items():
                    self.assertEqual(said[f"WEFT_PROXY_{amount}"], str(resources[kind][what]))
                self.assertEqual(said["WEFT_SIDECAR_MODE"], values["proxy"]["sidecarMode"])
                namespaces = ",".join(values["injector"]["systemNamespaces"]) or None
                self.assertEqual(said.get("WEFT_SYSTEM_NAMESPACES"), namespaces)
        self.assertEqual(names()["CONTROL_PLANE_SERVICE_ACCOUNT"], "control-plane")
        self.assertEqual(names()["INJECTOR_SERVICE_ACCOUNT"], "injector")

    def test_what_is_set_arrives(self):
        def variables(name):
            env = one("everything", "Deployment", name)["spec"]["template"]["spec"]["containers"][0]["env"]
            return {it["name"]: it.get("value") for it in env}

        control_plane = variables("weft-control-plane")
        self.assertLessEqual({
            "WEFT_NETWORKS": "10.1.0.0/16,fd00::/48", "WEFT_SERVER_FIRST_PORTS": "25,3306",
            "WEFT_MINIMUM_MTLS": "Strict", "WEFT_DEFAULT_AUTHORIZATION": "SameNamespace",
            "WEFT_LEAF_LIFETIME": "90m", "WEFT_LEASE_DURATION": "30s",
            "WEFT_LOG_LEVEL": "debug", "WEFT_LOG_FORMAT": "plain", "MALLOC_ARENA_MAX": "2",
        }.items(), control_plane.items())
        self.assertIn("WEFT_POD_IP", control_plane)
        self.assertLessEqual({
            "WEFT_PROXY_IMAGE": f"other.example/a/weft-proxy:0.1.0@{matrix.DIGEST}",
            "WEFT_PROXY_IMAGE_PULL_POLICY": "IfNotPresent", "WEFT_PROXY_LOG_LEVEL": "warn",
            "WEFT_SKIP_SUBNETS": "169.254.169.254,192.0.2.0/24",
            "WEFT_PROXY_ENV": "WEFT_IDLE_TIMEOUT=10m,WEFT_MAX_CONNECTIONS=1000",
            "WEFT_TRACE_ENDPOINT": "http://collector.observability:4317", "WEFT_TRACE_SAMPLE": "0.5",
            "WEFT_TRACE_PROPAGATION": "w3c,b3multi",
        }.items(), variables("weft-injector").items())
        defaults = one("defaults", "Deployment", "weft-control-plane")
        env = defaults["spec"]["template"]["spec"]["containers"][0]["env"]
        # The programs know the defaults of these better.
        said = {it["name"] for it in env}
        self.assertFalse(said & {"WEFT_NETWORKS", "WEFT_SERVER_FIRST_PORTS", "WEFT_MINIMUM_MTLS",
                                 "WEFT_DEFAULT_AUTHORIZATION"})

    @every_case
    def test_texts_stay_texts(self, case):
        def walk(node, path):
            if isinstance(node, dict):
                for key, value in node.items():
                    self.assertIsInstance(key, str, path)
                    if path[-1:] in (["labels"], ["annotations"], ["matchLabels"], ["nodeSelector"]):
                        self.assertIsInstance(value, str, path + [key])
                    walk(value, path + [key])
            elif isinstance(node, list):
                for value in node:
                    walk(value, path)

        for item in objects(case):
            walk(item, [item["kind"]])

    def test_no_word_is_another_one_in_older_yaml(self):
        # YAML 1.1, which Helm and kubectl read, takes these for booleans, `n` as a key in some places only.
        trap = {"on", "off", "yes", "no", "y", "n"}
        paths = [render.CHART / "values.yaml", render.CHART / "values-ha.yaml"]
        texts = {path.name: path.read_text() for path in paths}
        texts |= {f"rendered {it['kind']}": yaml.safe_dump(it) for it in objects("defaults")}
        texts |= {"stream": render.stream()}
        for name, text in texts.items():
            for token in yaml.scan(text):
                if isinstance(token, yaml.ScalarToken) and token.plain:
                    self.assertNotIn(token.value.lower(), trap, f"{name}, line {token.start_mark.line + 1}")
        schema = json.loads((render.CHART / "values.schema.json").read_text())

        def walk(node):
            if isinstance(node, dict):
                self.assertFalse({str(it).lower() for it in node.get("properties", {})} & trap)
                enum = node.get("enum", [])
                self.assertFalse({str(it).lower() for it in enum if isinstance(enum, list)} & trap)
                for value in node.values():
                    walk(value)

        walk(schema)
        walk(one("defaults", "CustomResourceDefinition", "trafficpolicies.weft.dev"))

    @every_case
    def test_images_have_a_tag_or_a_digest(self, case):
        values = values_of(case)
        for name, _, spec in pods(case):
            for container in spec["containers"] + spec.get("initContainers", []):
                image = container["image"]
                self.assertRegex(image, r"^[^@]*[a-z]:[A-Za-z0-9_][\w.-]*(@sha256:[0-9a-f]{64})?$", name)
                self.assertNotRegex(image, r":latest\b")
                digest = values.get("image", {}).get("digest", "")
                self.assertTrue(image.endswith(digest) if digest else "@" not in image, image)
                registry = values.get("image", {}).get("registry", "").rstrip("/")
                self.assertTrue(image.startswith(registry + "/weft:" if registry else "weft:"), image)

    def test_the_definition_comes_and_stays(self):
        definition = one("defaults", "CustomResourceDefinition", "trafficpolicies.weft.dev")
        self.assertEqual(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")
        self.assertEqual(of_kind("bare", "CustomResourceDefinition"), [])

    def test_notes_say_what_to_do_next(self):
        def notes(values):
            return render.templates(values, "mesh-system")["weft/templates/NOTES.txt"]

        for wanted in ["kubectl label namespace shop weft.dev/inject=enabled", "kind: TrafficPolicy",
                       "weft check -n mesh-system", "port-forward"]:
            self.assertIn(wanted, notes({}))
        self.assertIn("pods start without a sidecar", notes({"injector": {"failurePolicy": "Ignore"}}))
        self.assertIn("crds.install is false", notes({"crds": {"install": False}}))


class Available(unittest.TestCase):
    """Replicas, and what keeps them."""

    @every_case
    def test_replicas_are_counted_by_one_only(self, case):
        for name in PROGRAMS:
            deployment = one(case, "Deployment", name)["spec"]
            scalers = [it for it in of_kind(case, "HorizontalPodAutoscaler") if it["metadata"]["name"] == name]
            self.assertNotEqual("replicas" in deployment, bool(scalers), name)
            container = deployment["template"]["spec"]["containers"][0]
            self.assertIn("memory", container["resources"]["limits"])
            self.assertNotIn("cpu", container["resources"]["limits"])
            self.assertIn("cpu", container["resources"]["requests"])
            for scaler in scalers:
                target = scaler["spec"]["scaleTargetRef"]
                self.assertEqual((target["kind"], target["name"]), ("Deployment", name))
                self.assertLessEqual(scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"])

    def test_two_by_default_and_three_for_high_availability(self):
        for case, replicas in [("defaults", 2), ("ha", 3), ("one-of-each", 1)]:
            for name in PROGRAMS:
                self.assertEqual(one(case, "Deployment", name)["spec"]["replicas"], replicas)
        for case in ("defaults", "ha"):
            for name in PROGRAMS:
                self.assertEqual(one(case, "PodDisruptionBudget", name)["spec"]["maxUnavailable"], 1)
                spec = one(case, "Deployment", name)["spec"]
                spread = spec["template"]["spec"]["topologySpreadConstraints"]
                self.assertEqual([it["topologyKey"] for it in spread],
                                 ["topology.kubernetes.io/zone", "kubernetes.io/hostname"])
                self.assertEqual({it["whenUnsatisfiable"] for it in spread}, {"ScheduleAnyway"})
        self.assertEqual(of_kind("one-of-each", "PodDisruptionBudget"), [])

    def test_updates_add_before_they_take_away_and_need_no_more_nodes(self):
        for case in ("defaults", "ha"):
            for name in PROGRAMS:
                spec = one(case, "Deployment", name)["spec"]
                self.assertEqual(spec["strategy"]["rollingUpdate"], {"maxUnavailable": 0, "maxSurge": 1})
                self.assertNotIn("affinity", spec["template"]["spec"])
                self.assertNotIn("priorityClassName", spec["template"]["spec"])


class Safe(unittest.TestCase):
    """No more is allowed than needed."""

    @every_case
    def test_pods_are_restricted(self, case):
        for name, _, spec in pods(case):
            self.assertFalse({"hostNetwork", "hostPID", "hostIPC", "volumes"} & set(spec), name)
            self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            if case == "openshift":
                self.assertNotIn("runAsUser", spec["securityContext"])
            else:
                self.assertEqual(spec["securityContext"]["runAsUser"], int(names()["PROXY_UID"]))
            for container in spec["containers"]:
                security = container["securityContext"]
                self.assertEqual(security, {
                    "allowPrivilegeEscalation": False, "privileged": False, "runAsNonRoot": True,
                    "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
                })
                self.assertIn("memory", container["resources"]["limits"])
                for port in container.get("ports", []):
                    self.assertNotIn("hostPort", port)

    @every_case
    def test_roles_allow_nothing_by_wildcard(self, case):
        for role in of_kind(case, "ClusterRole", "Role"):
            for rule in role["rules"]:
                for words in rule.values():
                    self.assertFalse([it for it in words if "*" in it], role["metadata"]["name"])
                self.assertNotIn("nonResourceURLs", rule)
                if "secrets" in rule["resources"]:
                    self.assertEqual(role["kind"], "Role", "secrets of other namespaces")
                    self.assertTrue(rule.get("resourceNames") or rule["verbs"] == ["create"], rule)
                forbidden = {"impersonate", "escalate", "bind"} & set(rule["verbs"])
                self.assertFalse(forbidden, role["metadata"]["name"])

    @every_case
    def test_bindings_lead_somewhere(self, case):
        _, namespace, _ = matrix.CASES[case]
        accounts = {it["metadata"]["name"] for it in of_kind(case, "ServiceAccount")}
        bound = set()
        for binding in of_kind(case, "ClusterRoleBinding", "RoleBinding"):
            role = binding["roleRef"]
            one(case, role["kind"], role["name"])
            self.assertEqual(len(binding["subjects"]), 1)
            subject = binding["subjects"][0]
            self.assertEqual((subject["kind"], subject["namespace"]), ("ServiceAccount", namespace))
            bound.add(subject["name"])
        self.assertEqual(bound, accounts)
        # Nothing runs as these: people borrow their tokens.
        known = names()
        people = {known["cluster::OBSERVER_SERVICE_ACCOUNT"], known["cluster::OPERATOR_SERVICE_ACCOUNT"]}
        run = {spec["serviceAccountName"] for _, _, spec in pods(case)}
        self.assertEqual(run & people, set())
        self.assertEqual(accounts, run | people)

    def test_roles_are_what_the_programs_print(self):
        printed = list(yaml.safe_load_all(Path(environment("WEFT_CHART_RBAC")).read_text()))
        self.assertEqual(
            sorted((it["kind"], it["metadata"]["name"]) for it in printed),
            sorted((kind, name) for name in PROGRAMS
                   for kind in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")))
        for wanted in printed:
            found = json.loads(json.dumps(one("defaults", wanted["kind"], wanted["metadata"]["name"])))
            del found["metadata"]["labels"]
            self.assertEqual(found, wanted)

    @every_case
    def test_the_test_only_reads(self, case):
        hooks = [it for it in objects(case) if render.HOOK in it["metadata"].get("annotations", {})]
        if case == "bare":
            self.assertEqual(hooks, [])
            return
        self.assertEqual(
            sorted(it["kind"] for it in hooks),
            ["ClusterRole", "ClusterRoleBinding", "Pod", "Role", "RoleBinding", "ServiceAccount"])
        weights = {it["kind"]: int(it["metadata"]["annotations"]["helm.sh/hook-weight"]) for it in hooks}
        for hook in hooks:
            self.assertEqual(hook["metadata"]["annotations"][render.HOOK], "test")
            if hook["kind"] != "Pod":
                self.assertLess(weights[hook["kind"]], weights["Pod"])
            for rule in hook.get("rules", []):
                self.assertLessEqual(set(rule["verbs"]), {"get", "list"})
                self.assertNotIn("weft-authority", rule.get("resourceNames", []))
        pod = next(it for it in hooks if it["kind"] == "Pod")
        self.assertEqual(pod["spec"]["containers"][0]["command"][:2], ["weft", "check"])
        self.assertEqual(pod["spec"]["restartPolicy"], "Never")


class Webhook(unittest.TestCase):
    """Who is called for which pods."""

    @every_case
    def test_it_is_called_for_what_is_labelled_and_nothing_else(self, case):
        _, namespace, _ = matrix.CASES[case]
        known = names()
        configuration = one(case, "MutatingWebhookConfiguration", known["cluster::WEBHOOK_CONFIGURATION"])
        label = known["INJECT_LABEL"]
        enabled, disabled = [known["INJECT_ENABLED"]], [known["INJECT_DISABLED"]]
        wanted = {
            known["cluster::WEBHOOK_BY_NAMESPACE"]: (("In", enabled), ("NotIn", disabled)),
            known["cluster::WEBHOOK_BY_POD"]: (("NotIn", enabled), ("In", enabled)),
        }
        self.assertEqual([it["name"] for it in configuration["webhooks"]], list(wanted))
        values = values_of(case).get("injector", {})
        others = values.get("systemNamespaces", ["cert-manager"])
        spared = ["kube-system", "kube-public", "kube-node-lease", namespace, *others]
        for webhook in configuration["webhooks"]:
            (by_namespace, by_pod) = wanted[webhook["name"]]
            self.assertEqual(webhook["namespaceSelector"], {"matchExpressions": [
                {"key": label, "operator": by_namespace[0], "values": by_namespace[1]},
                {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": spared},
            ]})
            self.assertEqual(webhook["objectSelector"], {"matchExpressions": [
                {"key": label, "operator": by_pod[0], "values": by_pod[1]},
            ]})
            self.assertEqual(webhook["rules"], [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                "scope": "Namespaced",
            }])
            # The control plane writes caBundle.
            self.assertEqual(webhook["clientConfig"], {"service": {
                "name": known["cluster::WEBHOOK_SERVICE"], "namespace": namespace,
                "path": known["cluster::WEBHOOK_PATH"], "port": 443,
            }})
            self.assertEqual(webhook["failurePolicy"], values.get("failurePolicy", "Fail"))
            self.assertEqual(webhook["timeoutSeconds"], values.get("timeoutSeconds", 5))
            self.assertEqual(webhook["reinvocationPolicy"], "IfNeeded")
            self.assertEqual(webhook["sideEffects"], "NoneOnDryRun")
            self.assertEqual(webhook["matchPolicy"], "Equivalent")
            self.assertEqual(webhook["admissionReviewVersions"], ["v1"])
            self.assertEqual([it["name"] for it in webhook["matchConditions"]], ["own-network", "no-mirror"])

    def test_nothing_else_says_cabundle(self):
        for path in render.CHART.rglob("*.yaml"):
            for line in path.read_text().splitlines():
                self.assertNotRegex(line, r"^\s*caBundle:", path)

    def test_it_comes_last(self):
        kinds = [parsed["kind"] for _, parsed in render.documents()]
        self.assertEqual(kinds[-1], "MutatingWebhookConfiguration")
        self.assertEqual(kinds[0], "CustomResourceDefinition")


class Documented(unittest.TestCase):
    """README.md."""

    def test_the_readme_is_current(self):
        import readme

        self.assertEqual(
            readme.PATH.read_text(), readme.text(),
            "charts/weft/README.md is stale: run `target/python/bin/python tests/chart/readme.py`")

    def test_no_value_goes_without_a_word(self):
        import readme

        with self.assertRaisesRegex(ValueError, "a.b has no comment"):
            list(readme.entries("# A.\na:\n  # C.\n  c: 1\n  b: 2\n"))

    def test_the_versions_are_one(self):
        chart = yaml.safe_load((render.CHART / "Chart.yaml").read_text())
        cargo = (ROOT / "Cargo.toml").read_text()
        version = re.search(r'\[workspace\.package\]\nversion = "([^"]+)"', cargo)[1]
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))


if __name__ == "__main__":
    unittest.main(verbosity=2)
