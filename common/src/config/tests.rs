//! Layers, origins, refusals and the document, on a small declaration.

#![expect(unreachable_pub, reason = "the macro declares what binaries export")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::error::Code;
use crate::labels::Labels;
use crate::resources::ByteSize;

/// Numbers by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pools(BTreeMap<String, u32>);

impl Value for Pools {
    const FORM: &'static str = "tables";
    const SHAPE: Shape = Shape::Table;

    fn parse(text: &str) -> Result<Self, String> {
        #[derive(serde::Deserialize)]
        struct Pool {
            size: u32,
        }
        let text = if text.is_empty() { "{}" } else { text };
        let table: BTreeMap<String, BTreeMap<String, Pool>> =
            toml::from_str(&format!("pools = {text}")).map_err(|error| error.to_string())?;
        let pools = table.into_values().flatten();
        Ok(Self(pools.map(|(name, pool)| (name, pool.size)).collect()))
    }
}

settings! {
    /// What the example reads.
    pub struct Example for "millrace-example" {
        /// Address to listen on.
        listen: String = "127.0.0.1:1";
        /// How often to beat,
        /// in any unit.
        heartbeat_interval: Duration = "1s";
        /// Memory to offer; detected when not set.
        memory: Option<ByteSize> = "";
        /// Cores to offer.
        cores: Option<u32> = "";
        /// Labels.
        label: Labels = "";
        /// Tables.
        pools: Pools = "";
    }
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("example.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn each_layer_wins_over_the_ones_below() {
    let (_dir, path) = file("listen = \"f:1\"\nheartbeat_interval = \"2s\"\ncores = 3\n");
    let sources = Sources {
        file: Some(path.clone()),
        environment: map(&[
            ("MILLRACE_EXAMPLE_LISTEN", "e:1"),
            ("MILLRACE_EXAMPLE_HEARTBEAT_INTERVAL", "3s"),
            ("MILLRACE_EXAMPLE", "another program's"),
            ("PATH", "/bin"),
        ]),
        flags: map(&[("listen", "flag:1")]),
    };
    let loaded = load::<Example>(&sources).unwrap();
    assert_eq!(
        loaded.settings,
        Example {
            listen: "flag:1".to_owned(),
            heartbeat_interval: Duration::from_secs(3),
            memory: None,
            cores: Some(3),
            label: Labels::default(),
            pools: Pools::default(),
        }
    );
    let dump = loaded.effective.to_string();
    assert!(dump.contains("= \"flag:1\"  # flag --listen\n"), "{dump}");
    assert!(dump.contains("# memory             is not set\n"), "{dump}");
    assert!(dump.contains(&format!("cores              = \"3\"  # file {}", path.display())));
    let conflicts = loaded.effective.conflicts();
    assert_eq!(conflicts.len(), 3, "{conflicts:?}");
    assert!(conflicts[0].starts_with(
        "heartbeat_interval = \"3s\" (environment variable MILLRACE_EXAMPLE_HEARTBEAT_INTERVAL) wins over \"2s\" (file "
    ));
}

#[test]
fn the_default_is_used_when_nobody_speaks() {
    let loaded = load::<Example>(&Sources::default()).unwrap();
    assert_eq!(loaded.settings.listen, "127.0.0.1:1");
    assert!(loaded.effective.iter().all(|(_, entry)| entry.origin == Origin::Default));
    assert!(loaded.effective.conflicts().is_empty());
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_name() {
    let (_dir, path) = file("heart_beat_interval = \"2s\"\n");
    let error = load::<Example>(&Sources { file: Some(path), ..Sources::default() }).unwrap_err();
    assert_eq!(error.code(), Code::ConfigurationKey);
    assert_eq!(error.next_move(), "did you mean heartbeat_interval?");

    let environment = map(&[("MILLRACE_EXAMPLE_LISTENS", "x")]);
    let error = load::<Example>(&Sources { environment, ..Sources::default() }).unwrap_err();
    assert_eq!(error.code(), Code::ConfigurationKey);
    assert!(error.message().contains("MILLRACE_EXAMPLE_LISTENS"), "{error}");

    let environment = map(&[("MILLRACE_EXAMPLE_ZZZZZZ", "x")]);
    let error = load::<Example>(&Sources { environment, ..Sources::default() }).unwrap_err();
    assert!(error.next_move().starts_with("the keys are listen, "), "{error}");
}

#[test]
fn values_that_do_not_fit_name_their_origin() {
    for (key, value) in
        [("heartbeat_interval", "10"), ("memory", "3 gigs"), ("cores", "-1"), ("cores", "2.5")]
    {
        let error = load::<Example>(&Sources { flags: map(&[(key, value)]), ..Sources::default() })
            .unwrap_err();
        assert_eq!(error.code(), Code::ConfigurationValue, "{key} = {value}");
        assert!(
            error.message().contains(&format!("(flag --{})", key.replace('_', "-"))),
            "{error}"
        );
    }
    let (_dir, path) = file("[listen]\nx = 1\n");
    let error = load::<Example>(&Sources { file: Some(path), ..Sources::default() }).unwrap_err();
    assert_eq!(error.code(), Code::ConfigurationValue);
}

#[test]
fn files_that_are_missing_or_not_toml_are_named() {
    let missing = PathBuf::from("/nonexistent/millrace.toml");
    let error =
        load::<Example>(&Sources { file: Some(missing), ..Sources::default() }).unwrap_err();
    assert_eq!(error.code(), Code::FileUnreadable);
    let (_dir, path) = file("listen = \n");
    let error = load::<Example>(&Sources { file: Some(path), ..Sources::default() }).unwrap_err();
    assert_eq!(error.code(), Code::ConfigurationValue);
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn flags_come_from_the_keys() {
    let command = clap::Command::new("example").args(to_args::<Example>());
    let matches =
        command.get_matches_from(["example", "--heartbeat-interval", "5s", "--cores", "2"]);
    let sources = from_matches::<Example>(&matches, map(&[("MILLRACE_EXAMPLE_CONFIG", "/x.toml")]));
    assert_eq!(sources.flags, map(&[("heartbeat_interval", "5s"), ("cores", "2")]));
    assert_eq!(sources.file, Some(PathBuf::from("/x.toml")));
}

#[test]
fn lists_and_tables_are_text_to_their_type() {
    let (_dir, path) =
        file("label = [\"zone=a\", \"gpu\"]\n[pools.x]\nsize = 3\n[pools.y]\nsize = 4\n");
    let sources = Sources { file: Some(path), ..Sources::default() };
    let loaded = load::<Example>(&sources).unwrap();
    assert_eq!(loaded.settings.label, Labels::parse("gpu,zone=a").unwrap());
    assert_eq!(loaded.settings.pools, Pools(BTreeMap::from([("x".into(), 3), ("y".into(), 4)])));
    // What the dump shows can be read back.
    let (_dir, again) = file(&loaded.effective.to_string());
    let sources = Sources { file: Some(again), ..Sources::default() };
    assert_eq!(load::<Example>(&sources).unwrap().settings, loaded.settings);

    let command = clap::Command::new("example").args(to_args::<Example>());
    let matches = command.get_matches_from(["example", "--label", "zone=b", "--label", "ssd"]);
    let loaded = load::<Example>(&from_matches::<Example>(&matches, BTreeMap::new())).unwrap();
    assert_eq!(loaded.settings.label.to_string(), "ssd,zone=b");
}

#[test]
fn a_stale_document_is_noticed_and_can_be_blessed() {
    let (_dir, path) = file(
        "# Keys\n<!-- generated: millrace-example -->\nold\n<!-- end: millrace-example -->\ntail\n",
    );
    let error = check_document::<Example>(&path, false).unwrap_err();
    assert!(error.contains("is stale"), "{error}");
    check_document::<Example>(&path, true).unwrap();
    check_document::<Example>(&path, false).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("# Keys\n") && text.ends_with("tail\n"));
    assert!(text.contains("How often to beat, in any unit."));
    assert!(text.contains("`MILLRACE_EXAMPLE_HEARTBEAT_INTERVAL`"));
}
