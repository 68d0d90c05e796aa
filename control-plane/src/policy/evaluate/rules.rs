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

use super::{Schema, entry, field, is_within};
use crate::policy::duration::PolicyDuration;
use crate::policy::validate::Violation;

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A rule, ready to be asked.
#[derive(Debug)]
pub(super) struct Rule {
    program: Arc<Program>,
    message: String,
    field: String,
    mend: String,
}

/// Programs by their text: many places have the same rules.
#[derive(Default)]
pub(super) struct Programs(HashMap<String, Arc<Program>>);

impl Rule {
    pub(super) fn new(rule: &Value, programs: &mut Programs) -> Self {
        let part = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
        Self {
            program: programs.compile(&part("rule")),
            message: part("message"),
            field: part("fieldPath"),
            mend: part("mend"),
        }
    }

    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl Programs {
    fn compile(&mut self, rule: &str) -> Arc<Program> {
        let known = self.0.entry(rule.to_owned()).or_insert_with(|| {
            let program = ENV.compile(rule);
            Arc::new(program.expect("rules of the schema are good CEL"))
        });
        Arc::clone(known)
    }
}

/// Asks every rule about an object in which nothing is wrong so far.
pub(super) fn check(schema: &Schema, value: &Value, found: &mut Vec<Violation>) {
    let mut context = Context::with_env(Arc::clone(&ENV));
    let declared = context
        .add_function("duration", millis)
        .and_then(|()| context.add_function("matches", matches));
    declared.expect("without chrono and regex, nothing has these names");
    let shapes = found.len();
    walk(schema, value, "", &mut context, shapes, found);
}

fn walk(
    schema: &Schema,
    value: &Value,
    path: &str,
    context: &mut Context<'_, '_>,
    shapes: usize,
    found: &mut Vec<Violation>,
) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(schema) = schema.properties.get(name) {
                    walk(schema, value, &field(path, name), context, shapes, found);
                }
            }
        }
        Value::Array(entries) => {
            for (at, value) in entries.iter().enumerate() {
                if let Some(schema) = &schema.items {
                    walk(schema, value, &entry(path, at), context, shapes, found);
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
    for rule in &schema.rules {
        let reason = match rule.program.execute(context) {
            Ok(cel::Value::Bool(true)) => continue,
            Ok(cel::Value::Bool(false)) => rule.message.clone(),
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
            let fields = fields.iter();
            let fields = fields.map(|(name, value)| (Key::from(name.as_str()), cel_value(value)));
            cel::Value::Map(Map {
                map: Arc::new(fields.collect()),
            })
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
