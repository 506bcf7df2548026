//! Takes out of a text what differs from run to run: digests, durations, process ids.

/// The text with `[DIGEST]`, `[KEY]` and `[TIME]` for what is never the same.
pub(crate) fn mask(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        masked.push_str(&durations(&hexes(line)));
    }
    masked
}

/// `sha256:<64 hex>` and bare runs of 64 or 12 hex digits.
fn hexes(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let length = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        let is_hex = word
            .chars()
            .all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        match word.len() {
            64 if is_hex => out.push_str("[DIGEST]"),
            12 if is_hex && word.contains(|c: char| c.is_ascii_digit()) => out.push_str("[KEY]"),
            _ => out.push_str(word),
        }
        rest = after;
    }
    out.push_str(rest);
    out.replace("sha256:[DIGEST]", "[DIGEST]")
}

/// Numbers followed by `ms` or `s`.
fn durations(line: &str) -> String {
    let mut out = String::new();
    let mut number = String::new();
    let mut chars = line.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        let in_word = before.is_alphanumeric() || before == '_';
        if (c.is_ascii_digit() && (!number.is_empty() || !in_word))
            || (c == '.' && !number.is_empty())
        {
            number.push(c);
            continue;
        }
        if !number.is_empty() {
            let unit = match (c, chars.peek()) {
                ('m', Some('s')) => Some("ms"),
                ('s', next) if next.is_none_or(|next| !next.is_alphanumeric()) => Some("s"),
                _ => None,
            };
            if unit.is_some() {
                out.push_str("[TIME]");
                number.clear();
                if unit == Some("ms") {
                    chars.next();
                }
                before = 's';
                continue;
            }
            out.push_str(&std::mem::take(&mut number));
        }
        out.push(c);
        before = c;
    }
    out.push_str(&number);
    out
}

#[test]
fn what_differs_from_run_to_run_is_masked() {
    let digest = "ab".repeat(32);
    assert_eq!(
        mask(&format!(
            "made sha256:{digest} in 12ms (1.5 s, 0.3s), phase 12ab34cd56ef, stage2 3 steps\n"
        )),
        "made [DIGEST] in [TIME] (1.5 s, [TIME]), phase [KEY], stage2 3 steps\n"
    );
}
