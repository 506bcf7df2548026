//! Any text is read without a panic, printed as it was, and laid out without a change of what it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shmocker_fuzz::dockerfile::{format, parse};

fuzz_target!(|text: &str| {
    let parsed = parse(text);
    assert_eq!(parsed.dockerfile.to_string(), text);
    for instruction in &parsed.dockerfile.instructions {
        let written = text.get(instruction.span.start..instruction.span.end);
        assert!(written.is_some(), "{:?}", instruction.span);
    }
    for span in parsed.problems.iter().filter_map(|problem| problem.span) {
        assert!(span.start <= span.end && span.end <= text.len(), "{span:?}");
    }
    let Ok(laid_out) = format(text) else { return };
    let again = parse(&laid_out).dockerfile;
    assert_eq!(again.says(), parsed.dockerfile.says());
    assert_eq!(again.directives.escape, parsed.dockerfile.directives.escape);
    let word = |word: &Option<shmocker_fuzz::dockerfile::Word>| {
        word.as_ref().map(|word| word.text.clone())
    };
    assert_eq!(
        word(&again.directives.syntax),
        word(&parsed.dockerfile.directives.syntax)
    );
    assert_eq!(
        word(&again.directives.check),
        word(&parsed.dockerfile.directives.check)
    );
    assert_eq!(format(&laid_out).as_deref(), Ok(laid_out.as_str()));
});
