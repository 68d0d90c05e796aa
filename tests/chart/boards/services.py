"""Overview, Service, Route, Canary: what the mesh does for its users."""

from . import GOOD, chart, errors, quantile, quantiles, rate, stat, success, table

REQUESTS = "weft_requests_total"
DURATION = "weft_request_duration_seconds"
ANY = 'namespace=~"$namespace",workload=~"$workload"'
IN = f'direction="inbound",{ANY}'
MUTUAL = rate(REQUESTS, f'{IN},tls="mutual"')
OF_SERVICE = 'direction="outbound",service="$service"'
OF_ROUTE = f'{OF_SERVICE},route=~"$route"'
NAMESPACE = ("namespace", "Namespace", "label_values(weft_discovery_connected, namespace)", True)
WORKLOAD = ("workload", "Workload", 'label_values(weft_discovery_connected{namespace=~"$namespace"}, workload)', True)
SERVICE = ("service", "Service", 'label_values(weft_requests_total{direction="outbound"}, service)', False)
ROUTE = ("route", "Route", 'label_values(weft_requests_total{direction="outbound",service="$service"}, route)', True)
TO_WORKLOAD = ("Workload", "weft-workload?var-namespace=${__field.labels.namespace}&var-workload=${__field.labels.workload}")
TO_SERVICE = ("Service", "weft-service?var-service=${__field.labels.service}")
TO_ROW = ("Service", "weft-service?var-service=${__data.fields.service}")
TO_CANARY = ("Canary", "weft-canary?var-service=$service")
TO_ROUTE = ("Route", "weft-route?var-service=$service&var-route=${__field.labels.route}")

OVERVIEW = [
    stat("Requests", "Requests per second that sidecars took for their applications.", "reqps", rate(REQUESTS, IN)),
    stat("Success", "Share of them that did not end with a 5xx or a failure of gRPC's.", "percentunit", success(IN), *GOOD),
    stat("In mutual TLS", "Share of them that came over mutual TLS between sidecars.", "percentunit",
         f'{MUTUAL} / {rate(REQUESTS, IN)}',
         link=("Security", "weft-security?")),
    stat("Sidecars", "Sidecars whose metrics are fetched.", "none",
         'count(weft_discovery_connected{namespace=~"$namespace"})', link=("Proxy", "weft-proxy?")),
    table("Services", "Every service that the chosen workloads call: how much, how well, how fast.",
          [("Requests", "reqps"), ("Success", "percentunit"), ("99 %", "s")],
          rate(REQUESTS, f'direction="outbound",{ANY}', "service"), success(f'direction="outbound",{ANY}', "service"),
          quantile(0.99, DURATION, f'direction="outbound",{ANY}', "service"), link=TO_ROW),
    chart("Requests by workload", "By the workload that they were for.", "reqps",
          (rate(REQUESTS, IN, "namespace, workload"), "{{namespace}}/{{workload}}"), stacked=True, link=TO_WORKLOAD),
    chart("Errors by workload", "Share of requests that failed, by the workload that they were for.", "percentunit",
          (f'{errors(IN, "namespace, workload")} / {rate(REQUESTS, IN, "namespace, workload")}',
           "{{namespace}}/{{workload}}"), link=TO_WORKLOAD),
    chart("Duration", "From the first byte of a request to the last byte of its answer, at the server's sidecar.", "s",
          *quantiles(DURATION, IN)),
    chart("Outcomes other than ok", "How requests ended that no application answered, by outcome and side.", "reqps",
          (rate(REQUESTS, f'{ANY},outcome!="ok"', "direction, outcome"), "{{direction}} {{outcome}}")),
    chart("Retries", "Further tries by what became of them: sent, or given up and why.", "reqps",
          (rate("weft_retries_total", ANY, "result"), "{{result}}"), link=("Resilience", "weft-resilience?")),
    chart("Circuit breakers that are open", "Endpoints and backends that get nothing at the moment, by backend.", "none",
          (f'sum by (backend) (weft_circuit_breaker_state{{{ANY},state="open"}})', "{{backend}}"),
          link=("Resilience", "weft-resilience?")),
    chart("Opaque connections", "Connections whose bytes the mesh does not read, by side.", "none",
          (f"sum by (direction) (weft_tcp_open_connections{{{ANY}}})", "{{direction}}")),
    chart("Refused by a limit", "Requests and connections that a limit of a backend turned away.", "reqps",
          (rate("weft_backend_limit_overflow_total", ANY, "backend, limit"), "{{backend}} {{limit}}")),
    chart("Out of touch", "The ten sidecars that longest have not known whether what they have is current; 0 while connected.",
          "s", (f"topk(10, weft_config_age_seconds{{{ANY}}})", "{{namespace}}/{{pod}}"),
          link=("Proxy", "weft-proxy?var-pod=${__field.labels.pod}")),
]

SERVICE_PANELS = [
    stat("Requests", "Requests per second that workloads of the mesh send to it.", "reqps", rate(REQUESTS, OF_SERVICE)),
    stat("Success", "Share of them that their callers saw succeed.", "percentunit", success(OF_SERVICE), *GOOD,
         link=TO_CANARY),
    stat("99 %", "All but one of a hundred are done within this.", "s", quantile(0.99, DURATION, OF_SERVICE)),
    stat("Error budget used per hour", "How many times faster than allowed the error budget of 99.9 % is used up; above 14.4 a "
         "month's is gone in two days.", "none", 'max(weft:service_error_ratio:rate1h{service="$service"}) / 0.001',
         "green", 1, "orange", 14.4, "red"),
    chart("By caller", "Requests per second, by the workload that sends them.", "reqps",
          (rate(REQUESTS, OF_SERVICE, "namespace, workload"), "{{namespace}}/{{workload}}"), stacked=True, link=TO_WORKLOAD),
    chart("By status", "Requests per second by HTTP status; gRPC's is behind it where there is one.", "reqps",
          (rate(REQUESTS, OF_SERVICE, "status, grpc_status"), "{{status}} {{grpc_status}}"), stacked=True),
    chart("Duration", "As callers see it, retries and waiting included.", "s", *quantiles(DURATION, OF_SERVICE)),
    chart("Success by caller", "Share of requests that succeeded, by the workload that sent them.", "percentunit",
          (success(OF_SERVICE, "namespace, workload"), "{{namespace}}/{{workload}}"), link=TO_WORKLOAD),
    chart("How they ended", "Requests per second by outcome: `ok` is the application's own answer, of whatever status.",
          "reqps", (rate(REQUESTS, OF_SERVICE, "outcome"), "{{outcome}}"), stacked=True),
    chart("By method", "Requests per second by HTTP method.", "reqps",
          (rate(REQUESTS, OF_SERVICE, "method"), "{{method}}"), stacked=True),
    chart("By route", "Requests per second by the route that they took.", "reqps",
          (rate(REQUESTS, OF_SERVICE, "route"), "{{route}}"), stacked=True, link=TO_ROUTE),
    chart("Retries", "Further tries, by what became of them.", "reqps",
          (rate("weft_retries_total", 'service="$service"', "result"), "{{result}}")),
    chart("Errors over windows", "Share of errors over four windows, as alerts look at it.", "percentunit",
          *[(f'weft:service_error_ratio:rate{window}{{service="$service"}}', window) for window in ("5m", "30m", "1h", "6h")]),
    chart("Who calls, as servers see it", "Requests per second to all workloads, by the identity of the caller.", "reqps",
          (rate(REQUESTS, 'direction="inbound",service="$service"', "peer"), "{{peer}}"), width=12),
    chart("Opaque connections", "Connections per second that are relayed as bytes, by outcome, to all services.", "ops",
          (rate("weft_tcp_connections_total", 'direction="outbound"', "service, outcome"), "{{service}} {{outcome}}"), width=12),
]

ROUTES = [
    chart("Requests", "Requests per second, by route.", "reqps",
          (rate(REQUESTS, OF_ROUTE, "route"), "{{route}}"), stacked=True, width=12),
    chart("Success", "Share of requests that succeeded, by route.", "percentunit",
          (success(OF_ROUTE, "route"), "{{route}}"), width=12),
    chart("Half", "Half of a route's requests are done within this.", "s",
          (quantile(0.5, DURATION, OF_ROUTE, "route"), "{{route}}")),
    chart("95 %", "All but five of a hundred are done within this.", "s",
          (quantile(0.95, DURATION, OF_ROUTE, "route"), "{{route}}")),
    chart("99 %", "All but one of a hundred are done within this.", "s",
          (quantile(0.99, DURATION, OF_ROUTE, "route"), "{{route}}")),
    chart("By status", "Requests per second by route and HTTP status.", "reqps",
          (rate(REQUESTS, OF_ROUTE, "route, status"), "{{route}} {{status}}")),
    chart("How they ended", "Requests per second by route and outcome.", "reqps",
          (rate(REQUESTS, OF_ROUTE, "route, outcome"), "{{route}} {{outcome}}")),
    chart("Where they went", "Requests per second by route and backend.", "reqps",
          (rate(REQUESTS, OF_ROUTE, "route, backend"), "{{route}} → {{backend}}"), link=TO_CANARY),
    chart("Retries", "Further tries by route and what became of them.", "reqps",
          (rate("weft_retries_total", 'service="$service",route=~"$route"', "route, result"), "{{route}} {{result}}"), width=24),
]

CANARY = [
    chart("Share", "Which part of the service's requests each backend gets.", "percentunit",
          (f'{rate(REQUESTS, OF_SERVICE, "backend")} / on () group_left () {rate(REQUESTS, OF_SERVICE)}', "{{backend}}"),
          stacked=True),
    chart("Success", "Share of each backend's requests that succeeded.", "percentunit",
          (success(OF_SERVICE, "backend"), "{{backend}}")),
    chart("Requests", "Requests per second, by backend.", "reqps", (rate(REQUESTS, OF_SERVICE, "backend"), "{{backend}}")),
    chart("Half", "Half of a backend's requests are done within this.", "s",
          (quantile(0.5, DURATION, OF_SERVICE, "backend"), "{{backend}}")),
    chart("95 %", "All but five of a hundred are done within this.", "s",
          (quantile(0.95, DURATION, OF_SERVICE, "backend"), "{{backend}}")),
    chart("99 %", "All but one of a hundred are done within this.", "s",
          (quantile(0.99, DURATION, OF_SERVICE, "backend"), "{{backend}}")),
    chart("Errors against the rest", "How much greater the share of errors of a backend is than that of all others of the "
          "service, over 5 minutes; the alert fires above 0.05 for a backend with less than half of the requests.", "percentunit",
          ('weft:backend_error_ratio:rate5m{service="$service"} - weft:backend_rest_error_ratio:rate5m{service="$service"}',
           "{{backend}}")),
    chart("How they ended", "Requests per second by backend and outcome.", "reqps",
          (rate(REQUESTS, OF_SERVICE, "backend, outcome"), "{{backend}} {{outcome}}")),
    chart("Copies", "Copies of requests by what became of them; callers notice nothing of them.", "reqps",
          (rate("weft_mirrored_requests_total", 'service="$service"', "backend, result"), "{{backend}} {{result}}")),
]

BOARDS = [
    ("weft-overview", "Overview", "What the mesh's sidecars do for their applications.", [NAMESPACE, WORKLOAD], OVERVIEW),
    ("weft-service", "Service", "One service, as its callers in the mesh see it.", [SERVICE], SERVICE_PANELS),
    ("weft-route", "Route", "The routes of one service, as its callers see them.", [SERVICE, ROUTE], ROUTES),
    ("weft-canary", "Canary", "The backends of one service side by side: is the new one as good as the old one?", [SERVICE],
     CANARY),
]
