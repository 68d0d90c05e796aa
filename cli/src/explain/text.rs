//! The answer for people.

use weft_control_plane::explain::{Enforced, Explained, Inbound, Tree};

use super::server::Server;
use super::table::{paragraph, table};
use super::verdict::{Destination, Repeats, Times, Verdict};
use super::{Answer, PortAnswer};
use crate::paint::Paint;

/// Everything, port by port.
pub(super) fn of(answer: &Answer, paint: Paint) -> String {
    let mut lines = Vec::new();
    for port in &answer.ports {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        port_lines(&mut lines, answer, port, paint);
    }
    lines.join("\n") + "\n"
}

fn port_lines(lines: &mut Vec<String>, answer: &Answer, port: &PortAnswer, paint: Paint) {
    let explained = &port.explained;
    let name = match &*explained.port_name {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    let title = format!(
        "service {} port {}{name}, served on {}",
        explained.service, explained.port, explained.target_port
    );
    lines.push(paint.strong(&title));
    let known = explained.authorities.join(", ");
    let view = &explained.client_namespace;
    lines.extend(paragraph(
        2,
        &format!("known in namespace {view} as {known}"),
    ));

    heading(lines, paint, "effective policy");
    lines.extend(table(2, &stanza_rows(explained)));
    if !explained.routes.is_empty() {
        let words = format!(
            "{}: matching and weights are theirs for clients of namespace {view}; rules and split.backends \
             are not in force",
            explained.routes.join(", ")
        );
        heading(lines, paint, "routes");
        lines.extend(paragraph(2, &words));
    }
    for rule in &explained.rules {
        heading(
            lines,
            paint,
            &format!("rule {} of {}", rule.name, rule.from),
        );
        let mut rows = vec![vec![
            "matches".to_owned(),
            String::new(),
            value_of(&rule.matches),
        ]];
        rows.extend(rule.stanzas.iter().map(|stanza| {
            let instead = format!("instead of {}", stanza.instead_of);
            vec![stanza.name.clone(), instead, value_of(&stanza.value)]
        }));
        lines.extend(table(2, &rows));
    }
    for backend in &explained.backends {
        let count = match backend.endpoints {
            None => "no such service port".to_owned(),
            Some(count) => counted(count, "endpoint", "endpoints"),
        };
        heading(
            lines,
            paint,
            &format!("connections to {} ({count})", backend.backend),
        );
        let rows = backend.stanzas.iter().map(|stanza| {
            let whose = if stanza.own {
                "\nthe backend's own"
            } else {
                ""
            };
            let from = format!("{}{whose}", stanza.from);
            vec![stanza.name.to_owned(), from, value_of(&stanza.value)]
        });
        lines.extend(table(2, &rows.collect::<Vec<_>>()));
    }
    for inbound in &explained.inbound {
        inbound_lines(lines, inbound, paint);
    }
    if let Some(from) = &answer.from {
        let mut callers = port.caller.iter();
        let identity = callers.find_map(|server| server.caller.as_deref());
        let who = identity.unwrap_or("which proves no identity here");
        heading(lines, paint, &format!("caller {}, {who}", from.workload));
        lines.extend(table(2, &server_rows(&port.caller, true)));
    }
    for request in &port.requests {
        request_lines(lines, request, answer.from.is_some(), paint);
    }
    if !explained.problems.is_empty() {
        heading(lines, paint, "problems");
        for problem in &explained.problems {
            let place = match problem.line {
                0 => problem.file.clone(),
                line => format!("{}:{line}", problem.file),
            };
            let mend = match &*problem.mend {
                "" => String::new(),
                mend => format!(" ({mend})"),
            };
            let broken = paragraph(2, &format!("{place}: {problem}{mend}"));
            lines.extend(broken.iter().map(|line| paint.bad(line)));
        }
    }
}

fn heading(lines: &mut Vec<String>, paint: Paint, words: &str) {
    lines.push(String::new());
    lines.push(paint.strong(words));
}

fn stanza_rows(explained: &Explained) -> Vec<Vec<String>> {
    let stanzas = explained.stanzas.iter();
    let no_rules = ["rules", "mesh default", "none"]
        .map(str::to_owned)
        .to_vec();
    let no_rules = Some(no_rules).filter(|_| explained.rules.is_empty());
    stanzas
        .map(|stanza| {
            let mut from = vec![stanza.from.to_string()];
            let others = stanza.instead_of.iter();
            from.extend(others.map(|other| format!("instead of {other}")));
            vec![
                stanza.name.to_owned(),
                from.join("\n"),
                value_of(&stanza.value),
            ]
        })
        .chain(no_rules)
        .collect()
}

fn inbound_lines(lines: &mut Vec<String>, inbound: &Inbound, paint: Paint) {
    let workloads = inbound.workloads.join(", ");
    heading(
        lines,
        paint,
        &format!("enforced by the servers on port {}", inbound.port),
    );
    let mut rows = vec![vec!["workloads".to_owned(), workloads]];
    if !inbound.meshed {
        rows.push(vec![
            "sidecar".to_owned(),
            "none: nothing is enforced".to_owned(),
        ]);
        lines.extend(table(2, &rows));
        return;
    }
    if inbound.overlapping {
        let services = inbound.services.join(", ");
        let words = format!("{services}: what each of them says holds for every request");
        rows.push(vec!["Overlapping".to_owned(), words]);
    }
    rows.push(vec!["mtls".to_owned(), enforced(&inbound.mtls)]);
    for (name, all) in [
        ("authorization", &inbound.authorization),
        ("rateLimit", &inbound.rate_limits),
        ("accessLog", &inbound.access_logs),
    ] {
        rows.extend(all.iter().map(|it| vec![name.to_owned(), enforced(it)]));
    }
    lines.extend(table(2, &rows));
}

fn enforced(enforced: &Enforced) -> String {
    let from: Vec<_> = enforced.from.iter().map(ToString::to_string).collect();
    let rule = enforced
        .rule
        .as_ref()
        .map_or_else(String::new, |rule| format!(", rule {rule}"));
    format!(
        "{}{rule}\n{}",
        from.join(" and "),
        value_of(&enforced.value)
    )
}

fn server_rows(servers: &[Server], is_known: bool) -> Vec<Vec<String>> {
    let servers = servers.iter();
    servers
        .map(|server| {
            let verdict = match server.verdict {
                "notEnforced" => "not looked at: no sidecar".to_owned(),
                "mtlsRequired" => {
                    "refused: mtls is Strict, and the caller has no sidecar".to_owned()
                }
                "dependsOnCaller" => "depends on the caller: say which one with --from".to_owned(),
                "allowed" if server.because.is_empty() => "allowed: no authorization".to_owned(),
                "audited" => "passes, and is counted as one that would be denied".to_owned(),
                word => word.to_owned(),
            };
            // One reason says the verdict too.
            let is_said = server.because.len() == 1 && server.verdict != "audited";
            let mut words: Vec<_> = Some(verdict).filter(|_| !is_said).into_iter().collect();
            words.extend(server.because.iter().cloned());
            if is_known && server.caller.is_none() && server.verdict != "notEnforced" {
                words.push("it proves no identity".to_owned());
            }
            for limit in &server.rate_limits {
                words.push(format!("rateLimit {}", enforced(limit).replace('\n', ": ")));
            }
            vec![server.workloads.join(", "), words.join("\n")]
        })
        .collect()
}

fn request_lines(lines: &mut Vec<String>, verdict: &Verdict, is_known: bool, paint: Paint) {
    let kind = match (verdict.grpc, verdict.streams) {
        (true, _) => " (gRPC)",
        (false, true) => " (a stream)",
        (false, false) => "",
    };
    heading(lines, paint, &format!("request {}{kind}", verdict.request));
    let mut rows = vec![vec!["route".to_owned(), route_words(verdict)]];
    if let Some(fault) = &verdict.fault {
        let delay = fault.delay.as_ref();
        let delay = delay.map(|delay| format!("{}% wait {delay}", fault.delay_percent));
        let abort = fault.abort.as_ref();
        let abort = abort.map(|abort| format!("{}% are answered {abort}", fault.abort_percent));
        let odds: Vec<_> = delay.into_iter().chain(abort).collect();
        let words = if fault.applies {
            odds.join(", ")
        } else {
            "none: it lacks the headers, or no share is asked for".to_owned()
        };
        rows.push(vec!["fault".to_owned(), words]);
    }
    rows.push(vec![
        "backend".to_owned(),
        backend_words(&verdict.destination),
    ]);
    rows.push(vec!["retries".to_owned(), repeat_words(&verdict.retries)]);
    rows.push(vec!["deadline".to_owned(), time_words(&verdict.deadline)]);
    if let Some(mirror) = &verdict.mirror {
        let words = match mirror.percent {
            0.0 => format!("no copies to {}", mirror.backend),
            percent => format!(
                "{percent}% are copied to {}, bodies up to {} bytes",
                mirror.backend, mirror.body_limit_bytes
            ),
        };
        rows.push(vec!["mirror".to_owned(), words]);
    }
    if let Some(fallback) = &verdict.fallback {
        let answer = match (&fallback.backend, fallback.response) {
            (Some(backend), _) => format!("{backend} is asked"),
            (None, Some(status)) => format!("answered {status}"),
            (None, None) => String::new(),
        };
        let words = format!("{answer} on {}", fallback.triggers.join(", "));
        rows.push(vec!["fallback".to_owned(), words]);
    }
    lines.extend(table(2, &rows));
    let ranges = &verdict.destination.ranges;
    if ranges.len() > 1 {
        lines.push(String::new());
        let mut rows = vec![
            ["BACKEND", "WEIGHT", "SHARE", "UP TO", "ENDPOINTS", "POINTS"]
                .map(str::to_owned)
                .to_vec(),
        ];
        rows.extend(ranges.iter().map(|range| {
            let points = range.points.as_ref();
            vec![
                range.backend.clone(),
                range.weight.to_string(),
                format!("{}%", range.share_percent),
                format!("{}%", range.up_to_percent),
                range
                    .endpoints
                    .map_or_else(|| "unknown".to_owned(), |count| count.to_string()),
                points.map_or_else(|| "none".to_owned(), |(from, to)| format!("{from}-{to}")),
            ]
        }));
        lines.extend(table(2, &rows));
    }
    if !verdict.servers.is_empty() {
        lines.push(String::new());
        let mut rows = vec![vec!["SERVER".to_owned(), "VERDICT".to_owned()]];
        rows.extend(server_rows(&verdict.servers, is_known));
        lines.extend(table(2, &rows));
    }
}

fn route_words(verdict: &Verdict) -> String {
    let mut words = vec![match (&*verdict.route, &verdict.passed_over[..]) {
        ("default", []) => "default: there are no rules".to_owned(),
        ("default", _) => "default: no rule matches".to_owned(),
        (rule, _) => format!("rule {rule}"),
    }];
    for passed in &verdict.passed_over {
        let ways: Vec<_> = passed
            .differs_in
            .iter()
            .map(|parts| parts.join(", "))
            .collect();
        let ways = ways.join("; or in ");
        words.push(format!("not {}: differs in {ways}", passed.rule));
    }
    words.join("\n")
}

fn backend_words(destination: &Destination) -> String {
    let backend = destination.backend.as_deref().unwrap_or_default();
    let key = destination.key.as_deref().unwrap_or_default();
    let words = match destination.by {
        "only" => backend.to_owned(),
        "forced" => format!("{backend}, forced by its matches"),
        "key" => {
            let point = destination.point.as_deref().unwrap_or_default();
            format!("{backend}, where the key falls: {key} is point {point}")
        }
        "newCookie" => format!("by chance, and kept by a new cookie: there is no {key}"),
        "nowhere" => "none: every weight is 0".to_owned(),
        _ if key.is_empty() => "by chance".to_owned(),
        _ => format!("by chance: there is no key ({key})"),
    };
    if destination.ranges.len() > 1 {
        return format!("{words}\nwhenEmpty: {}", destination.when_empty);
    }
    words
}

fn repeat_words(repeats: &Repeats) -> String {
    if repeats.attempts == 0 {
        return "none: attempts is 0".to_owned();
    }
    let list = |repeated: bool| {
        let all = repeats
            .after
            .iter()
            .filter(|after| after.repeated == repeated);
        let words: Vec<_> = all
            .map(|after| match after.why_not {
                None => after.failure.clone(),
                Some(why) => format!("{} ({why})", after.failure),
            })
            .collect();
        words.join(", ")
    };
    let verdict = match &repeats.because {
        Some(because) => format!("repeatable: {because}"),
        None => "only what was never processed: neither its method nor a key lets it be repeated"
            .to_owned(),
    };
    let tries = counted(repeats.attempts as usize, "try", "tries");
    let limit = repeats.body_limit_bytes;
    let mut words = vec![
        verdict,
        format!("up to {tries} after the first try, with a body of up to {limit} bytes"),
    ];
    for (head, list) in [("repeated after", list(true)), ("not after", list(false))] {
        if !list.is_empty() {
            words.push(format!("{head}: {list}"));
        }
    }
    words.join("\n")
}

fn time_words(times: &Times) -> String {
    let whose = match (&times.request, &times.grpc_timeout) {
        (Some(request), Some(own)) => format!(" (policy {request}, grpc-timeout {own})"),
        (Some(_), None) => " (timeouts.request)".to_owned(),
        (None, Some(_)) => " (grpc-timeout)".to_owned(),
        (None, None) => String::new(),
    };
    let streams = times.until == "responseHead";
    let mut words = vec![match &times.deadline {
        None => "none".to_owned(),
        Some(deadline) if streams => {
            format!("{deadline}{whose}, until the response's head: it is a stream")
        }
        Some(deadline) => format!("{deadline}{whose}, until the last byte"),
    }];
    let after_head = times.stream.as_ref().filter(|_| streams);
    let own = times.grpc_timeout.as_ref().filter(|_| streams);
    for (name, limit) in [
        ("perTry", times.per_try.as_ref()),
        ("idle", times.idle.as_ref()),
        ("stream", after_head),
        ("grpc-timeout, to the end", own),
    ] {
        if let Some(limit) = limit {
            words.push(format!("{name}: {limit}"));
        }
    }
    words.join("\n")
}

/// Fields in a row; lists of objects with an object per line.
fn value_of(value: &Tree) -> String {
    let items = |values: &[Tree]| {
        let lines: Vec<_> = values.iter().map(|value| format!("- {value}")).collect();
        lines.join("\n")
    };
    match value {
        Tree::Null => "none".to_owned(),
        Tree::Map(fields) if fields.is_empty() => "none".to_owned(),
        Tree::List(values) if has_objects(values) => items(values),
        Tree::Map(fields) => {
            // Fields that fit beside each other, and between them those that need lines of their own.
            let mut lines = Vec::new();
            let mut row: Vec<String> = Vec::new();
            for (name, value) in fields {
                match value {
                    Tree::List(values) if has_objects(values) => {
                        lines.extend(Some(row.join(", ")).filter(|row| !row.is_empty()));
                        row.clear();
                        lines.push(format!("{name}:\n{}", items(values)));
                    }
                    value => row.push(format!("{name}: {value}")),
                }
            }
            lines.extend(Some(row.join(", ")).filter(|row| !row.is_empty()));
            lines.join("\n")
        }
        value => value.to_string(),
    }
}

fn has_objects(values: &[Tree]) -> bool {
    matches!(values.first(), Some(Tree::Map(_)))
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
