//! What this machine offers to builds, what each lack costs, and the one command that would mend it. Facts, for `doctor`
//! to print.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use serde::Serialize;

use super::exec::ids::{Caller, Ids};
use super::exec::probe::{self, Findings};
use super::exec::userns::{self, Restriction};
use super::exec::{StartError, emulated, ids, network_fix};

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Builds run, but something costs more or cannot be had.
    Degraded,
    /// It is not there. Without some things nothing can be built: see [`can_build`].
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub check: &'static str,
    /// How it is.
    pub status: Status,
    /// What was found, and what a lack of it costs.
    pub detail: String,
    /// The command that would mend it.
    pub fix: Option<String>,
}

const USER_NAMESPACES: &str = "user-namespaces";
const IDS: &str = "subordinate-ids";
const PROC: &str = "proc";
const OVERLAY: &str = "overlay";
const PRIVATE_NETWORK: &str = "private-network";
const CGROUPS: &str = "cgroup-delegation";
const FOREIGN: &str = "foreign-architectures";

/// Whether builds can run at all.
#[must_use]
pub fn can_build(checks: &[Check]) -> bool {
    let needed = [USER_NAMESPACES, IDS];
    !checks
        .iter()
        .any(|check| needed.contains(&check.check) && check.status == Status::Missing)
}

/// Looks at everything. `scratch` is an empty directory on the store's file system, for trial mounts; `programs` are the
/// directories in which programs are looked for, `errors` is where a child's bugs would be reported.
#[must_use]
pub fn checks(scratch: &Path, programs: &[PathBuf], errors: BorrowedFd<'_>) -> Vec<Check> {
    let caller = Caller::current();
    let restriction = userns::restriction(caller.uid);
    let ids = Ids::of(&caller);
    let mut checks = vec![ids_check(&ids)];
    let usable = match ids {
        Err(error) if error.is_lack() => Some(Ids::single(&caller)),
        ids => ids.ok(),
    };
    let findings = match (&restriction, &usable) {
        (None, Some(ids)) => Some(probe::findings(ids, scratch, errors)),
        _ => None,
    };
    checks.insert(0, namespaces_check(restriction.as_ref(), findings.as_ref()));
    if let Some(Ok(findings)) = &findings {
        checks.extend([
            proc_check(findings),
            overlay_check(findings),
            network_check(findings),
        ]);
    }
    let handlers = match findings {
        Some(Ok(findings)) => findings.handlers,
        _ => Err("user namespaces cannot be had".to_owned()),
    };
    checks.extend([cgroup_check(), foreign_check(&handlers, programs)]);
    checks
}

fn check(check: &'static str, status: Status, detail: impl Into<String>) -> Check {
    Check {
        check,
        status,
        detail: detail.into(),
        fix: None,
    }
}

fn help(error: &dyn Diagnostic) -> Option<String> {
    error.help().map(|help| help.to_string())
}

fn namespaces_check(
    restriction: Option<&Restriction>,
    tried: Option<&Result<Findings, StartError>>,
) -> Check {
    match (restriction, tried) {
        (Some(restriction @ Restriction::AppArmor), _) => Check {
            fix: Some(install_profile()),
            ..check(USER_NAMESPACES, Status::Missing, restriction.to_string())
        },
        (Some(restriction), _) => Check {
            fix: help(restriction),
            ..check(USER_NAMESPACES, Status::Missing, restriction.to_string())
        },
        (None, Some(Err(error))) => Check {
            fix: help(error),
            ..check(USER_NAMESPACES, Status::Missing, error.to_string())
        },
        (None, Some(Ok(_))) => check(
            USER_NAMESPACES,
            Status::Ok,
            "can be made, and mount file systems",
        ),
        (None, None) => check(
            USER_NAMESPACES,
            Status::Ok,
            "are not restricted; not tried, for lack of ids",
        ),
    }
}

/// One command that gives the program at its present place the profile that lifts Ubuntu's restriction.
fn install_profile() -> String {
    let program = fs::read_link("/proc/self/exe").unwrap_or_else(|_| "/usr/bin/shmocker".into());
    let profile = userns::apparmor_profile(&program).replace('\n', "\\n");
    format!(
        "printf '{profile}' | sudo tee /etc/apparmor.d/shmocker && sudo apparmor_parser -r /etc/apparmor.d/shmocker"
    )
}

fn ids_check(ids: &Result<Ids, ids::IdsError>) -> Check {
    match ids {
        Err(error) if error.is_lack() => Check {
            fix: help(error),
            ..check(
                IDS,
                Status::Degraded,
                format!(
                    "{error}: builds have a single id, and whose a file is in the image is written down beside it. Images are the \
                     same; with subordinate ids the kernel itself keeps the users of a step apart, and steps that handle many files \
                     are quicker"
                ),
            )
        },
        Err(error) => Check { fix: help(error), ..check(IDS, Status::Missing, error.to_string()) },
        Ok(ids) if ids.are_enough() => check(
            IDS,
            Status::Ok,
            format!("{} can be mapped; `--ids=single` does without", ids.count()),
        ),
        Ok(ids) => Check {
            fix: Some("set more aside: sudo usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST USER".to_owned()),
            ..check(
                IDS,
                Status::Degraded,
                format!("only {} can be mapped; images with higher owners (nobody is 65534) cannot be unpacked", ids.count()),
            )
        },
    }
}

fn proc_check(findings: &Findings) -> Check {
    match &findings.proc {
        Ok(()) => check(PROC, Status::Ok, "a new one can be mounted"),
        Err(why) => Check {
            fix: Some(
                "start the container with `--security-opt systempaths=unconfined`; in Kubernetes, with `procMount: Unmasked`"
                    .to_owned(),
            ),
            ..check(
                PROC,
                Status::Degraded,
                format!(
                    "no new one can be mounted, as where a container has its own partly covered. Steps share that, read-only: programs \
                     find other numbers there than their own, and see which processes the container has: {why}"
                ),
            )
        },
    }
}

fn overlay_check(findings: &Findings) -> Check {
    match &findings.overlay {
        Ok(()) => check(OVERLAY, Status::Ok, "layers can be mounted over each other"),
        Err(why) => Check {
            fix: Some(
                "keep the store on ext4, xfs, btrfs or tmpfs, on Linux 5.11 or later".to_owned(),
            ),
            ..check(
                OVERLAY,
                Status::Degraded,
                format!("layers are copied instead, which takes time and space: {why}"),
            )
        },
    }
}

fn network_check(findings: &Findings) -> Check {
    let way = match (
        &findings.network_namespace,
        &findings.pasta,
        &findings.slirp4netns,
    ) {
        (Err(why), _, _) => Err(why.clone()),
        (Ok(()), Ok(()), _) => Ok("pasta"),
        (Ok(()), Err(_), Ok(())) => Ok("slirp4netns"),
        (Ok(()), Err(pasta), Err(slirp)) => Err(format!("{pasta}; {slirp}")),
    };
    match way {
        Ok(helper) => check(PRIVATE_NETWORK, Status::Ok, format!("{helper} works")),
        Err(why) => Check {
            fix: network_fix().map(str::to_owned),
            ..check(
                PRIVATE_NETWORK,
                Status::Degraded,
                format!("steps use the host's network: {why}"),
            )
        },
    }
}

fn cgroup_check() -> Check {
    let degraded = |detail: &str, fix: &str| Check {
        fix: Some(fix.to_owned()),
        ..check(
            CGROUPS,
            Status::Degraded,
            format!("steps cannot be given limits: {detail}"),
        )
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::")) else {
        return degraded(
            "there is no unified cgroup tree",
            "boot with systemd.unified_cgroup_hierarchy=1",
        );
    };
    let directory = Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/'));
    let controllers = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let writable = rustix::fs::access(&directory, rustix::fs::Access::WRITE_OK).is_ok();
    match (controllers.trim(), writable) {
        ("", _) => degraded(
            "the cgroup tree is not the unified one",
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
        (_, false) => degraded(
            "this login's cgroup belongs to somebody else",
            "start builds with: systemd-run --user --scope -p Delegate=yes shmocker …",
        ),
        (controllers, true) => check(CGROUPS, Status::Ok, format!("delegated: {controllers}")),
    }
}

/// What the machine has handlers for, and what builds can have handlers for by themselves.
fn foreign_check(handlers: &Result<(), String>, programs: &[PathBuf]) -> Check {
    let of_machine = fs::read_dir("/proc/sys/fs/binfmt_misc").map(|entries| {
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter_map(|name| Some(name.strip_prefix("qemu-")?.to_owned()))
            .collect::<BTreeSet<String>>()
    });
    let mut foreign = of_machine.unwrap_or_default();
    if handlers.is_ok() {
        foreign.extend(emulated(programs).into_iter().map(str::to_owned));
    }
    if !foreign.is_empty() {
        let foreign: Vec<String> = foreign.into_iter().collect();
        let detail = format!("steps can also run for {}", foreign.join(", "));
        return check(FOREIGN, Status::Ok, detail);
    }
    let (why, fix) = match handlers {
        Ok(()) => (
            "there is no emulator".to_owned(),
            "sudo apt-get install qemu-user-static",
        ),
        Err(error) => (
            format!(
                "builds cannot have handlers of their own ({error}; Linux 6.7 and later lets them)"
            ),
            "sudo apt-get install qemu-user-static binfmt-support",
        ),
    };
    Check {
        fix: Some(fix.to_owned()),
        ..check(
            FOREIGN,
            Status::Degraded,
            format!("steps run for this machine's own architecture only: {why}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_slower_does_not_forbid_builds() {
        let found = |name, status| vec![check(name, status, "")];
        assert!(can_build(&found(OVERLAY, Status::Degraded)));
        assert!(can_build(&found(CGROUPS, Status::Missing)));
        assert!(!can_build(&found(IDS, Status::Missing)));
    }

    #[test]
    fn ubuntus_restriction_comes_with_a_profile_for_this_program() {
        let found = namespaces_check(Some(&Restriction::AppArmor), None);
        let program = fs::read_link("/proc/self/exe").unwrap();
        let fix = found.fix.unwrap();
        assert!(
            fix.contains(&format!(
                "profile shmocker {} flags=(unconfined) {{\\n  userns,",
                program.display()
            )),
            "{fix}"
        );
    }
}
