//! Any word is expanded, or refused, without a panic. The first byte says how; the rest is the word.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use shmocker_fuzz::dockerfile::expand::{Keep, NoVariables, expand};

fuzz_target!(|bytes: &[u8]| {
    let Some((how, word)) = bytes.split_first() else {
        return;
    };
    let Ok(word) = std::str::from_utf8(word) else {
        return;
    };
    let keep = [
        Keep::Nothing,
        Keep::QuotesAsText,
        Keep::Quotes,
        Keep::QuotesAndEscapes,
        Keep::Unset,
    ];
    let keep = keep[usize::from(how >> 1) % keep.len()];
    let escape = if how & 1 == 0 { '\\' } else { '`' };
    let variables: BTreeMap<String, String> = [("A", "a/b.c"), ("B", ""), ("C", "$A ${B}")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let first = expand(word, escape, &variables, keep);
    assert_eq!(first, expand(word, escape, &variables, keep));
    if let Ok(first) = first {
        assert!(first.used.is_disjoint(&first.unset));
    }
    drop(expand(word, escape, &NoVariables, keep));
});
