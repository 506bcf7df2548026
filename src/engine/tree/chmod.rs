//! `--chmod`: a mode, or how one is changed. Clauses are read as `chmod(1)` reads them, without a umask.

use crate::graph::FileMode;

/// A change of a mode, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    /// These bits.
    Set(u32),
    /// These changes, one after another.
    Clauses(Vec<Clause>),
}

/// One change, such as `go-w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clause {
    /// Whose bits change: any of 0700, 0070 and 0007.
    who: u32,
    operator: Operator,
    right: Right,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    /// `rwx` as 7, `X`, `s` and `t`.
    Bits {
        bits: u32,
        execute_if_any: bool,
        set_id: bool,
        sticky: bool,
    },
    /// Those of 0700, 0070 or 0007.
    CopyOf(u32),
}

/// What was given as a mode is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mode: neither octal such as `0755` nor clauses such as `u=rwX,go=rX`")]
pub struct NotAMode(pub String);

impl TryFrom<&FileMode> for ModeChange {
    type Error = NotAMode;

    fn try_from(mode: &FileMode) -> Result<Self, NotAMode> {
        match mode {
            FileMode::Octal(bits) if *bits <= 0o7777 => Ok(Self::Set(*bits)),
            FileMode::Octal(bits) => Err(NotAMode(format!("{bits:o}"))),
            FileMode::Symbolic(text) => Self::parse_symbolic(text),
        }
    }
}

impl ModeChange {
    /// Reads clauses.
    pub fn parse_symbolic(text: &str) -> Result<Self, NotAMode> {
        let wrong = || NotAMode(text.to_owned());
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let operators = part.find(['+', '-', '=']).ok_or_else(wrong)?;
            let mut who = 0;
            for letter in part[..operators].chars() {
                who |= match letter {
                    'u' => 0o700,
                    'g' => 0o070,
                    'o' => 0o007,
                    'a' => 0o777,
                    _ => return Err(wrong()),
                };
            }
            if who == 0 {
                who = 0o777;
            }
            // One list of people may be followed by several changes: `u+r-x`.
            let mut rest = &part[operators..];
            while let Some(sign) = rest.chars().next() {
                let operator = match sign {
                    '+' => Operator::Add,
                    '-' => Operator::Remove,
                    _ => Operator::Set,
                };
                let end = rest[1..]
                    .find(['+', '-', '='])
                    .map_or(rest.len(), |at| at + 1);
                let right = Right::parse(&rest[1..end]).ok_or_else(wrong)?;
                clauses.push(Clause {
                    who,
                    operator,
                    right,
                });
                rest = &rest[end..];
            }
        }
        Ok(Self::Clauses(clauses))
    }

    /// The mode of something that has `mode` now.
    #[must_use]
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Set(bits) => *bits,
            Self::Clauses(clauses) => clauses.iter().fold(mode, |changed, clause| {
                clause.apply(changed, is_dir || mode & 0o111 != 0)
            }),
        }
    }
}

impl Right {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "u" => return Some(Self::CopyOf(0o700)),
            "g" => return Some(Self::CopyOf(0o070)),
            "o" => return Some(Self::CopyOf(0o007)),
            _ => {}
        }
        let (mut bits, mut execute_if_any, mut set_id, mut sticky) = (0, false, false, false);
        for letter in text.chars() {
            match letter {
                'r' => bits |= 4,
                'w' => bits |= 2,
                'x' => bits |= 1,
                'X' => execute_if_any = true,
                's' => set_id = true,
                't' => sticky = true,
                _ => return None,
            }
        }
        Some(Self::Bits {
            bits,
            execute_if_any,
            set_id,
            sticky,
        })
    }
}

impl Clause {
    /// `X` asks what was before all clauses.
    fn apply(&self, mode: u32, executable: bool) -> u32 {
        let (bits, special) = match self.right {
            Right::CopyOf(whose) => ((mode & whose) / (whose / 7), 0),
            Right::Bits {
                bits,
                execute_if_any,
                set_id,
                sticky,
            } => {
                let executable = execute_if_any && executable;
                let mut special = 0;
                if set_id {
                    special |= if self.who & 0o700 != 0 { 0o4000 } else { 0 };
                    special |= if self.who & 0o070 != 0 { 0o2000 } else { 0 };
                }
                // The sticky bit belongs to nobody in particular.
                special |= if sticky && self.who & 0o001 != 0 {
                    0o1000
                } else {
                    0
                };
                (bits | u32::from(executable), special)
            }
        };
        let given = ((bits * 0o111) & self.who) | special;
        match self.operator {
            Operator::Add => mode | given,
            Operator::Remove => mode & !given,
            Operator::Set => {
                let mut cleared = self.who;
                // As BuildKit has it: what is said of somebody replaces the set-id bit too, of a directory as of a file;
                // the sticky bit stays.
                if matches!(self.right, Right::Bits { .. }) {
                    cleared |= if self.who & 0o700 != 0 { 0o4000 } else { 0 };
                    cleared |= if self.who & 0o070 != 0 { 0o2000 } else { 0 };
                }
                (mode & !cleared) | given
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_mean_what_chmod_says() {
        let apply = |text: &str, mode, is_dir| {
            ModeChange::parse_symbolic(text)
                .unwrap()
                .apply(mode, is_dir)
        };
        for (text, before, is_dir, after) in [
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("g=u", 0o750, false, 0o770),
            ("go-w", 0o666, false, 0o644),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("+t", 0o777, true, 0o1777),
            ("u=rw,o=", 0o4755, false, 0o650),
            ("u+rw-x", 0o100, false, 0o600),
            ("=r", 0o7777, false, 0o1444),
            ("g=rX", 0o2750, true, 0o750),
            ("g=u", 0o2750, true, 0o2770),
            ("a-x,u+X", 0o755, false, 0o744),
            ("o=g", 0o670, false, 0o677),
        ] {
            assert_eq!(apply(text, before, is_dir), after, "{text} on {before:o}");
        }
        for wrong in ["", "u", "u=q", "z+r", "u+r,,g+r", "755"] {
            assert!(ModeChange::parse_symbolic(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            ModeChange::try_from(&FileMode::Octal(0o4755)),
            Ok(ModeChange::Set(0o4755))
        );
        assert!(ModeChange::try_from(&FileMode::Octal(0o10000)).is_err());
    }
}
