//! Lengths of time as Go writes them: `1h30m`, `2m`, `1.5s`, `250ms`.

/// What was given is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a length of time; one is `2m`, `90s`, `1h30m` or `500ms`")]
pub struct NotADuration(pub String);

const UNITS: [(&str, f64); 7] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Reads a length of time, in nanoseconds.
pub fn parse_ns(text: &str) -> Result<u64, NotADuration> {
    let wrong = || NotADuration(text.to_owned());
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let (_, unit) = UNITS
            .iter()
            .find(|(name, _)| *name == &rest[..end])
            .ok_or_else(wrong)?;
        rest = &rest[end..];
        let length = number * unit;
        if length >= i64::MAX as f64 {
            return Err(wrong());
        }
        total = total
            .checked_add(length as u64)
            .filter(|total| i64::try_from(*total).is_ok())
            .ok_or_else(wrong)?;
    }
    Ok(total)
}

/// Writes a length of time as Go's `%v` does: `1h30m0s`, `1.5s`, `250ms`.
#[must_use]
pub fn print_ns(length_ns: u64) -> String {
    let fraction = |value: u64, unit: u64, digits: usize| {
        let text = format!("{}.{:0digits$}", value / unit, value % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match length_ns {
        0 => "0s".to_owned(),
        1..1_000 => format!("{length_ns}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(length_ns, 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(length_ns, 1_000_000, 6)),
        _ => {
            let minutes = length_ns / 60_000_000_000;
            let seconds = fraction(length_ns % 60_000_000_000, 1_000_000_000, 9);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_and_written() {
        for (text, length_ns, printed) in [
            ("2m", 120_000_000_000, "2m0s"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("250ms", 250_000_000, "250ms"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
        ] {
            assert_eq!(parse_ns(text), Ok(length_ns), "{text}");
            assert_eq!(print_ns(length_ns), printed, "{text}");
        }
        for text in ["", "2", "m", "2x", "-1s", "1..2s", "99999999h"] {
            assert!(parse_ns(text).is_err(), "{text}");
        }
    }
}
