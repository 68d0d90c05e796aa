//! Whatever was written in whatever order: in force is the last good version of every policy that is
//! still there, and nothing else.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::policy::PolicyDuration;

const FILES: [&str; 3] = ["a.yaml", "b.yaml", "c.yaml"];
/// Each for a service of its own. Those with an odd number carry `mtls` too.
const POLICIES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Good,
    /// A field that nobody knows.
    BadShape,
    /// A value out of its bounds.
    BadValue,
    /// A kind that is misspelt.
    BadKind,
    /// It does not say who it is.
    Nameless,
    /// No YAML.
    Garbage,
}

#[derive(Clone, Debug)]
struct Written {
    policy: usize,
    /// In seconds, from 1.
    version: u64,
    text: Text,
}

impl Written {
    fn yaml(&self) -> String {
        let Self {
            policy, version, ..
        } = self;
        let kind = match self.text {
            Text::Garbage => return "kind: [TrafficPolicy\n".to_owned(),
            Text::BadKind => "TraficPolicy",
            _ => "TrafficPolicy",
        };
        let name = match self.text {
            Text::Nameless => "name: [p]".to_owned(),
            _ => format!("name: p{policy}"),
        };
        let connect = match self.text {
            Text::BadShape => format!("{{connect: {version}s, conect: 1s}}"),
            Text::BadValue => "{connect: 1ms}".to_owned(),
            _ => format!("{{connect: {version}s}}"),
        };
        let mtls = if closes(*policy) && self.text != Text::Nameless {
            ", mtls: {mode: Permissive}"
        } else {
            ""
        };
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: {kind}\nmetadata: {{{name}, namespace: demo}}\n\
             spec: {{targetRefs: [{{name: s{policy}}}], timeouts: {connect}{mtls}}}\n"
        )
    }

    fn has_name(&self) -> bool {
        !matches!(self.text, Text::Nameless | Text::Garbage)
    }
}

fn closes(policy: usize) -> bool {
    policy % 2 == 1
}

/// What a policy is, as a reader of the promise would say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    file: usize,
    last_good: Option<u64>,
}

/// One policy after another, each by everything that was ever written. `None`: the file is not there.
fn promised(
    before: &[Option<Known>; POLICIES],
    files: &[Option<Vec<Written>>],
) -> [Option<Known>; POLICIES] {
    std::array::from_fn(|policy| {
        let former = before[policy];
        let definitions = files.iter().enumerate().flat_map(|(file, documents)| {
            let documents = documents.iter().flatten();
            documents.map(move |written| (file, written))
        });
        let definition = definitions
            .clone()
            .find(|(_, written)| written.has_name() && written.policy == policy);
        match definition {
            Some((file, written)) if written.text == Text::Good => Some(Known {
                file,
                last_good: Some(written.version),
            }),
            Some((file, _)) => Some(Known {
                file,
                last_good: former.and_then(|former| former.last_good),
            }),
            None => {
                let mut definitions = definitions;
                former.filter(|former| {
                    definitions.any(|(file, written)| file == former.file && !written.has_name())
                })
            }
        }
    })
}

fn mesh() -> String {
    let services = (0..POLICIES)
        .map(|number| format!("- {{name: s{number}, namespace: demo, ports: [{{port: 80}}]}}\n"));
    format!(
        "networks: [10.42.0.0/16]\nservices:\n{}",
        services.collect::<String>()
    )
}

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        5 => Just(Text::Good),
        1 => Just(Text::BadShape),
        1 => Just(Text::BadValue),
        1 => Just(Text::BadKind),
        1 => Just(Text::Nameless),
        1 => Just(Text::Garbage),
    ]
}

fn step() -> impl Strategy<Value = Vec<Option<Vec<Written>>>> {
    let written = (0..POLICIES, 1..20_u64, text()).prop_map(|(policy, version, text)| Written {
        policy,
        version,
        text,
    });
    vec(
        prop::option::weighted(0.85, vec(written, 0..4)),
        FILES.len(),
    )
}

proptest! {
    #[test]
    fn the_last_good_version_of_what_is_there_is_in_force(steps in vec(step(), 1..8)) {
        let mut files = Files::default();
        files.write("mesh.yaml", &mesh());
        let mut known = [None; POLICIES];
        for step in &steps {
            for (file, documents) in FILES.iter().zip(step) {
                files.texts.remove(*file);
                if let Some(documents) = documents {
                    let texts: Vec<_> = documents.iter().map(Written::yaml).collect();
                    files.texts.insert((*file).to_owned(), texts.join("---\n"));
                }
            }
            let model = files.update();
            known = promised(&known, step);

            for (number, known) in known.iter().enumerate() {
                let service = model.service("demo", &format!("s{number}")).expect("it is there");
                let stanzas = model.policy(service, &service.ports[0]);
                let last_good = known.and_then(|known| known.last_good);
                let connect = stanzas.timeouts.as_ref().and_then(|timeouts| timeouts.connect);
                prop_assert_eq!(
                    connect.map(PolicyDuration::get),
                    last_good.map(Duration::from_secs),
                    "s{} of {:#?}", number, steps
                );
                let mtls = match (known, last_good) {
                    (Some(_), Some(_)) if closes(number) => Some(MtlsMode::Permissive),
                    (Some(_), None) if closes(number) => Some(MtlsMode::Strict),
                    _ => None,
                };
                prop_assert_eq!(stanzas.mtls, mtls, "s{} of {:#?}", number, steps);
            }
            // What is bad is named, each document once; a second definition is bad too.
            let mut seen = std::collections::HashSet::new();
            let bad = step.iter().flatten().flatten().filter(|written| {
                let is_second = written.has_name() && !seen.insert(written.policy);
                is_second || written.text != Text::Good
            });
            prop_assert_eq!(model.refusals().len(), bad.count(), "{:#?}", model.refusals());
        }
    }
}
