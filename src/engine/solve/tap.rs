//! Judges the output of a test by the Test Anything Protocol (version 14): plan, `not ok`, `Bail out!`.

/// What a test has said so far.
#[derive(Debug, Default)]
pub(super) struct Tap {
    plan: Option<u64>,
    seen: u64,
    failed: Vec<String>,
    bailed_out: Option<String>,
}

impl Tap {
    /// Takes in one line of standard output.
    pub(super) fn line(&mut self, line: &str) {
        if let Some(reason) = line.strip_prefix("Bail out!") {
            self.bailed_out
                .get_or_insert_with(|| reason.trim().to_owned());
        } else if let Some(plan) = line.strip_prefix("1..") {
            let digits: String = plan.chars().take_while(char::is_ascii_digit).collect();
            self.plan = digits.parse().ok();
        } else if is_result(line, "not ok") {
            self.seen += 1;
            let directive = line
                .rsplit_once('#')
                .map(|(_, directive)| directive.trim().to_ascii_lowercase());
            // What is known not to work yet does not count.
            if !directive.is_some_and(|directive| {
                directive.starts_with("todo") || directive.starts_with("skip")
            }) {
                self.failed.push(line.to_owned());
            }
        } else if is_result(line, "ok") {
            self.seen += 1;
        }
    }

    /// Whether it passed, as far as its output says; if not, why.
    pub(super) fn verdict(&self) -> Result<(), String> {
        if let Some(reason) = &self.bailed_out {
            return Err(if reason.is_empty() {
                "it bailed out".to_owned()
            } else {
                format!("it bailed out: {reason}")
            });
        }
        if let Some(first) = self.failed.first() {
            return Err(match self.failed.len() {
                1 => first.clone(),
                count => format!("{first}, and {} more", count - 1),
            });
        }
        match self.plan {
            Some(plan) if plan != self.seen => {
                Err(format!("it planned {plan} checks and made {}", self.seen))
            }
            None if self.seen > 0 => Err("it printed no plan, such as `1..3`".to_owned()),
            _ => Ok(()),
        }
    }
}

/// `ok` or `not ok`, and then the end of the line or a blank.
fn is_result(line: &str, word: &str) -> bool {
    line.strip_prefix(word)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

#[cfg(test)]
mod tests {
    use super::Tap;

    fn judge(output: &str) -> Result<(), String> {
        let mut tap = Tap::default();
        output.lines().for_each(|line| tap.line(line));
        tap.verdict()
    }

    #[test]
    fn plan_failures_and_bailing_out_decide() {
        assert_eq!(judge("1..2\nok 1 - a\nok 2 - b"), Ok(()));
        assert_eq!(judge("ok 1\nok 2\n1..2"), Ok(()));
        assert_eq!(
            judge("1..2\nok 1 - a\nnot ok 2 - b"),
            Err("not ok 2 - b".to_owned())
        );
        assert_eq!(judge("1..2\nok 1 - a\nnot ok 2 - b # TODO later"), Ok(()));
        assert_eq!(
            judge("1..3\nok 1\nok 2"),
            Err("it planned 3 checks and made 2".to_owned())
        );
        assert_eq!(
            judge("1..2\nok 1\nBail out! no disk"),
            Err("it bailed out: no disk".to_owned())
        );
        assert_eq!(
            judge("ok 1\nokay then"),
            Err("it printed no plan, such as `1..3`".to_owned())
        );
        assert_eq!(judge("no TAP at all"), Ok(()));
    }
}
