//! A binary's flags, made from its keys, and what the command line said.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches};

use super::{Settings, Shape, Sources};

/// The flag, and with the binary's prefix the variable, that names the configuration file.
pub const CONFIG_FLAG: &str = "config";
/// The flag that prints the effective configuration and ends.
pub const DUMP_FLAG: &str = "print-config";

/// One flag per key, `--config` and `--print-config`. Defaults stay with the layers, so that a flag
/// counts only when it was given.
pub fn to_args<S: Settings>() -> impl Iterator<Item = Arg> {
    let keys = S::KEYS.iter().map(|key| {
        let unset = if key.default.is_empty() {
            String::new()
        } else {
            format!(" [default: {}]", key.default)
        };
        Arg::new(key.name)
            .long(key.flag())
            .value_name(key.form)
            .action(match key.shape {
                Shape::List => ArgAction::Append,
                Shape::One | Shape::Table => ArgAction::Set,
            })
            .allow_hyphen_values(true)
            .help(format!("{}{unset} [env: {}]", key.text(), S::variable(key)))
    });
    let config = Arg::new(CONFIG_FLAG)
        .long(CONFIG_FLAG)
        .value_name("path")
        .help(format!("Configuration file (TOML) [env: {}CONFIG]", S::environment_prefix()));
    let dump = Arg::new(DUMP_FLAG)
        .long(DUMP_FLAG)
        .action(ArgAction::SetTrue)
        .help("Print each effective value with its origin, and end");
    keys.chain([config, dump])
}

/// The sources of this process: its command line, its environment, and the file either names.
#[must_use]
pub fn from_matches<S: Settings>(
    matches: &ArgMatches,
    environment: BTreeMap<String, String>,
) -> Sources {
    let flags = S::KEYS
        .iter()
        .filter_map(|key| {
            let values: Vec<&str> =
                matches.get_many::<String>(key.name)?.map(String::as_str).collect();
            Some((key.name.to_owned(), values.join(",")))
        })
        .collect();
    let variable = format!("{}CONFIG", S::environment_prefix());
    let file = matches
        .get_one::<String>(CONFIG_FLAG)
        .or_else(|| environment.get(&variable).filter(|path| !path.is_empty()))
        .map(PathBuf::from);
    Sources { file, environment, flags }
}
