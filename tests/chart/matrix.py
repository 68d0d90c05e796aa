"""The values that the chart is rendered with, by what they show."""

DIGEST = "sha256:" + "0123456789abcdef" * 4
EVERYTHING = {
    "image": {"registry": "registry.example:5000/mesh", "tag": "1.2.3", "digest": DIGEST,
              "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    # Words that YAML 1.1 reads as something else stay what they are.
    "commonLabels": {"example.org/team": "no", "example.org/on": "on", "example.org/number": "1e3"},
    "mesh": {"trustDomain": "mesh.example.org", "networks": ["10.1.0.0/16", "fd00::/48"],
             "serverFirstPorts": [25, 3306], "minimumMtls": "Strict",
             "defaultAuthorization": "SameNamespace"},
    "controlPlane": {
        "autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 6},
        "leafLifetime": "90m", "leaseDuration": "30s", "log": {"level": "debug", "format": "plain"},
        "terminationGracePeriodSeconds": 60, "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"example.org/infra": "true"},
        "tolerations": [{"key": "example.org/infra", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}},
        "podLabels": {"example.org/pod": "y"}, "podAnnotations": {"example.org/off": "off"},
        "extraEnv": [{"name": "MALLOC_ARENA_MAX", "value": "2"}],
    },
    "injector": {
        "autoscaling": {"enabled": True},
        "podDisruptionBudget": {"enabled": True, "maxUnavailable": "25%"},
        "failurePolicy": "Ignore", "timeoutSeconds": 10, "systemNamespaces": ["cert-manager", "velero"],
        # Also one of commonLabels.
        "podLabels": {"example.org/pod": "n", "example.org/team": "off"},
        "extraEnv": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
    },
    "proxy": {
        "image": {"registry": "other.example", "repository": "a/weft-proxy", "digest": DIGEST},
        "resources": {"requests": {"cpu": 1}, "limits": {"cpu": "1500m", "memory": "1Gi"}},
        "env": {"WEFT_MAX_CONNECTIONS": "1000", "WEFT_IDLE_TIMEOUT": "10m"},
        "tracing": {"endpoint": "http://collector.observability:4317", "sample": "0.5", "propagation": "w3c,b3multi"},
        "logLevel": "warn", "skipSubnets": ["169.254.169.254", "192.0.2.0/24"], "sidecarMode": "legacy",
    },
    "networkPolicies": {"enabled": True},
    "monitoring": {"scrapeAnnotations": True,
                   "podMonitor": {"sidecars": True, "components": True},
                   "prometheusRule": {"enabled": True, "httpMetrics": True, "runbooks": "https://wiki.example/weft/"},
                   "labels": {"release": "prometheus"},
                   "interval": "15s", "scrapeTimeout": "5s"},
    "dashboards": {"enabled": True, "namespace": "grafana"},
}

# Name: (values, namespace, release). `HA` stands for the file values-ha.yaml.
HA = "values-ha.yaml"
CASES = {
    "defaults": ({}, "weft", "weft"),
    "ha": (HA, "weft", "weft"),
    "everything": (EVERYTHING, "weft", "weft"),
    "another-namespace": (EVERYTHING, "mesh-system", "my-mesh"),
    "registry": ({"image": {"registry": "registry.example/"}}, "weft", "weft"),
    "digests": ({"image": {"digest": DIGEST}, "proxy": {"image": {"digest": DIGEST}}}, "weft", "weft"),
    "legacy-sidecars": ({"proxy": {"sidecarMode": "legacy"}}, "weft", "weft"),
    "fails-open": ({"injector": {"failurePolicy": "Ignore"}}, "weft", "weft"),
    "network-policies": ({"networkPolicies": {"enabled": True, "monitoringNamespaces": {
        "matchExpressions": [{"key": "example.org/metrics", "operator": "Exists"}]}}}, "weft", "weft"),
    "pod-monitors": ({"monitoring": {"podMonitor": {"sidecars": True, "components": True}}},
                     "weft", "weft"),
    "service-monitors": ({"monitoring": {"serviceMonitor": {"components": True},
                                         "podMonitor": {"sidecars": True}}}, "weft", "weft"),
    "one-of-each": ({"controlPlane": {"replicas": 1, "podDisruptionBudget": {"enabled": False}},
                     "injector": {"replicas": 1, "podDisruptionBudget": {"enabled": False}}},
                    "weft", "weft"),
    "bare": ({"crds": {"install": False}, "tests": {"enabled": False}, "mesh": {"trustDomain": "a"},
              "injector": {"systemNamespaces": [], "topologySpread": False},
              "proxy": {"image": {"pullPolicy": ""}, "resources": {"limits": {"memory": ""}}}},
             "weft", "weft"),
    "openshift": ({"runAsUser": None}, "weft", "weft"),
}

# Values that are refused, and a part of what is said.
REFUSED = {
    "unknown": ({"bogus": 1}, "additional properties 'bogus' not allowed"),
    "unknown-below": ({"injector": {"replica": 3}}, "at '/injector': additional properties 'replica'"),
    "unknown-resource": ({"controlPlane": {"resources": {"limits": {"ram": "1Gi"}}}}, "'ram' not allowed"),
    "no-replicas": ({"injector": {"replicas": 0}}, "at '/injector/replicas': minimum"),
    "quantity": ({"proxy": {"resources": {"limits": {"memory": "256 Mi"}}}},
                 "at '/proxy/resources/limits/memory'"),
    "quantity-of-bytes-as-number": ({"proxy": {"resources": {"limits": {"memory": 268435456}}}},
                                    "at '/proxy/resources/limits/memory'"),
    "request-that-is-none": ({"proxy": {"resources": {"requests": {"cpu": ""}}}},
                             "at '/proxy/resources/requests/cpu'"),
    "duration": ({"controlPlane": {"leafLifetime": "1d"}}, "at '/controlPlane/leafLifetime'"),
    "duration-as-number": ({"controlPlane": {"leaseDuration": 15}}, "at '/controlPlane/leaseDuration'"),
    "word": ({"injector": {"failurePolicy": "fail"}}, "'Fail', 'Ignore'"),
    "mtls": ({"mesh": {"minimumMtls": "Disabled"}}, "'Permissive', 'Strict'"),
    "yaml-on": ({"proxy": {"sidecarMode": True}}, "'native', 'legacy'"),
    "limit-of-sidecars": ({"proxy": {"env": {"WEFT_TOKEN_FILE": "1"}}}, "invalid propertyName 'WEFT_TOKEN_FILE'"),
    "limit-as-number": ({"proxy": {"env": {"WEFT_MAX_REQUESTS": 5}}}, "at '/proxy/env/WEFT_MAX_REQUESTS'"),
    "digest": ({"image": {"digest": "sha256:abc"}}, "at '/image/digest'"),
    "digest-of-the-sidecar": ({"proxy": {"image": {"digest": "md5:" + "0" * 32}}}, "at '/proxy/image/digest'"),
    "tag-with-digest": ({"image": {"tag": "1@sha256:0"}}, "at '/image/tag'"),
    "registry-with-scheme": ({"image": {"registry": "https://registry.example"}}, "at '/image/registry'"),
    "subnet": ({"mesh": {"networks": ["10.0.0.0/33"]}}, "at '/mesh/networks/0'"),
    "port": ({"mesh": {"serverFirstPorts": [70000]}}, "at '/mesh/serverFirstPorts/0'"),
    "trust-domain": ({"mesh": {"trustDomain": "Example.org"}}, "at '/mesh/trustDomain'"),
    "label": ({"commonLabels": {"a": "not a label"}}, "at '/commonLabels/a'"),
    "label-of-the-chart": ({"controlPlane": {"podLabels": {"app.kubernetes.io/component": "x"}}},
                           "invalid propertyName 'app.kubernetes.io/component'"),
    "label-as-boolean": ({"commonLabels": {"a": True}}, "at '/commonLabels/a'"),
    "timeout": ({"injector": {"timeoutSeconds": 31}}, "at '/injector/timeoutSeconds'"),
    "root": ({"runAsUser": 0}, "at '/runAsUser'"),
    "variable-of-ours": ({"injector": {"extraEnv": [{"name": "WEFT_LOG_LEVEL", "value": "debug"}]}},
                         "at '/injector/extraEnv/0/name'"),
    "fewer-at-most-than-at-least": (
        {"injector": {"autoscaling": {"enabled": True, "minReplicas": 4, "maxReplicas": 3}}},
        "injector.autoscaling: minReplicas is 4 and maxReplicas 3"),
    "autoscaling-without-request": (
        {"controlPlane": {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}}},
        "give controlPlane.resources.requests.cpu"),
    "fetched-twice": (
        {"monitoring": {"podMonitor": {"components": True}, "serviceMonitor": {"components": True}}},
        "turn one of them off"),
}
