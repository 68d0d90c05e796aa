//! What stands for images: which program a container's command means.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use weft_proto::names::{PROXY_CONTAINER, PROXY_MARK, env};

use crate::process::Program;

/// Programs by the name that a command calls them, or an image has that is started without one.
#[derive(Clone, Debug, Default)]
pub struct Images(BTreeMap<String, Program>);

impl Images {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more program.
    pub fn program(mut self, name: &str, program: Program) -> Self {
        self.0.insert(name.to_owned(), program);
        self
    }

    /// What a command is in an image: what it is called, the file with arguments that it always gets, and
    /// its own arguments, which are exactly those that the pod has.
    ///
    /// # Errors
    /// Names what there is no program for.
    pub(super) fn find(
        &self,
        image: &str,
        command: &[String],
        args: &[String],
    ) -> anyhow::Result<(String, Vec<String>, Vec<String>)> {
        let (name, rest) = match command.split_first() {
            Some((name, rest)) => (name.as_str(), rest),
            None => (name_of(image), &[][..]),
        };
        let program = self.0.get(name).ok_or_else(|| {
            anyhow::anyhow!("executable file {name:?} not found in the image {image}")
        })?;
        let words = program.words().map(OsStr::to_string_lossy);
        let words = words.map(std::borrow::Cow::into_owned).collect();
        Ok((name.to_owned(), words, [rest, args].concat()))
    }
}

/// Where there is one user only, the sidecar's connections cannot be told by theirs: they get a mark. This is
/// the one change to what a pod says, and whoever makes it prints that.
pub(super) fn tell_by_mark(
    program: &str,
    args: &mut Vec<String>,
    environment: &mut Vec<(String, String)>,
) {
    let mark = format!("{PROXY_MARK:#x}");
    match args.first().map(String::as_str) {
        _ if program != PROXY_CONTAINER => {}
        Some("init") => args.extend(["--exempt-mark".to_owned(), mark]),
        _ => environment.push((env::MARK.to_owned(), mark)),
    }
}

/// An image's name without registry, tag and digest.
fn name_of(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split([':', '@']).next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_command_is_a_program_with_exactly_its_arguments() {
        let images = Images::new().program("weft-proxy", Program::new("/x/weft").arg("proxy"));
        let find = |image: &str, command: &str, args: &str| {
            images.find(image, &words(command), &words(args)).unwrap()
        };
        let proxy = "weft-proxy".to_owned();
        let file = words("/x/weft proxy");
        let (name, program, args) = find("any", "weft-proxy init", "--a b");
        assert_eq!((name, program), (proxy.clone(), file.clone()));
        assert_eq!(args, ["init", "--a", "b"]);
        let image = "r.example:5000/m/weft-proxy:1.2@sha256:00";
        assert_eq!(find(image, "", "x"), (proxy, file, words("x")));
        let error = images.find("sh:1", &words("sh -c x"), &[]).unwrap_err();
        assert!(error.to_string().contains("\"sh\""), "{error}");
    }

    #[test]
    fn only_the_sidecar_gets_a_mark() {
        let marked = |program: &str, args: &str| {
            let (mut args, mut environment) = (words(args), Vec::new());
            tell_by_mark(program, &mut args, &mut environment);
            (args.join(" "), environment.len())
        };
        let init = "init --exempt-mark 0x2140".to_owned();
        assert_eq!(marked("weft-proxy", "init"), (init, 0));
        assert_eq!(marked("weft-proxy", ""), (String::new(), 1));
        assert_eq!(marked("weft-app", "init"), ("init".to_owned(), 0));
    }
}
