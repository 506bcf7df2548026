//! The system call filter of a step: Docker's default profile, as one program of classic BPF.
//!
//! ```text
//! architecture? -> native ABI: a binary search over runs of call numbers -> verdict, or a look at the arguments
//!               -> the 32-bit ABI of the same processor: the same, with its own numbers
//!               -> x32 (x86-64 only): the native search for the shared numbers, its own for the rest
//!               -> anything else: killed
//! ```
//! What the profile does not name is EPERM. What is newer than the profile is ENOSYS, so that programs fall back to what
//! they did before the call existed; so is `clone3`, whose flags a filter cannot see.

mod calls;

use Rule::{Ask, AskFor, AskIf, KeepsMarks};
use calls::{CALLS, NO};

use crate::sys::seccomp::Instruction;

/// Whether a call is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Yes.
    Allow,
    /// `socket`: for these address families.
    SocketFamilies,
    /// `personality`: for these values.
    Personalities,
    /// `clone`: without namespaces.
    NoNewNamespaces,
    /// It is answered as if the kernel did not know it.
    NoSuchCall,
    /// Somebody else answers it.
    Ask,
    /// Somebody else answers it if this argument has one of these bits.
    AskFor { argument: u32, bits: u32 },
    /// Somebody else answers it if this argument is this.
    AskIf { argument: u32, is: u32 },
    /// It does nothing if it would change the limit in which marks are kept.
    KeepsMarks { resource: u32, changes: Option<u32> },
}

/// What a run of numbers leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Refuse,
    Unknown,
    Rule(Rule),
}

/// Numbers from `first` up to the next run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u32,
    verdict: Verdict,
}

/// A processor's ABIs: the `AUDIT_ARCH_…` that the kernel reports, and the column of the table.
struct Abi {
    audit: u32,
    column: usize,
}

/// The native ABI and the 32-bit one of the same processor.
#[cfg(target_arch = "x86_64")]
const ABIS: [Abi; 2] = [
    Abi {
        audit: 0xC000_003E,
        column: 0,
    },
    Abi {
        audit: 0x4000_0003,
        column: 1,
    },
];
#[cfg(target_arch = "aarch64")]
const ABIS: [Abi; 2] = [
    Abi {
        audit: 0xC000_00B7,
        column: 2,
    },
    Abi {
        audit: 0x4000_0028,
        column: 3,
    },
];

/// All families that the kernel has, but those that reach outside of the network namespace (vsock), into the kernel's
/// cryptography (alg), or are gone.
const SOCKET_FAMILIES: [(u32, u32); 8] = [
    (0, 11),
    (13, 18),
    (21, 22),
    (24, 24),
    (26, 33),
    (35, 36),
    (39, 39),
    (41, 45),
];
/// PER_LINUX and PER_LINUX32, each with and without UNAME26, and the question for the current one.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];
/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`.
const CLONE_NAMESPACES: u32 = 0x7E02_0000;

/// x32 marks its numbers with this bit, and has its own from 512 to 547, of which these two are not allowed.
const X32_BIT: u32 = 0x4000_0000;
const X32_FIRST: u32 = 512;
const X32_LAST: u32 = 547;
const X32_KEXEC_LOAD: u32 = 528;
const X32_MOVE_PAGES: u32 = 533;

/// Where the kernel's `seccomp_data` has what is looked at.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const FIRST_ARGUMENT_LOW_AT: u32 = 16;
const FIRST_ARGUMENT_HIGH_AT: u32 = 20;

const ALLOW: u32 = 0x7FFF_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const fn plain(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        if_true: 0,
        if_false: 0,
        k,
    }
}

const fn jump(code: u16, k: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction {
        code,
        if_true,
        if_false,
        k,
    }
}

const USER_NOTIF: u32 = 0x7FC0_0000;
/// What makes `open` make a file, or open one to change it: `O_CREAT`, what is special in `O_TMPFILE`, `O_WRONLY`, `O_RDWR`,
/// `O_TRUNC`.
const CHANGES: u32 = 0o100 | 0o20_000_000 | 0o1 | 0o2 | 0o1000;
const RLIMIT_LOCKS: u32 = 10;
const PR_SET_KEEPCAPS: u32 = 8;

/// The calls that are answered by [`super::recorded`], where owners are records.
#[rustfmt::skip]
const ASKED: &[(&str, Rule)] = &[
    ("open", AskFor { argument: 1, bits: CHANGES }), ("openat", AskFor { argument: 2, bits: CHANGES }), ("openat2", Ask), ("creat", Ask),
    ("mkdir", Ask), ("mkdirat", Ask), ("mknod", Ask), ("mknodat", Ask), ("symlink", Ask), ("symlinkat", Ask),
    ("chown", Ask), ("lchown", Ask), ("fchown", Ask), ("fchownat", Ask), ("chroot", Ask),
    ("stat", Ask), ("lstat", Ask), ("fstat", Ask), ("newfstatat", Ask), ("statx", Ask),
    ("access", Ask), ("faccessat", Ask), ("faccessat2", Ask), ("truncate", Ask),
    ("chmod", Ask), ("fchmodat", Ask), ("fchmodat2", Ask), ("link", Ask), ("linkat", Ask),
    ("rename", Ask), ("renameat", Ask), ("renameat2", Ask), ("unlink", Ask), ("unlinkat", Ask), ("rmdir", Ask),
    ("utimensat", Ask), ("utimes", Ask), ("utime", Ask), ("futimesat", Ask),
    ("setxattr", Ask), ("lsetxattr", Ask), ("fsetxattr", Ask), ("setxattrat", Ask),
    ("removexattr", Ask), ("lremovexattr", Ask), ("fremovexattr", Ask), ("removexattrat", Ask),
    ("getuid", Ask), ("geteuid", Ask), ("getgid", Ask), ("getegid", Ask), ("getresuid", Ask), ("getresgid", Ask), ("getgroups", Ask),
    ("setuid", Ask), ("setgid", Ask), ("setreuid", Ask), ("setregid", Ask), ("setresuid", Ask), ("setresgid", Ask),
    ("setfsuid", Ask), ("setfsgid", Ask), ("setgroups", Ask),
    ("execve", Ask), ("execveat", Ask), ("prctl", AskIf { argument: 0, is: PR_SET_KEEPCAPS }),
    ("setrlimit", KeepsMarks { resource: 0, changes: None }), ("prlimit64", KeepsMarks { resource: 1, changes: Some(2) }),
];

/// Those among them, by the numbers of the native interface, and what that is called by the kernel.
pub(super) fn native_calls() -> (u32, impl Iterator<Item = (u32, &'static str)>) {
    let [Abi { audit, column }, _] = ABIS;
    let asked = CALLS
        .iter()
        .filter(|row| ASKED.iter().any(|(name, _)| *name == row.0));
    (
        audit,
        asked.filter_map(move |row| Some((*row.1.get(column)?, row.0))),
    )
}

/// The filter.
pub(super) fn docker_default() -> Vec<Instruction> {
    filter(&[])
}

/// The same, but what has to do with owners is left to somebody else, where it is called through the native interface.
pub(super) fn asking() -> Vec<Instruction> {
    filter(ASKED)
}

fn filter(asked: &[(&str, Rule)]) -> Vec<Instruction> {
    let [native, compat] = ABIS.map(|abi| {
        let is_native = abi.column == ABIS[0].column;
        // Nobody answers calls of the other interface. It must not change who a process is, either.
        let asked = asked.iter().copied();
        let asked: Vec<_> = asked
            .filter(|(_, rule)| is_native || matches!(rule, KeepsMarks { .. }))
            .collect();
        (abi.audit, search(&runs(abi.column, &asked)))
    });
    let native_body = if cfg!(target_arch = "x86_64") {
        with_x32(native.1)
    } else {
        native.1
    };
    let native_body = [vec![plain(LOAD, NUMBER_AT)], native_body].concat();
    let compat_body = [vec![plain(LOAD, NUMBER_AT)], compat.1].concat();
    let mut program = vec![plain(LOAD, ARCHITECTURE_AT)];
    program.extend([
        jump(JUMP_IF_EQUAL, native.0, 0, 1),
        plain(JUMP, 3),
        jump(JUMP_IF_EQUAL, compat.0, 1, 0),
        plain(RETURN, KILL_PROCESS),
        plain(JUMP, length(&native_body)),
    ]);
    program.extend(native_body);
    program.extend(compat_body);
    program
}

fn length(program: &[Instruction]) -> u32 {
    u32::try_from(program.len()).unwrap_or(u32::MAX)
}

/// x32 shares the native numbers below 512.
fn with_x32(native: Vec<Instruction>) -> Vec<Instruction> {
    let allowed = Verdict::Rule(Rule::Allow);
    let own = [
        (X32_FIRST, allowed),
        (X32_KEXEC_LOAD, Verdict::Refuse),
        (X32_KEXEC_LOAD + 1, allowed),
        (X32_MOVE_PAGES, Verdict::Refuse),
        (X32_MOVE_PAGES + 1, allowed),
        (X32_LAST + 1, Verdict::Unknown),
    ];
    let own = own.map(|(first, verdict)| Run { first, verdict });
    let mut program = vec![
        jump(JUMP_IF_ANY_BIT, X32_BIT, 0, 3),
        plain(AND, !X32_BIT),
        jump(JUMP_IF_AT_LEAST, X32_FIRST, 0, 1),
        plain(JUMP, length(&native)),
    ];
    program.extend(native);
    program.extend(search(&own));
    program
}

/// The profile for one ABI, as runs that cover every number.
fn runs(column: usize, asked: &[(&str, Rule)]) -> Vec<Run> {
    let rule_of = |name: &str, usual: Rule| {
        let asked = asked.iter().find(|(asked, _)| *asked == name);
        asked.map_or(usual, |(_, rule)| *rule)
    };
    let mut known: Vec<(u32, Rule)> = CALLS
        .iter()
        .filter_map(|(name, numbers, rule)| {
            let number = numbers.get(column)?;
            Some((*number, rule_of(name, *rule)))
        })
        .filter(|(number, _)| *number != NO)
        .collect();
    known.sort_unstable_by_key(|(number, _)| *number);
    // ARM's private calls lie far above all others; what is between is as new as what is above.
    let newest = known
        .iter()
        .map(|(number, _)| *number)
        .filter(|number| *number < X32_FIRST)
        .max()
        .unwrap_or(0);

    let mut runs = Vec::new();
    let mut next = 0;
    for (number, rule) in known {
        if number > next {
            let verdict = if next > newest {
                Verdict::Unknown
            } else {
                Verdict::Refuse
            };
            push(
                &mut runs,
                Run {
                    first: next,
                    verdict,
                },
            );
        }
        push(
            &mut runs,
            Run {
                first: number,
                verdict: Verdict::Rule(rule),
            },
        );
        next = number + 1;
    }
    push(
        &mut runs,
        Run {
            first: next,
            verdict: Verdict::Unknown,
        },
    );
    runs
}

fn push(runs: &mut Vec<Run>, run: Run) {
    if runs.last().is_none_or(|last| last.verdict != run.verdict) {
        runs.push(run);
    }
}

/// A binary search for the run that the loaded number falls into.
fn search(runs: &[Run]) -> Vec<Instruction> {
    let middle = runs.len() / 2;
    match (runs, runs.get(middle)) {
        ([only], _) => decide(only.verdict),
        (_, Some(pivot)) => {
            let (below, above) = (search(&runs[..middle]), search(&runs[middle..]));
            // A conditional jump reaches 255 instructions, an unconditional one any number.
            let mut program = match u8::try_from(below.len()) {
                Ok(skip) => vec![jump(JUMP_IF_AT_LEAST, pivot.first, skip, 0)],
                Err(_) => vec![
                    jump(JUMP_IF_AT_LEAST, pivot.first, 0, 1),
                    plain(JUMP, length(&below)),
                ],
            };
            program.extend(below);
            program.extend(above);
            program
        }
        (_, None) => decide(Verdict::Refuse),
    }
}

fn decide(verdict: Verdict) -> Vec<Instruction> {
    match verdict {
        Verdict::Refuse => vec![plain(RETURN, ERRNO | EPERM)],
        Verdict::Unknown | Verdict::Rule(Rule::NoSuchCall) => vec![plain(RETURN, ERRNO | ENOSYS)],
        Verdict::Rule(Rule::Allow) => vec![plain(RETURN, ALLOW)],
        Verdict::Rule(Rule::SocketFamilies) => first_argument_among(&SOCKET_FAMILIES),
        Verdict::Rule(Rule::Personalities) => {
            first_argument_among(&PERSONALITIES.map(|value| (value, value)))
        }
        Verdict::Rule(Rule::NoNewNamespaces) => vec![
            plain(LOAD, FIRST_ARGUMENT_LOW_AT),
            jump(JUMP_IF_ANY_BIT, CLONE_NAMESPACES, 0, 1),
            plain(RETURN, ERRNO | EPERM),
            plain(RETURN, ALLOW),
        ],
        Verdict::Rule(Rule::Ask) => vec![plain(RETURN, USER_NOTIF)],
        Verdict::Rule(Rule::AskFor { argument, bits }) => vec![
            plain(LOAD, argument_at(argument)),
            jump(JUMP_IF_ANY_BIT, bits, 0, 1),
            plain(RETURN, USER_NOTIF),
            plain(RETURN, ALLOW),
        ],
        Verdict::Rule(Rule::AskIf { argument, is }) => vec![
            plain(LOAD, argument_at(argument)),
            jump(JUMP_IF_EQUAL, is, 0, 1),
            plain(RETURN, USER_NOTIF),
            plain(RETURN, ALLOW),
        ],
        Verdict::Rule(Rule::KeepsMarks { resource, changes }) => {
            let mut program = vec![
                plain(LOAD, argument_at(resource)),
                jump(JUMP_IF_EQUAL, RLIMIT_LOCKS, 1, 0),
                plain(RETURN, ALLOW),
            ];
            if let Some(new) = changes {
                program.extend([
                    plain(LOAD, argument_at(new)),
                    jump(JUMP_IF_EQUAL, 0, 0, 3),
                    plain(LOAD, argument_at(new) + 4),
                    jump(JUMP_IF_EQUAL, 0, 0, 1),
                    plain(RETURN, ALLOW),
                ]);
            }
            // No error: it seems done.
            program.push(plain(RETURN, ERRNO));
            program
        }
    }
}

/// Where the kernel has the lower half of an argument.
const fn argument_at(index: u32) -> u32 {
    FIRST_ARGUMENT_LOW_AT + 8 * index
}

/// Allows the call if its first argument, all 64 bits of it, is within one of the ascending ranges.
fn first_argument_among(ranges: &[(u32, u32)]) -> Vec<Instruction> {
    let mut runs = Vec::new();
    let mut next = Some(0);
    for (first, last) in ranges {
        if next.is_some_and(|next| next < *first) {
            push(
                &mut runs,
                Run {
                    first: next.unwrap_or(0),
                    verdict: Verdict::Refuse,
                },
            );
        }
        push(
            &mut runs,
            Run {
                first: *first,
                verdict: Verdict::Rule(Rule::Allow),
            },
        );
        next = last.checked_add(1);
    }
    if let Some(first) = next {
        push(
            &mut runs,
            Run {
                first,
                verdict: Verdict::Refuse,
            },
        );
    }
    let mut program = vec![
        plain(LOAD, FIRST_ARGUMENT_HIGH_AT),
        jump(JUMP_IF_EQUAL, 0, 1, 0),
        plain(RETURN, ERRNO | EPERM),
        plain(LOAD, FIRST_ARGUMENT_LOW_AT),
    ];
    program.extend(search(&runs));
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp::INSTRUCTIONS_MAX;

    /// What the kernel would answer.
    fn answer(program: &[Instruction], audit: u32, number: u32, argument: u64) -> u32 {
        let (mut at, mut loaded) = (0_usize, 0_u32);
        loop {
            let Instruction {
                code,
                if_true,
                if_false,
                k,
            } = program[at];
            let branch = |holds| usize::from(if holds { if_true } else { if_false });
            at += 1;
            match code {
                LOAD => {
                    loaded = match k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => audit,
                        FIRST_ARGUMENT_LOW_AT => argument as u32,
                        FIRST_ARGUMENT_HIGH_AT => (argument >> 32) as u32,
                        // All further arguments are zero.
                        24..64 => 0,
                        other => panic!("load of {other}"),
                    }
                }
                AND => loaded &= k,
                JUMP => at += k as usize,
                JUMP_IF_EQUAL => at += branch(loaded == k),
                JUMP_IF_AT_LEAST => at += branch(loaded >= k),
                JUMP_IF_ANY_BIT => at += branch(loaded & k != 0),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn what_has_to_do_with_owners_is_asked_and_nothing_else_is_different() {
        let (usual, asking) = (docker_default(), asking());
        assert!(asking.len() < INSTRUCTIONS_MAX, "{}", asking.len());
        let [native, compat] = ABIS.map(|abi| abi.audit);
        let asked: std::collections::HashMap<_, _> = native_calls().1.collect();
        for number in 0..=470 {
            let answers = [&usual, &asking].map(|filter| answer(filter, native, number, 0));
            assert!(
                answers[0] == answers[1]
                    || (answers[1] == USER_NOTIF && asked.contains_key(&number)),
                "{number}"
            );
            let answers = [&usual, &asking].map(|filter| answer(filter, compat, number, 0));
            assert_eq!(answers[0], answers[1], "{number}");
        }
        for Abi { audit, column } in ABIS {
            let number = |name: &str| CALLS.iter().find(|row| row.0 == name).unwrap().1[column];
            let set = |resource| answer(&asking, audit, number("setrlimit"), resource);
            assert_eq!(set(RLIMIT_LOCKS.into()), ERRNO, "{audit:#x}");
            assert_eq!(set(7), ALLOW, "{audit:#x}");
        }
        // The argument of the question is the first; those of these calls are others.
        let depends = ["open", "openat", "setrlimit", "prlimit64", "prctl"];
        for (number, name) in asked
            .into_iter()
            .filter(|(_, name)| !depends.contains(name))
        {
            assert_eq!(answer(&asking, native, number, 0), USER_NOTIF, "{name}");
        }
    }

    const REFUSED: u32 = ERRNO | EPERM;
    const UNKNOWN: u32 = ERRNO | ENOSYS;

    #[test]
    fn every_call_of_the_table_is_judged_by_its_rule_and_every_other_is_refused() {
        let program = docker_default();
        assert!(program.len() < INSTRUCTIONS_MAX, "{}", program.len());
        for Abi { audit, column } in ABIS {
            for number in 0..=470 {
                let rule = CALLS
                    .iter()
                    .find(|row| row.1[column] == number)
                    .map(|row| row.2);
                let expected = match rule {
                    Some(Rule::NoSuchCall) => UNKNOWN,
                    Some(_) => ALLOW,
                    None if number > 466 => UNKNOWN,
                    None => REFUSED,
                };
                assert_eq!(
                    answer(&program, audit, number, 0),
                    expected,
                    "{audit:#x} {number}"
                );
            }
            assert_eq!(answer(&program, audit, u32::MAX, 0), UNKNOWN);
        }
        assert_eq!(answer(&program, 0xC000_0015, 1, 0), KILL_PROCESS);
    }

    #[test]
    fn arguments_are_looked_at_in_full() {
        let program = docker_default();
        let number = |name: &str| CALLS.iter().find(|row| row.0 == name).unwrap().1[ABIS[0].column];
        let native = |name: &str, argument| answer(&program, ABIS[0].audit, number(name), argument);
        for family in [1, 2, 10, 16, 17] {
            assert_eq!(native("socket", family), ALLOW, "{family}");
        }
        for family in [12, 38, 40, 46, 1 << 32 | 1] {
            assert_eq!(native("socket", family), REFUSED, "{family}");
        }
        for persona in PERSONALITIES {
            assert_eq!(native("personality", persona.into()), ALLOW);
        }
        for persona in [1, 0x4_0000, 1 << 32, u64::MAX] {
            assert_eq!(native("personality", persona), REFUSED);
        }
        assert_eq!(native("clone", 0x0120_0011), ALLOW);
        assert_eq!(native("clone", 0x1000_0011), REFUSED);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn x32_has_the_native_verdicts_and_its_own_numbers() {
        let program = docker_default();
        let x32 = |number| answer(&program, ABIS[0].audit, X32_BIT | number, 0);
        assert_eq!(x32(1), ALLOW);
        assert_eq!(x32(165), REFUSED); // mount
        assert_eq!(x32(520), ALLOW); // execve
        assert_eq!(x32(X32_KEXEC_LOAD), REFUSED);
        assert_eq!(x32(600), UNKNOWN);
    }
}
