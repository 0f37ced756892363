//! `docs/configuration.md`, written from the declarations and checked against them.
//!
//! The file's words around the tables are written by hand; what stands between a binary's two
//! markers is generated. With `MILLRACE_BLESS=1` the check writes instead of failing.

use std::fmt::Write as _;
use std::path::Path;

use super::Settings;

/// The generated section of a binary, without its markers.
#[must_use]
pub fn section<S: Settings>() -> String {
    let mut text = String::new();
    for key in S::KEYS {
        let default = if key.default.is_empty() {
            "not set".to_owned()
        } else {
            format!("`{}`", key.default)
        };
        let written = writeln!(
            text,
            "### `{name}`\n\n{docs}\n\n- form: {form}\n- default: {default}\n- environment: `{variable}`\n- flag: `--{flag}`\n",
            name = key.name,
            docs = key.text(),
            form = key.form,
            variable = S::variable(key),
            flag = key.flag(),
        );
        written.expect("writing to a String does not fail");
    }
    text
}

/// Holds the section of a binary in the document at `path` against its declaration.
///
/// # Errors
/// What is wrong with the document and how to mend it.
pub fn check_document<S: Settings>(path: &Path, bless: bool) -> Result<(), String> {
    let begin = format!("<!-- generated: {} -->\n", S::BINARY);
    let end = format!("<!-- end: {} -->\n", S::BINARY);
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} can not be read: {error}", path.display()))?;
    let (before, rest) = text
        .split_once(&begin)
        .ok_or_else(|| format!("{} has no line {begin:?}", path.display()))?;
    let (found, after) =
        rest.split_once(&end).ok_or_else(|| format!("{} has no line {end:?}", path.display()))?;
    let wanted = format!("\n{}", section::<S>());
    if found == wanted {
        return Ok(());
    }
    if bless {
        return std::fs::write(path, format!("{before}{begin}{wanted}{end}{after}"))
            .map_err(|error| format!("{} can not be written: {error}", path.display()));
    }
    Err(format!(
        "the section {} of {} is stale: run its test again with MILLRACE_BLESS=1",
        S::BINARY,
        path.display()
    ))
}
