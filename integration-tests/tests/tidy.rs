//! Holds what no compiler holds: the walls between crates and modules, the house numbers, the
//! words, one version of what must be one, and a page for every error.
//!
//! Each rule is a pure function from texts to complaints, so that each is shown to find what it
//! looks for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use millrace_common::Code;
use millrace_integration_tests::dataset::repository_root;

/// Longest production part of a file, in lines. The length of functions is clippy's business.
const FILE_LINES: usize = 500;
/// Which crates of the workspace each crate may use, in production and in tests.
const CRATE_WALLS: [(&str, &[&str]); 8] = [
    ("proto", &[]),
    ("common", &["proto"]),
    ("sql", &["proto", "common"]),
    ("master", &["proto", "common"]),
    ("worker", &["proto", "common", "sql"]),
    ("client", &["proto", "common", "sql"]),
    ("emulator", &[]),
    ("integration-tests", &["proto", "common", "sql", "master", "worker"]),
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
    /// True when the file is compiled for tests only.
    is_test: bool,
}

impl Source {
    /// The text up to the tests at its end; nothing of a file of tests.
    fn production(&self) -> &str {
        let inner = self.test_modules().find(|(_, rest)| rest.starts_with('{')).map(|(at, _)| at);
        if self.is_test { "" } else { &self.text[..inner.unwrap_or(self.text.len())] }
    }

    /// Where modules for tests are declared, and the text after the name of each.
    fn test_modules(&self) -> impl Iterator<Item = (usize, &str)> {
        const MARK: &str = "#[cfg(test)]\n";
        self.text.match_indices(MARK).filter_map(|(at, _)| {
            let (before, after) = self.text[at + MARK.len()..].split_once("mod ")?;
            let declares = before.trim().is_empty() || before.trim().starts_with("pub");
            let (_, rest) = after.split_at(after.find([' ', ';'])?);
            (declares && !before.contains('\n')).then_some((at, rest.trim_start()))
        })
    }

    /// Stems of the files that hold this file's modules for tests.
    fn test_files(&self) -> Vec<PathBuf> {
        let directory = match self.path.file_name().and_then(|name| name.to_str()) {
            Some("mod.rs" | "lib.rs" | "main.rs") => self.path.with_file_name(""),
            _ => self.path.with_extension(""),
        };
        let names = self.test_modules().filter(|(_, rest)| rest.starts_with(';'));
        let names = names.filter_map(|(at, _)| {
            self.text[at..].split("mod ").nth(1)?.split(';').next().map(str::to_owned)
        });
        names.map(|name| directory.join(name)).collect()
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
    assert!(found.len() > 100, "only {} files: the walk is broken", found.len());
    mark_tests(&mut found);
    found
}

/// A file is for tests when it lies in a `tests` directory or in the harness, or when only a module
/// for tests includes it.
fn mark_tests(sources: &mut [Source]) {
    let stems: Vec<PathBuf> = sources.iter().flat_map(Source::test_files).collect();
    for source in sources {
        let whole = |part: &std::ffi::OsStr| part == "tests" || part == "integration-tests";
        let stem = source.path.with_extension("");
        let name = stem.to_string_lossy().into_owned();
        source.is_test = source.path.iter().any(whole)
            // Included by `#[path]`, which keeps tests beside what they test.
            || name.ends_with("/tests")
            || name.ends_with("_tests")
            || stems.iter().any(|test| stem.starts_with(test) || source.path.starts_with(test));
    }
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
            let path = path.strip_prefix(root).expect("the walk began at the root").to_owned();
            found.push(Source { path, text, is_test: false });
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

/// True when the word stands in the line and is not the beginning of a longer one.
fn mentions(line: &str, word: &str) -> bool {
    let is_open = word.ends_with(|c: char| c.is_alphanumeric());
    line.match_indices(word).any(|(at, _)| {
        let next = line[at + word.len()..].chars().next();
        !(is_open && next.is_some_and(|c| c.is_alphanumeric() || c == '_'))
    })
}

fn opens_with_a_promise(source: &Source) -> Vec<String> {
    let opens = source.text.starts_with("//! ");
    if opens { Vec::new() } else { vec![source.complaint(0, "does not open with `//! `")] }
}

fn is_short(source: &Source) -> Vec<String> {
    let production = source.production();
    let mut complaints = Vec::new();
    let lines = production.lines().count();
    if lines > FILE_LINES {
        complaints.push(source.complaint(lines, &format!("{lines} lines of {FILE_LINES}")));
    }
    complaints
}

fn has_no_forbidden_call(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in source.production().lines().enumerate() {
        let line = code(line);
        for (call, why) in [
            (".unwrap()", "say why it holds with `expect`, or return an error"),
            (".do_send(", "ignores the mailbox's capacity"),
            ("unbounded_channel", "every queue is bounded"),
            ("mpsc::unbounded", "every queue is bounded"),
            ("Arbiter::", "library code runs without a System"),
            ("System::current(", "library code runs without a System"),
        ] {
            // The entry of a process is where its System is made.
            let is_entry = source.path.ends_with("process.rs") && call.starts_with("System::");
            if line.contains(call) && !is_entry {
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
    const SHELL: [&str; 8] = [
        "tokio::",
        "tonic::",
        "actix::",
        "aws_sdk_",
        "async fn ",
        ".await",
        "std::thread",
        "now()",
    ];
    let name = source.path.file_name().and_then(|name| name.to_str());
    let inside = source.path.iter().any(|part| part == "core");
    if name != Some("core.rs") && !inside {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (number, line) in source.production().lines().enumerate() {
        let line = code(line);
        for word in SHELL.iter().filter(|word| mentions(&line, word)) {
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
fn files_are_short() {
    hold(is_short);
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
        let mut one = [Source { path: path.into(), text: text.to_owned(), is_test: false }];
        mark_tests(&mut one);
        let [source] = one;
        source
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
    fn long_files_are_found_and_their_tests_are_not_counted() {
        let long = "fn f() {}\n".repeat(FILE_LINES + 1);
        assert_eq!(is_short(&source("a/src/a.rs", &long)).len(), 1);
        let tested = format!("fn g() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(is_short(&source("a/src/a.rs", &tested)).len(), 0);
    }

    #[test]
    fn files_that_only_tests_include_are_test_code() {
        let parent = "mod a;\n#[cfg(test)]\npub(crate) mod fake;\n#[cfg(test)]\nmod b_tests;\n";
        let mut all = vec![
            source("x/src/mod.rs", parent),
            source("x/src/a.rs", ""),
            source("x/src/fake.rs", ""),
            source("x/src/fake/deep.rs", ""),
            source("x/src/b_tests.rs", ""),
        ];
        mark_tests(&mut all);
        let tests: Vec<bool> = all.iter().map(|source| source.is_test).collect();
        assert_eq!(tests, [false, false, true, true, true]);
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
        let name = source("master/src/scheduler/core.rs", "self.awaited.len()");
        assert_eq!(keeps_cores_pure(&name).len(), 0);
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
