//! The cut of a bucket's keys into pages with common prefixes, as pure decisions.

use std::collections::BTreeMap;
use std::ops::Bound;

/// What of a bucket is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Query<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) delimiter: Option<&'a str>,
    /// Only keys and prefixes above this text.
    pub(crate) after: Option<&'a str>,
    pub(crate) max: usize,
}

/// One page, and where the next one starts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page<'a, T> {
    pub(crate) entries: Vec<(&'a str, &'a T)>,
    pub(crate) common_prefixes: Vec<&'a str>,
    /// The last key or prefix shown, if something is left.
    pub(crate) next_after: Option<String>,
}

/// The next page of `keys`.
pub(crate) fn list<'a, T>(keys: &'a BTreeMap<String, T>, query: &Query<'_>) -> Page<'a, T> {
    let mut page = Page { entries: Vec::new(), common_prefixes: Vec::new(), next_after: None };
    let mut from = first_bound(query);
    let mut last: Option<&str> = None;
    loop {
        let mut range = keys.range::<str, _>((from.as_ref().map(String::as_str), Bound::Unbounded));
        let Some((key, value)) = range.next().filter(|(k, _)| k.starts_with(query.prefix)) else {
            return page;
        };
        if page.entries.len() + page.common_prefixes.len() >= query.max {
            page.next_after = last.map(str::to_owned);
            return page;
        }
        if let Some(prefix) = common_prefix(key, query) {
            page.common_prefixes.push(prefix);
            last = Some(prefix);
            from = past_prefix(prefix);
        } else {
            page.entries.push((key, value));
            last = Some(key);
            from = Bound::Excluded(key.clone());
        }
    }
}

fn first_bound(query: &Query<'_>) -> Bound<String> {
    match query.after {
        Some(after) if after >= query.prefix => {
            // A common prefix that was shown is not shown again for the keys below it.
            let shown = after.strip_prefix(query.prefix).is_some_and(|rest| {
                query.delimiter.is_some_and(|d| !d.is_empty() && rest.ends_with(d))
            });
            if shown { past_prefix(after) } else { Bound::Excluded(after.to_owned()) }
        }
        _ => Bound::Included(query.prefix.to_owned()),
    }
}

fn common_prefix<'a>(key: &'a str, query: &Query<'_>) -> Option<&'a str> {
    let delimiter = query.delimiter.filter(|d| !d.is_empty())?;
    let at = key[query.prefix.len()..].find(delimiter)?;
    Some(&key[..query.prefix.len() + at + delimiter.len()])
}

/// A bound above every key that starts with `prefix`.
fn past_prefix(prefix: &str) -> Bound<String> {
    Bound::Excluded(format!("{prefix}{}", char::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn all_pages(
        keys: &BTreeMap<String, ()>,
        prefix: &str,
        delimiter: Option<&str>,
        max: usize,
    ) -> (Vec<String>, Vec<String>) {
        let (mut entries, mut prefixes) = (Vec::new(), Vec::new());
        let mut after: Option<String> = None;
        loop {
            let page = list(keys, &Query { prefix, delimiter, after: after.as_deref(), max });
            assert!(page.entries.len() + page.common_prefixes.len() <= max);
            entries.extend(page.entries.iter().map(|(k, ())| (*k).to_owned()));
            prefixes.extend(page.common_prefixes.iter().map(|p| (*p).to_owned()));
            after = page.next_after;
            if after.is_none() {
                return (entries, prefixes);
            }
        }
    }

    proptest! {
        #[test]
        fn pages_show_each_key_or_its_prefix_once(
            keys in prop::collection::btree_set("[ab/]{1,6}", 0..40),
            prefix in "[ab/]{0,2}",
            delimited in any::<bool>(),
            max in 1usize..7,
        ) {
            let keys: BTreeMap<String, ()> = keys.into_iter().map(|k| (k, ())).collect();
            let delimiter = delimited.then_some("/");
            let (entries, prefixes) = all_pages(&keys, &prefix, delimiter, max);
            let (mut expected, mut expected_prefixes) = (Vec::new(), BTreeSet::new());
            for key in keys.keys().filter(|k| k.starts_with(&prefix)) {
                match key[prefix.len()..].find('/').filter(|_| delimited) {
                    Some(at) => { expected_prefixes.insert(key[..=prefix.len() + at].to_owned()); }
                    None => expected.push(key.clone()),
                }
            }
            prop_assert_eq!(entries, expected);
            prop_assert_eq!(prefixes, expected_prefixes.into_iter().collect::<Vec<_>>());
        }
    }
}
