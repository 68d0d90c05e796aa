"""Control plane and Injector."""

from . import NONE_IS_GOOD, PERIOD, TWO_WEEKS, chart, quantiles, stat



def process(program):
    """How much each replica of a program takes of the machine."""
    ours = f'and on (namespace, pod) weft_build_info{{program="{program}"}}'
    return [
        chart("Processor time", "In cores, by replica.", "none", (f"rate(process_cpu_seconds_total{PERIOD}) {ours}", "{{pod}}"),
              width=12),
        chart("Memory", "Resident, by replica.", "bytes", (f"process_resident_memory_bytes {ours}", "{{pod}}"), width=12),
    ]


CONTROL_PLANE = [
    stat("Replicas", "Replicas of the control plane whose metrics are fetched.", "none", "count(weft_control_plane_streams)"),
    stat("Leader", "Replicas that lead: 1, and 0 for moments.", "none", "sum(weft_control_plane_leader)",
         "red", 1, "green", 2, "red"),
    stat("Objects refused", "Policies and routes whose last good version stays in force.", "none",
         "max(weft_control_plane_objects_refused)", *NONE_IS_GOOD),
    stat("Webhook's certificate", "Until it expires.", "s",
         "min(weft_control_plane_webhook_certificate_expiry_timestamp_seconds > 0) - time()", *TWO_WEEKS,
         link=("Injector", "weft-injector?")),
    stat("Sidecars behind", "That have not confirmed the newest of what they are subscribed to.", "none",
         "sum(weft_control_plane_sidecars_behind)", *NONE_IS_GOOD, link=("Proxy", "weft-proxy?")),
    stat("Behind for", "The longest that a sidecar has not confirmed what is newest.", "s",
         "max(weft_control_plane_behind_seconds)", "green", 120, "red"),
    stat("Issuer", "Until the issuer's certificate expires.", "s",
         "min(weft_control_plane_issuer_expiry_timestamp_seconds) - time()", "red", 30 * 86400, "green",
         link=("Security", "weft-security?")),
    stat("Root", "Until the root's certificate expires.", "s", "min(weft_control_plane_root_expiry_timestamp_seconds) - time()",
         "red", 60 * 86400, "green", link=("Security", "weft-security?")),
    chart("Sidecars", "With an open stream, by replica.", "none", ("weft_control_plane_streams", "{{pod}}"), stacked=True),
    chart("Updates", "Resource versions sent to sidecars, and what these answered.", "ops",
          (f"sum(rate(weft_control_plane_updates_sent_total{PERIOD}))", "sent"),
          (f"sum by (answer) (rate(weft_control_plane_answers_total{PERIOD}))", "{{answer}}")),
    chart("Certificates", "Requests for workload certificates, by what became of them.", "ops",
          (f"sum by (result) (rate(weft_control_plane_certificates_total{PERIOD}))", "{{result}}")),
    chart("Lag", "From the arrival of the newest change to the model that has it, by replica.", "s",
          ("weft_control_plane_source_lag_seconds", "{{pod}}")),
    chart("Failures of lists and watches", "By kind of object.", "ops",
          (f"sum by (kind) (rate(weft_control_plane_source_errors_total{PERIOD}))", "{{kind}}")),
    chart("Kinds that are followed", "1 where every replica knows and follows what there is of a kind, 0 where one does not.",
          "none", ("min by (kind) (weft_control_plane_source_up)", "{{kind}}")),
    chart("Refused connections and calls", "By what or which limit it was.", "ops",
          (f"sum by (what) (rate(weft_control_plane_refusals_total{PERIOD}))", "{{what}}")),
    chart("Other replicas heard", "Whose counts are part of the sum, by replica.", "none",
          ("weft_control_plane_replicas_heard", "{{pod}}")),
    chart("Permissions missing", "What the control plane may not do and needs to, by verb and resource.", "none",
          ("topk(10, max by (verb, resource) (weft_control_plane_permissions_missing))", "{{verb}} {{resource}}"), width=12),
    chart("Versions", "Replicas of control plane and injector, by version.", "none",
          ('count by (program, version) (weft_build_info{program!=""})', "{{program}} {{version}}"), stacked=True, width=12),
    *process("weft-control-plane"),
]

INJECTOR = [
    stat("Replicas that are ready", "Replicas of the injector by which the API server can have pods patched.", "none",
         "sum(weft_injector_ready)", "red", 1, "green"),
    stat("Pods with a sidecar", "Pods that were patched in the time shown.", "none",
         'sum(increase(weft_injector_requests_total{outcome="patched"}[$__range]))'),
    stat("Pods refused", "Pods that were refused in the time shown: they cannot have a sidecar as they are, or there was no "
         "good answer.", "none", 'sum(increase(weft_injector_requests_total{outcome=~"refused|failed"}[$__range]))',
         *NONE_IS_GOOD),
    stat("Certificate", "Until the certificate that is served expires.", "s",
         "min(weft_injector_certificate_expiry_timestamp_seconds > 0) - time()", *TWO_WEEKS,
         link=("Control plane", "weft-control-plane?")),
    chart("Calls by outcome", "What became of the pods that the API server asked about, with the reason.", "ops",
          (f"sum by (outcome, reason) (rate(weft_injector_requests_total{PERIOD}))", "{{outcome}} {{reason}}")),
    chart("Duration", "Of calls, at the injector. The API server waits for injector.timeoutSeconds.", "s",
          *quantiles("weft_injector_request_duration_seconds", "")),
    chart("Refused connections", "By what or which limit it was.", "ops",
          (f"sum by (what) (rate(weft_injector_refusals_total{PERIOD}))", "{{what}}")),
    chart("Failures of lists and watches", "By kind of object.", "ops",
          (f"sum by (kind) (rate(weft_injector_watch_errors_total{PERIOD}))", "{{kind}}")),
    chart("Kinds that are followed", "1 where every replica knows and follows what there is of a kind, 0 where one does not.",
          "none", ("min by (kind) (weft_injector_watch_up)", "{{kind}}")),
    chart("Events lost", "Events on the owners of pods that were not made.", "ops",
          (f"sum(rate(weft_injector_events_lost_total{PERIOD}))", "lost")),
    *process("weft-injector"),
]

BOARDS = [
    ("weft-control-plane", "Control plane", "How the control plane does.", [], CONTROL_PLANE),
    ("weft-injector", "Injector", "How pods get their sidecars.", [], INJECTOR),
]
