//! Holds what no compiler holds: the walls between crates and modules, the house numbers, the
//! words, one version of what must be one, and a page for every error.
//!
//! Each rule is a pure function from texts to complaints, so that each is shown to find what it
//! looks for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use millrace_common::Code;
use millrace_integration_tests::dataset::repository_root;

/// Longest production part of a file, in lines.
const FILE_LINES: usize = 500;
/// Longest function, in lines; the same number stands in `clippy.toml`.
const FUNCTION_LINES: usize = 80;

/// Which crates of the workspace each crate may use, in production and in tests.
const CRATE_WALLS: [(&str, &[&str]); 8] = [
    ("proto", &[]),
    ("common", &["proto"]),
    ("sql", &["proto", "common"]),
    ("master", &["proto", "common"]),
    ("worker", &["proto", "common", "sql"]),
    ("client", &["proto", "common", "sql"]),
    ("emulator", &[]),
    ("integration-tests", &["proto", "common"]),
];

/// Crates of which two versions would be two worlds.
const ONE_VERSION: [&str; 7] =
    ["arrow", "datafusion", "hyper", "object_store", "rustls", "tokio", "tonic"];

/// Words that have another word in this house.
const FOREIGN_WORDS: [(&str, &str); 4] = [
    ("Coordinator", "master or driver"),
    ("Manager", "a noun that says what it does"),
    ("Helper", "a noun that says what it does"),
    ("Utils", "a noun that says what it does"),
];

/// A Rust file of the workspace, its path relative to the root.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The text up to the tests at its end.
    fn production(&self) -> &str {
        let inner = self.text.find("\n#[cfg(test)]\nmod ");
        &self.text[..inner.map_or(self.text.len(), |at| at + 1)]
    }

    fn is_test(&self) -> bool {
        let parts = || self.path.iter().filter_map(|part| part.to_str());
        parts().any(|part| part == "tests" || part == "tests.rs" || part == "integration-tests")
    }

    fn complaint(&self, line: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path.display(), line + 1)
    }
}

fn sources() -> Vec<Source> {
    let root = repository_root();
    let mut found = Vec::new();
    for (name, _) in CRATE_WALLS {
        collect(root, &root.join(name), &mut found);
    }
    assert!(found.len() > 30, "only {} files: the walk is broken", found.len());
    found
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
            let path = path.strip_prefix(root).expect("the walk began at the root").to_owned();
            found.push(Source { path, text });
        }
    }
}

/// Asserts that `rule` has no complaint about any file.
fn hold(rule: impl Fn(&Source) -> Vec<String>) {
    let complaints: Vec<String> = sources().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "{} complaints\n{}", complaints.len(), complaints.join("\n"));
}

/// A line without its comment and without the contents of its string literals.
fn code(line: &str) -> String {
    let mut plain = String::new();
    let (mut inside, mut escaped, mut previous) = (false, false, ' ');
    for c in line.chars() {
        match (inside, c) {
            (true, _) if escaped => escaped = false,
            (true, '\\') => escaped = true,
            (true, '"') => inside = false,
            (true, _) => {}
            (false, '"') if previous != '\'' => inside = true,
            (false, '/') if previous == '/' => {
                plain.pop();
                break;
            }
            (false, c) => plain.push(c),
        }
        previous = c;
    }
    plain
}

fn opens_with_a_promise(source: &Source) -> Vec<String> {
    let opens = source.text.starts_with("//! ");
    if opens { Vec::new() } else { vec![source.complaint(0, "does not open with `//! `")] }
}

fn fits_the_house_numbers(source: &Source) -> Vec<String> {
    let production = source.production();
    let mut complaints = Vec::new();
    let lines = production.lines().count();
    if lines > FILE_LINES && !source.is_test() {
        complaints.push(source.complaint(lines, &format!("{lines} lines of {FILE_LINES}")));
    }
    let mut open: Option<(usize, String)> = None;
    for (number, line) in source.text.lines().enumerate() {
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        match &open {
            None if is_function(line) && !line.trim_end().ends_with(['}', ';']) => {
                open = Some((number, indent));
            }
            Some((first, outer)) if line == format!("{outer}}}") => {
                let lines = number - first + 1;
                if lines > FUNCTION_LINES {
                    let what = format!("a function of {lines} lines of {FUNCTION_LINES}");
                    complaints.push(source.complaint(*first, &what));
                }
                open = None;
            }
            // A declaration without a body.
            Some((_, outer)) if line == format!("{outer});") => open = None,
            _ => {}
        }
    }
    complaints
}

fn is_function(line: &str) -> bool {
    let line = line.trim_start();
    let words = ["fn ", "pub fn ", "async fn ", "pub async fn ", "const fn ", "pub const fn "];
    words.iter().any(|word| line.starts_with(word))
        || (line.starts_with("pub(") && line.contains(" fn "))
}

fn has_no_forbidden_call(source: &Source) -> Vec<String> {
    let production = if source.is_test() { "" } else { source.production() };
    let mut complaints = Vec::new();
    for (number, line) in production.lines().enumerate() {
        let line = code(line);
        for (call, why) in [
            (".unwrap()", "say why it holds with `expect`, or return an error"),
            (".do_send(", "ignores the mailbox's capacity"),
            ("unbounded_channel", "every queue is bounded"),
            ("mpsc::unbounded", "every queue is bounded"),
            ("Arbiter::", "library code runs without a System"),
            ("System::current(", "library code runs without a System"),
        ] {
            if line.contains(call) {
                complaints.push(source.complaint(number, &format!("`{call}`: {why}")));
            }
        }
    }
    complaints
}

fn leaves_nothing_for_later(source: &Source) -> Vec<String> {
    let marks = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["to", "do!("].concat(),
        ["unimple", "mented!("].concat(),
        ["#[ig", "nore"].concat(),
    ];
    let mut complaints = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        for mark in marks.iter().filter(|mark| line.contains(mark.as_str())) {
            complaints.push(source.complaint(number, mark));
        }
    }
    complaints
}

fn names_things_by_our_words(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in source.production().lines().enumerate() {
        let line = code(line);
        let declares =
            ["struct ", "enum ", "trait ", "mod "].iter().any(|word| line.contains(word));
        for (word, ours) in FOREIGN_WORDS {
            if declares && line.contains(word) {
                complaints.push(source.complaint(number, &format!("{word}: say {ours}")));
            }
        }
    }
    complaints
}

/// Inside the worker, node, driver and executor know nothing of one another.
fn respects_the_worker_walls(source: &Source) -> Vec<String> {
    const ROLES: [&str; 3] = ["node", "driver", "executor"];
    let role = source.path.strip_prefix("worker/src").ok().and_then(|inner| {
        let first = inner.iter().next()?.to_str()?;
        ROLES.iter().find(|role| first == **role || first == format!("{role}.rs"))
    });
    let Some(role) = role else { return Vec::new() };
    let mut complaints = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let line = code(line);
        for other in ROLES.iter().filter(|other| *other != role) {
            let paths = [format!("crate::{other}"), format!("millrace_worker::{other}")];
            if paths.iter().any(|path| line.contains(path)) {
                complaints.push(source.complaint(number, &format!("{role} uses {other}")));
            }
        }
    }
    complaints
}

/// A core decides; it does not wait, send, or call.
fn keeps_cores_pure(source: &Source) -> Vec<String> {
    const SHELL: [&str; 8] =
        ["tokio::", "tonic::", "actix::", "aws_sdk", "async fn", ".await", "std::thread", "now()"];
    let name = source.path.file_name().and_then(|name| name.to_str());
    let inside = source.path.iter().any(|part| part == "core");
    if name != Some("core.rs") && !inside {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (number, line) in source.production().lines().enumerate() {
        let line = code(line);
        for word in SHELL.iter().filter(|word| line.contains(**word)) {
            complaints.push(source.complaint(number, &format!("a core with `{word}`")));
        }
    }
    complaints
}

#[test]
fn every_file_opens_with_its_promise() {
    hold(opens_with_a_promise);
}

#[test]
fn files_and_functions_fit_the_house_numbers() {
    hold(fits_the_house_numbers);
}

#[test]
fn production_code_has_no_forbidden_call() {
    hold(has_no_forbidden_call);
}

#[test]
fn nothing_is_left_for_later() {
    hold(leaves_nothing_for_later);
}

#[test]
fn things_have_our_names() {
    hold(names_things_by_our_words);
}

#[test]
fn node_driver_and_executor_know_nothing_of_one_another() {
    hold(respects_the_worker_walls);
}

#[test]
fn cores_are_pure() {
    hold(keeps_cores_pure);
}

fn toml_file(path: &str) -> toml::Table {
    let text = std::fs::read_to_string(repository_root().join(path)).expect("the file is there");
    toml::from_str(&text).expect("cargo has read it before")
}

/// Names of workspace crates among the dependencies in one section of a manifest.
fn workspace_dependencies(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    let table = manifest.get(section).and_then(toml::Value::as_table);
    let names = table.into_iter().flat_map(toml::Table::keys);
    names.filter_map(|name| name.strip_prefix("millrace-").map(str::to_owned)).collect()
}

#[test]
fn crates_use_only_what_their_wall_lets_through() {
    for (name, allowed) in CRATE_WALLS {
        let manifest = toml_file(&format!("{name}/Cargo.toml"));
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for used in workspace_dependencies(&manifest, section) {
                assert!(allowed.contains(&used.as_str()), "{name} uses {used} in [{section}]");
            }
        }
    }
}

#[test]
fn the_master_and_the_emulator_do_not_link_what_is_not_theirs() {
    for (name, foreign) in [
        ("master", ["datafusion", "arrow", "aws-sdk-kinesis", "aws-sdk-s3"].as_slice()),
        ("client", &["actix", "datafusion-distributed"]),
        ("common", &["datafusion", "arrow", "axum"]),
        ("worker", &["axum"]),
    ] {
        let manifest = toml_file(&format!("{name}/Cargo.toml"));
        let used = manifest["dependencies"].as_table().unwrap();
        for crate_name in foreign {
            assert!(!used.contains_key(*crate_name), "{name} links {crate_name}");
        }
    }
}

#[test]
fn what_must_be_one_has_one_version() {
    let lock = toml_file("Cargo.lock");
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        versions.entry(name).or_default().push(package["version"].as_str().unwrap());
    }
    for name in ONE_VERSION {
        assert_eq!(versions.get(name).map(Vec::len), Some(1), "{name}: {:?}", versions.get(name));
    }
}

#[test]
fn every_error_has_a_page_and_every_page_an_error() {
    let directory = repository_root().join("docs/errors");
    let pages: BTreeSet<String> = std::fs::read_dir(&directory)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.starts_with("MR"))
        .collect();
    let codes: BTreeSet<String> =
        Code::ALL.iter().map(|code| format!("{}.md", code.as_str())).collect();
    assert_eq!(pages, codes);
    for code in Code::ALL {
        let page = directory.join(format!("{}.md", code.as_str()));
        let text = std::fs::read_to_string(page).unwrap();
        let title = format!("# {}: {}\n", code.as_str(), code.title());
        assert!(text.starts_with(&title), "{} does not open with {title:?}", code.as_str());
        for section in ["## What it means", "## Where it comes from", "## What to do"] {
            assert!(text.contains(section), "{} has no {section:?}", code.as_str());
        }
    }
}

#[test]
fn the_papers_point_only_at_what_exists() {
    let root = repository_root();
    for paper in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = std::fs::read_to_string(root.join(paper)).unwrap();
        for target in links(&text) {
            assert!(root.join(&target).exists(), "{paper} points at {target}, which is not there");
        }
    }
}

/// Targets of the Markdown links of a text that are paths, without their anchors.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let paths = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    paths.map(|path| path.split('#').next().unwrap_or(path).to_owned()).collect()
}

/// The rules themselves: each finds what it is for and lets the rest pass.
mod rules {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.to_owned() }
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        assert_eq!(code(r#"call("a.unwrap()"); // .unwrap()"#), "call(); ");
        assert_eq!(code(r#"x("\"").unwrap()"#), "x().unwrap()");
    }

    #[test]
    fn an_unwrap_is_found_in_production_only() {
        let text = "//! x\nfn f() { g().unwrap() }\n\n#[cfg(test)]\nmod tests {\n a.unwrap() }\n";
        assert_eq!(has_no_forbidden_call(&source("common/src/x.rs", text)).len(), 1);
        assert_eq!(has_no_forbidden_call(&source("common/tests/x.rs", text)).len(), 0);
    }

    #[test]
    fn long_files_and_functions_are_found() {
        let body = "    x();\n".repeat(FUNCTION_LINES);
        let long = source("a/src/a.rs", &format!("fn f() {{\n{body}}}\n"));
        assert_eq!(fits_the_house_numbers(&long).len(), 1);
        let body = "    x();\n".repeat(FUNCTION_LINES - 2);
        let fits = format!("fn f() {{\n{body}}}\n");
        assert_eq!(fits_the_house_numbers(&source("a/src/a.rs", &fits)).len(), 0);
        let file = source("a/src/a.rs", &fits.repeat(7));
        assert_eq!(fits_the_house_numbers(&file).len(), 1);
        let tested = format!("{fits}\n#[cfg(test)]\nmod tests {{\n}}\n{}", fits.repeat(7));
        assert_eq!(fits_the_house_numbers(&source("a/src/a.rs", &tested)).len(), 0);
    }

    #[test]
    fn walls_inside_the_worker_are_seen() {
        let use_driver = "use crate::driver::ledger;";
        let seen = |path| respects_the_worker_walls(&source(path, use_driver)).len();
        assert_eq!(seen("worker/src/executor/task.rs"), 1);
        assert_eq!(seen("worker/src/driver/head.rs"), 0);
        assert_eq!(seen("worker/src/main.rs"), 0);
    }

    #[test]
    fn an_impure_core_is_seen() {
        let text = "use tokio::sync::mpsc;";
        assert_eq!(keeps_cores_pure(&source("master/src/scheduler/core.rs", text)).len(), 1);
        assert_eq!(keeps_cores_pure(&source("master/src/scheduler/actor.rs", text)).len(), 0);
    }

    #[test]
    fn a_foreign_word_is_seen_where_it_is_declared() {
        assert_eq!(names_things_by_our_words(&source("a/a.rs", "struct BlockManager;")).len(), 1);
        assert_eq!(names_things_by_our_words(&source("a/a.rs", "let x = ManagerOf;")).len(), 0);
    }

    #[test]
    fn links_are_found() {
        assert_eq!(links("[a](b.md#c) [d](https://e) [f](#g)"), ["b.md"]);
    }
}
