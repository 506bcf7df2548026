//! Whether this machine lets the user make user namespaces, and if not, what is in the way.

use std::fs;
use std::path::Path;

/// The AppArmor profile that Ubuntu 23.10 and later want of a program that makes user namespaces. It allows what an
/// unconfined program may do, and user namespaces.
#[must_use]
pub fn apparmor_profile(program: &Path) -> String {
    format!(
        "abi <abi/4.0>,\ninclude <tunables/global>\n\nprofile shmocker {} flags=(unconfined) {{\n  userns,\n\n  \
         include if exists <local/shmocker>\n}}\n",
        program.display()
    )
}

/// What a container has to be started with so that it can have containers itself.
pub(super) const IN_A_CONTAINER: &str = "in a container, start that with `--security-opt seccomp=unconfined`, and with \
     `--security-opt apparmor=unconfined` where there is AppArmor; in Kubernetes, with a seccompProfile and an appArmorProfile of type \
     `Unconfined`";

/// Something keeps the user from making user namespaces, without which nothing can be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum Restriction {
    /// The limit is zero.
    #[error("this machine allows no user namespaces (user.max_user_namespaces is 0)")]
    #[diagnostic(
        code(userns::limit_is_zero),
        help(
            "allow them: echo user.max_user_namespaces=15000 | sudo tee /etc/sysctl.d/99-userns.conf && sudo sysctl --system"
        )
    )]
    LimitIsZero,
    /// The limit is reached, or the nesting is too deep.
    #[error(
        "this machine allows no more user namespaces: all of user.max_user_namespaces are in use, or they are nested too deeply"
    )]
    #[diagnostic(
        code(userns::used_up),
        help("raise the limit: sudo sysctl user.max_user_namespaces=15000")
    )]
    UsedUp,
    /// Debian's switch is off.
    #[error(
        "this machine keeps user namespaces from plain users (kernel.unprivileged_userns_clone is 0)"
    )]
    #[diagnostic(
        code(userns::switched_off),
        help(
            "allow them: echo kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d/99-userns.conf && sudo sysctl --system"
        )
    )]
    SwitchedOff,
    /// Ubuntu's AppArmor restriction is on, and no profile lifts it for this program.
    #[error(
        "AppArmor keeps user namespaces from programs without a profile (kernel.apparmor_restrict_unprivileged_userns is 1)"
    )]
    #[diagnostic(
        code(userns::apparmor),
        help(
            "give shmocker a profile: `shmocker doctor` prints the command that installs one for the path that it is at"
        )
    )]
    AppArmor,
    /// The kernel refuses without any of the known switches: the filter of a container, another security module.
    #[error(
        "this machine refuses user namespaces; a container's system call filter or a security module forbids them"
    )]
    #[diagnostic(code(userns::refused), help("{IN_A_CONTAINER}"))]
    Refused,
}

/// What the switches of this machine say, before anything is tried. A user namespace of root's is not restricted.
#[must_use]
pub fn restriction(uid: u32) -> Option<Restriction> {
    let value = |path: &str| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .ok()
    };
    if value("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return Some(Restriction::LimitIsZero);
    }
    if uid == 0 {
        return None;
    }
    if value("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return Some(Restriction::SwitchedOff);
    }
    let restricted =
        value("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1");
    // `unconfined` without a name is what a program without a profile has; one of ours reads `shmocker (unconfined)`.
    let label =
        value("/proc/self/attr/apparmor/current").or_else(|| value("/proc/self/attr/current"));
    (restricted && label.is_none_or(|label| label == "unconfined")).then_some(Restriction::AppArmor)
}

/// What the kernel meant when it refused to make a user namespace.
#[must_use]
pub fn refusal(errno: Option<i32>, uid: u32) -> Option<Restriction> {
    const EPERM: i32 = 1;
    const ENOSPC: i32 = 28;
    const EUSERS: i32 = 87;
    match errno {
        Some(ENOSPC | EUSERS) => Some(restriction(uid).unwrap_or(Restriction::UsedUp)),
        Some(EPERM) => Some(restriction(uid).unwrap_or(Restriction::Refused)),
        _ => None,
    }
}
