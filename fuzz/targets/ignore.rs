//! Any ignore file is read, or refused line by line, without a panic, and a walk comes to the verdicts that single
//! questions come to. The first line is the path that is asked about.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shmocker_fuzz::dockerfile::ignore::{IgnoreFile, Matched};

fuzz_target!(|text: &str| {
    let (path, rules) = text.split_once('\n').unwrap_or(("a/b/c", text));
    let Ok(ignore) = IgnoreFile::parse(rules) else {
        return;
    };
    // Every directory of it is asked about, and each question looks at all above it.
    let sound = (1..=200).contains(&path.len())
        && path
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
    if !sound {
        return;
    }
    let mut above = Matched::default();
    let mut end = 0;
    for part in path.split('/') {
        end += part.len();
        let below = &path[..end];
        let (verdict, matched) = ignore.decide_below(&above, below);
        assert_eq!(verdict, ignore.decide(below), "{below}");
        above = matched;
        end += 1;
    }
});
