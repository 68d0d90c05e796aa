//! Rules in CEL.
//!
//! Of what Kubernetes gives rules, the schema uses the language itself, `duration` and `matches`; both
//! functions are given here. A duration is a count of milliseconds, which is how it compares.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::extractors::This;
use cel::objects::{Key, Map};
use cel::{Context, Env, ExecutionError, Program};
use regex_lite::Regex;
use serde_json::Value;

use super::{List, Schema, entry, field, is_within};
use crate::policy::duration::PolicyDuration;
use crate::policy::validate::Violation;

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A rule, ready to be asked.
#[derive(Debug)]
pub(super) struct Rule {
    program: Arc<Program>,
    message: String,
    /// Makes a message where there is no fixed one, or a better one.
    says: Option<Arc<Program>>,
    field: String,
    mend: String,
    /// Whether it compares with what there was, and so is asked only where there was something.
    is_transition: bool,
}

/// Programs by their text: many places have the same rules.
#[derive(Default)]
pub(super) struct Programs(HashMap<String, Arc<Program>>);

impl Rule {
    pub(super) fn new(rule: &Value, programs: &mut Programs) -> Result<Self, String> {
        let part = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
        let (text, says) = (part("rule"), rule["messageExpression"].as_str());
        let message = match part("message") {
            none if none.is_empty() => format!("failed rule: {text}"),
            message => message,
        };
        Ok(Self {
            program: programs.compile(&text)?,
            message,
            says: says.map(|says| programs.compile(says)).transpose()?,
            field: part("fieldPath"),
            mend: part("mend"),
            is_transition: text.contains("oldSelf"),
        })
    }

    fn message_about(&self, context: &Context<'_, '_>) -> String {
        match self.says.as_ref().map(|says| says.execute(context)) {
            Some(Ok(cel::Value::String(text))) => text.to_string(),
            _ => self.message.clone(),
        }
    }

    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl Programs {
    fn compile(&mut self, rule: &str) -> Result<Arc<Program>, String> {
        if let Some(known) = self.0.get(rule) {
            return Ok(Arc::clone(known));
        }
        let program = ENV.compile(rule);
        let program = program.map_err(|error| format!("the rule {rule:?}: {error}"))?;
        let program = Arc::new(program);
        self.0.insert(rule.to_owned(), Arc::clone(&program));
        Ok(program)
    }
}

/// Asks every rule about an object in which nothing is wrong so far, and which was `old` before.
pub(super) fn check(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    found: &mut Vec<Violation>,
) {
    let mut context = Context::with_env(Arc::clone(&ENV));
    let declared = context
        .add_function("duration", millis)
        .and_then(|()| context.add_function("matches", matches));
    declared.expect("without chrono and regex, nothing has these names");
    let shapes = found.len();
    walk(schema, (value, old), "", &mut context, shapes, found);
}

fn walk(
    schema: &Schema,
    (value, old): (&Value, Option<&Value>),
    path: &str,
    context: &mut Context<'_, '_>,
    shapes: usize,
    found: &mut Vec<Violation>,
) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let schema = schema.properties.get(name).or(schema.others.as_deref());
                if let Some(schema) = schema {
                    let values = (value, old.and_then(|old| old.get(name)));
                    walk(schema, values, &field(path, name), context, shapes, found);
                }
            }
        }
        Value::Array(entries) => {
            for (at, value) in entries.iter().enumerate() {
                if let Some(items) = &schema.items {
                    let values = (value, former(schema, value, old));
                    walk(items, values, &entry(path, at), context, shapes, found);
                }
            }
        }
        _ => {}
    }
    let broken = |known: &Violation| is_within(&known.path, path);
    if schema.rules.is_empty() || found[..shapes].iter().any(broken) {
        return;
    }
    context.add_variable_from_value("self", cel_value(value));
    if let Some(old) = old {
        context.add_variable_from_value("oldSelf", cel_value(old));
    }
    for rule in &schema.rules {
        if rule.is_transition && old.is_none() {
            continue;
        }
        let reason = match rule.program.execute(context) {
            Ok(cel::Value::Bool(true)) => continue,
            Ok(cel::Value::Bool(false)) => rule.message_about(context),
            Ok(other) => format!("{}: the rule answered {other:?}", rule.message),
            Err(error) => format!("{}: {error}", rule.message),
        };
        found.push(Violation {
            path: format!("{path}{}", rule.field),
            reason,
            mend: rule.mend.clone(),
        });
    }
}

/// What an entry of a list was before: only entries of maps can be told from each other.
fn former<'a>(schema: &Schema, value: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    let List::Map(keys) = &schema.list else {
        return None;
    };
    let mut entries = old?.as_array()?.iter();
    entries.find(|old| keys.iter().all(|key| old.get(key) == value.get(key)))
}

/// Fields that are words of the language are asked for as `__namespace__` (Kubernetes, CEL escaping).
const RESERVED: [&str; 20] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "while",
];

/// Integers are signed in Kubernetes' rules, whatever they are.
fn cel_value(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => cel::Value::Int(number),
            None => cel::Value::Float(number.as_f64().unwrap_or(f64::INFINITY)),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(entries) => {
            cel::Value::List(Arc::new(entries.iter().map(cel_value).collect()))
        }
        Value::Object(fields) => {
            let mut map = HashMap::with_capacity(fields.len());
            for (name, value) in fields {
                let value = cel_value(value);
                if RESERVED.contains(&name.as_str()) {
                    map.insert(Key::from(format!("__{name}__").as_str()), value.clone());
                }
                map.insert(Key::from(name.as_str()), value);
            }
            cel::Value::Map(Map { map: Arc::new(map) })
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // Functions get their arguments so.
fn millis(text: Arc<String>) -> Result<i64, ExecutionError> {
    let duration: PolicyDuration = text
        .parse()
        .map_err(|error| ExecutionError::function_error("duration", error))?;
    Ok(i64::try_from(duration.get().as_millis()).unwrap_or(i64::MAX))
}

#[allow(clippy::needless_pass_by_value)] // As above.
fn matches(This(text): This<Arc<String>>, pattern: Arc<String>) -> Result<bool, ExecutionError> {
    let pattern =
        Regex::new(&pattern).map_err(|error| ExecutionError::function_error("matches", error))?;
    Ok(pattern.is_match(&text))
}
