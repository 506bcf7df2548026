//! "Did you mean …?": the nearest of the names that would have been right.

/// The name with the fewest edits from what was written, at most two, ignoring case; `None` if none is near or if one
/// is what was written.
pub fn nearest<'a>(written: &str, right: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    let mut best = None;
    let mut distance = 3;
    for name in right {
        let edits = edits_between(&written, &name.to_lowercase());
        if edits == 0 {
            return None;
        }
        if edits < distance {
            distance = edits;
            best = Some(name);
        }
    }
    best
}

fn edits_between(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_name_is_found_and_far_ones_are_not() {
        for (written, expected) in [
            ("FORM", Some("FROM")),
            ("copyy", Some("COPY")),
            ("ENRTYPOINT", Some("ENTRYPOINT")),
            ("run", None),
            ("banana", None),
        ] {
            assert_eq!(
                nearest(written, ["FROM", "COPY", "ENTRYPOINT", "RUN"]),
                expected,
                "{written}"
            );
        }
    }
}
