//! Tests that are written in Python: run once, all together, as loading the Helm engine takes its time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Completion, Failed, Trial};
use serde_json::Value;

const PYTHON: &str = "WEFT_CHART_PYTHON";
/// Where the suite finds the roles that programs print.
const ROLES: &str = "WEFT_CHART_RBAC";
/// Has every program of the mesh.
pub(crate) const WEFT: &str = env!("CARGO_BIN_EXE_weft-under-test");
/// The chart's namespace where nobody says another.
const NAMESPACE: &str = "weft";

/// A Python that has what the tests need.
pub(crate) struct Python {
    program: PathBuf,
    /// What became of each test.
    results: OnceLock<BTreeMap<String, String>>,
}

impl Python {
    /// Says what to do where there is none.
    pub(crate) fn find() -> Result<Self, String> {
        let program = match std::env::var_os(PYTHON) {
            Some(program) => PathBuf::from(program),
            None => root().join("target/python/bin/python"),
        };
        let asked = Command::new(&program)
            .args(["-c", "import helm_python, kubernetes_validate, yaml"])
            .output();
        let good = asked.is_ok_and(|output| output.status.success());
        good.then(|| Self {
            program: program.clone(),
            results: OnceLock::new(),
        })
        .ok_or_else(|| {
            format!(
                "{} is no Python with tests/chart/requirements.txt: make one with `python3 -m venv \
                 target/python && target/python/bin/pip install -r tests/chart/requirements.txt`, or \
                 name another in {PYTHON}",
                program.display()
            )
        })
    }

    /// Every test under its name.
    pub(crate) fn trials(self: &Arc<Self>) -> Vec<Trial> {
        let names = self.run("run.py", &["--list"], &[]);
        let names: Vec<_> = names.lines().map(str::to_owned).collect();
        assert!(names.len() > 30, "too few tests: {names:?}");
        let trial = |name: String| {
            let python = Arc::clone(self);
            Trial::ignorable_test(name.clone(), move || python.result(&name))
        };
        names.into_iter().map(trial).collect()
    }

    /// The objects that the chart renders by default, those of its test too.
    pub(crate) fn rendered(&self) -> Vec<Value> {
        let stream = self.run("render.py", &["--tests", "--namespace", NAMESPACE], &[]);
        let documents = stream.split("\n---\n");
        documents
            .map(|text| serde_saphyr::from_str(text.trim_start_matches("---\n")).unwrap())
            .collect()
    }

    /// Of each case of the matrix, by Deployment, its command and variables.
    pub(crate) fn processes(&self) -> Value {
        serde_json::from_str(&self.run("run.py", &["--processes"], &[])).unwrap()
    }

    fn result(&self, name: &str) -> Result<Completion, Failed> {
        let results = self.results.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let roles = dir.path().join("roles.json");
            let printed = ["control-plane", "injector"].map(roles_of);
            std::fs::write(&roles, printed.join("---\n")).unwrap();
            let printed = self.run("run.py", &[], &[(ROLES, &roles)]);
            serde_json::from_str(&printed).unwrap()
        });
        match results.get(name).map(String::as_str) {
            Some("ok") => Ok(Completion::Completed),
            Some(skipped) if skipped.starts_with("skipped") => Err(skipped.into()),
            Some(failure) => Err(failure.into()),
            None => Err("it did not run".into()),
        }
    }

    /// What a script prints.
    fn run(&self, script: &str, args: &[&str], variables: &[(&str, &Path)]) -> String {
        let output = Command::new(&self.program)
            .arg(root().join("tests/chart").join(script))
            .args(args)
            .envs(variables.iter().copied())
            // Leaves nothing behind in the sources.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// What a program prints as the roles that it needs.
fn roles_of(program: &str) -> String {
    let output = Command::new(WEFT)
        .args(["internal", program, "--print-rbac"])
        .args(["--namespace", NAMESPACE])
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} --print-rbac");
    String::from_utf8(output.stdout).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
