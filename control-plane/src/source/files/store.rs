//! What is in force: the last good version of every object that some file still holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::parse::{Contents, Entry, Key, Object};
use crate::index::{MeshSettings, Objects, Origin, Refusal, Sourced};
use crate::source::closed;
use crate::source::mesh_file::FILE_NAME;

/// Last good versions. A pure state machine over the contents of all files.
#[derive(Debug, Default)]
pub(super) struct Store {
    held: BTreeMap<Key, Held>,
    refusals: Vec<Refusal>,
}

#[derive(Clone, Debug)]
struct Held {
    origin: Origin,
    object: Object,
}

impl Store {
    /// What files hold of which nothing was known before. They need not be those of one directory,
    /// and none of them has to be there.
    pub(super) fn of(files: &BTreeMap<String, Contents>) -> Self {
        let mut store = Self::default();
        store.take_over(files, &BTreeMap::new());
        store
    }

    /// Takes over what all files hold now. What a bad object or an unreadable document was before
    /// stays; what is gone from readable files goes.
    pub(super) fn update(&mut self, files: &BTreeMap<String, Contents>) {
        let before = std::mem::take(&mut self.held);
        let claims = self.take_over(files, &before);

        let missing = !files.contains_key(FILE_NAME);
        if missing {
            let reason = "the file is missing; what it held stays in force";
            self.refuse(FILE_NAME, 0, "Mesh", reason.to_owned(), "put it back");
        }
        for (key, held) in before {
            let file = &*held.origin.file;
            let unknown = files
                .get(file)
                .map_or(file == FILE_NAME, |contents| !contents.is_whole());
            // A line is no name: once there is another text, it means nothing any more.
            let lasting = match key {
                Key::Nameless(..) => files
                    .get(file)
                    .is_some_and(|contents| !contents.unreadable.is_empty()),
                _ => true,
            };
            if unknown && lasting && !claims.contains_key(&key) {
                self.held.insert(key, held);
            }
        }
    }

    /// Says who is there, and at which place.
    fn take_over(
        &mut self,
        files: &BTreeMap<String, Contents>,
        before: &BTreeMap<Key, Held>,
    ) -> HashMap<Key, String> {
        self.refusals.clear();
        let mut claims: HashMap<Key, String> = HashMap::new();

        for (file, contents) in files {
            let name: Arc<str> = file.as_str().into();
            for entry in &contents.entries {
                let Some(key) = &entry.key else {
                    continue;
                };
                if let Some(first) = claims.get(key) {
                    let reason = format!("it is defined in {first} already");
                    self.refuse(file, entry.line, &entry.label, reason, "");
                    continue;
                }
                claims.insert(key.clone(), format!("{file}:{}", entry.line));
                let last_good = before
                    .get(key)
                    .map(|held| &held.object)
                    .filter(|object| !matches!(object, Object::Broken(_)));
                if let Some(object) = self.take(file, entry, last_good) {
                    let origin = Origin {
                        file: Arc::clone(&name),
                        line: entry.line,
                    };
                    self.held.insert(key.clone(), Held { origin, object });
                }
            }
        }
        for (file, contents) in files {
            self.take_unknown(file, contents, before, &claims);
        }
        claims
    }

    /// What does not say who it is. It may be anything that the file held before and that nobody
    /// claims now; that stays then, as it was.
    fn take_unknown(
        &mut self,
        file: &str,
        contents: &Contents,
        before: &BTreeMap<Key, Held>,
        claims: &HashMap<Key, String>,
    ) {
        let unclaimed = before
            .iter()
            .filter(|(key, held)| &*held.origin.file == file && !claims.contains_key(key));
        let mut objects = unclaimed.map(|(_, held)| &held.object).peekable();
        let any_stays = objects.peek().is_some();
        let good_stays = objects.any(|object| !matches!(object, Object::Broken(_)));
        for entry in contents.entries.iter().filter(|entry| entry.key.is_none()) {
            let Err(bad) = &entry.outcome else {
                continue;
            };
            let instead = bad.instead.clone().filter(|_| !good_stays);
            let consequence = match &instead {
                _ if bad.foreign => String::new(),
                _ if good_stays => "; what it was before stays in force".to_owned(),
                instead => closed::consequence(instead.as_ref(), bad.aimless),
            };
            for problem in &bad.problems {
                let reason = format!("{}{consequence}", problem.reason);
                self.refuse(file, problem.line, &entry.label, reason, &problem.mend);
            }
            if let Some(broken) = instead {
                let origin = Origin {
                    file: file.into(),
                    line: entry.line,
                };
                let key = Key::Nameless(file.to_owned(), entry.line);
                let object = Object::Broken(broken);
                self.held.insert(key, Held { origin, object });
            }
        }
        for problem in &contents.unreadable {
            let consequence = if any_stays {
                "what it held stays in force"
            } else {
                "nothing that it says is in force, and nothing is closed by it"
            };
            let reason = format!("{}; {consequence}", problem.reason);
            self.refuse(file, problem.line, "YAML document", reason, &problem.mend);
        }
    }

    /// What is refused now.
    pub(super) fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// Everything that is in force; `None` while there are no good mesh-wide settings.
    pub(super) fn objects(&self) -> Option<Objects> {
        Some(self.objects_under(self.settings()?))
    }

    /// Everything that is in force but the mesh-wide settings, which are given.
    pub(super) fn objects_under(&self, settings: MeshSettings) -> Objects {
        let mut objects = Objects {
            settings,
            listeners: Vec::new(),
            workloads: Vec::new(),
            services: Vec::new(),
            policies: Vec::new(),
            broken: Vec::new(),
            routes: Vec::new(),
            grants: Vec::new(),
            refusals: self.refusals.clone(),
        };
        for Held { origin, object } in self.held.values() {
            let origin = origin.clone();
            match object.clone() {
                Object::Settings(_) => {}
                Object::Workload(object) => objects.workloads.push(Sourced { origin, object }),
                Object::Service(object) => objects.services.push(Sourced { origin, object }),
                Object::Listener(object) => objects.listeners.push(Sourced { origin, object }),
                Object::Policy(object) => objects.policies.push(Sourced { origin, object }),
                Object::Broken(broken) => objects.broken.push(broken),
                Object::Route(object) => objects.routes.push(Sourced { origin, object }),
                Object::Grant(object) => objects.grants.push(Sourced { origin, object }),
            }
        }
        // Of two objects that claim the same address the first in the file has it.
        objects.workloads.sort_by(|a, b| a.origin.cmp(&b.origin));
        objects.services.sort_by(|a, b| a.origin.cmp(&b.origin));
        objects.listeners.sort_by(|a, b| a.origin.cmp(&b.origin));
        objects
    }

    /// What holds for an entry: itself, else its last good version, else what a broken policy closes.
    fn take(&mut self, file: &str, entry: &Entry, last_good: Option<&Object>) -> Option<Object> {
        let bad = match &entry.outcome {
            Ok(object) => return Some(object.clone()),
            Err(bad) => bad,
        };
        let consequence = match last_good {
            Some(_) => closed::LAST_GOOD_STAYS.to_owned(),
            None => closed::consequence(bad.instead.as_ref(), bad.aimless),
        };
        for problem in &bad.problems {
            let reason = format!("{}{consequence}", problem.reason);
            self.refuse(file, problem.line, &entry.label, reason, &problem.mend);
        }
        let instead = || bad.instead.clone().map(Object::Broken);
        last_good.cloned().or_else(instead)
    }

    /// The mesh-wide settings that are in force.
    pub(super) fn settings(&self) -> Option<MeshSettings> {
        match &self.held.get(&Key::Settings)?.object {
            Object::Settings(settings) => Some(settings.clone()),
            _ => None,
        }
    }

    fn refuse(&mut self, file: &str, line: u64, object: &str, reason: String, mend: &str) {
        self.refusals.push(Refusal {
            file: file.to_owned(),
            line,
            object: object.to_owned(),
            reason,
            mend: mend.to_owned(),
        });
    }
}
