//! `WWW-Authenticate` (RFC 9110, 11.6.1): what a registry wants to see.

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A user's name and password.
    Basic,
    /// A token, which is made elsewhere.
    Bearer {
        /// Where.
        realm: String,
        /// For whom.
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads the headers of an answer; of several that are offered a token comes first.
    pub(super) fn of(headers: &[String]) -> Option<Self> {
        let mut found = None;
        for (scheme, parameters) in headers.iter().flat_map(|header| schemes(header)) {
            let value = |name: &str| {
                let mut all = parameters.iter();
                all.find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = value("realm") {
                    let service = value("service");
                    return Some(Self::Bearer { realm, service });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                found = Some(Self::Basic);
            }
        }
        found
    }
}

/// Schemes with their parameters, the names of those in lower case.
fn schemes(header: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            return found;
        }
        let (word, after) = rest.split_at(end);
        match (after.strip_prefix('='), found.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, after) = value_of(value);
                parameters.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            (Some(value), None) => rest = value,
            (None, _) => {
                found.push((word.to_owned(), Vec::new()));
                rest = after;
            }
        }
    }
}

/// A value, quoted or not, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_however_they_are_written() {
        let check = |header: &str, expected: Option<Challenge>| {
            assert_eq!(Challenge::of(&[header.to_owned()]), expected, "{header}");
        };
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
            })
        };
        check(
            r#"Bearer realm="https://a/token",service="a, \"b\"",scope="repository:x:pull""#,
            bearer("https://a/token", Some("a, \"b\"")),
        );
        check(
            "bearer realm=https://a/token",
            bearer("https://a/token", None),
        );
        check(
            r#"Basic realm="x", Bearer realm="https://a/t""#,
            bearer("https://a/t", None),
        );
        check(r#"BASIC realm="x""#, Some(Challenge::Basic));
        check("Bearer", None);
        for odd in ["", "=", ",,,", "Digest x=\"", "\"", "Bearer realm"] {
            check(odd, None);
        }
    }
}
