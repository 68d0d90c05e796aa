//! A YAML document that keeps the order of its fields.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Number, Value};
use weft_injector::patch::Operation;

/// A document or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// A patch that was made for another document.
#[derive(Debug, thiserror::Error)]
#[error("the patch does not fit at {0}")]
pub(super) struct Misfit(String);

impl Tree {
    /// Does one operation.
    pub(super) fn apply(&mut self, operation: Operation) -> Result<(), Misfit> {
        let (path, value) = match operation {
            Operation::Add { path, value } => (path, Some(value)),
            Operation::Remove { path } => (path, None),
        };
        let done = match value {
            Some(value) => self.add(&path, value.into()),
            None => self.remove(&path),
        };
        done.ok_or(Misfit(path))
    }

    fn add(&mut self, path: &str, value: Tree) -> Option<()> {
        let (parent, key) = self.parent(path)?;
        match parent {
            Self::List(items) => {
                let at = match key.as_str() {
                    "-" => items.len(),
                    number => number.parse().ok()?,
                };
                (at <= items.len()).then(|| items.insert(at, value))
            }
            Self::Map(entries) => {
                match entries.iter_mut().find(|(name, _)| *name == key) {
                    Some((_, old)) => *old = value,
                    None => entries.push((key, value)),
                }
                Some(())
            }
            _ => None,
        }
    }

    fn remove(&mut self, path: &str) -> Option<()> {
        let (parent, key) = self.parent(path)?;
        let Self::Map(entries) = parent else {
            return None;
        };
        let at = entries.iter().position(|(name, _)| *name == key)?;
        entries.remove(at);
        Some(())
    }

    /// What the last part of a pointer (RFC 6901) is in, and that part.
    fn parent(&mut self, path: &str) -> Option<(&mut Tree, String)> {
        let (parents, key) = path.rsplit_once('/')?;
        let mut tree = self;
        for part in parents.split('/').skip(1) {
            let name = unescaped(part);
            tree = match tree {
                Self::List(items) => items.get_mut(name.parse::<usize>().ok()?)?,
                Self::Map(entries) => &mut entries.iter_mut().find(|(other, _)| *other == name)?.1,
                _ => return None,
            };
        }
        Some((tree, unescaped(key)))
    }
}

impl From<Value> for Tree {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(value) => Self::Number(value),
            Value::String(value) => Self::Text(value),
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Object(entries) => Self::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (key, value.into()))
                    .collect(),
            ),
        }
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => value.serialize(serializer),
            Self::Text(value) => serializer.serialize_str(value),
            Self::List(items) => items.serialize(serializer),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what JSON can say")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        let number = Number::from_f64(value);
        let number = number.ok_or_else(|| E::custom("a number that is infinite or none"))?;
        Ok(Tree::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }
}

fn unescaped(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}
