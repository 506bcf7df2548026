//! What packages need, followed to its end.
//!
//! The base takes the first alternative of each dependency unless another one is in the set already, as debootstrap and
//! buildd do. There is no solver: the essential set of a release is consistent by policy. Named packages are not
//! resolved here but by the base's own apt, which is given the part of the archive that it can possibly choose from
//! ([`reachable`]) instead of all of it.

use std::collections::{BTreeSet, VecDeque};

use super::error::{Error, Result};
use super::index::{Candidate, Offer};
use super::version;

/// One alternative of a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted<'t> {
    name: &'t str,
    bound: Option<(&'t str, &'t str)>,
}

/// The dependencies of a field, each with its alternatives.
fn dependencies(field: &str) -> impl Iterator<Item = (&str, Vec<Wanted<'_>>)> {
    field
        .split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .map(|group| {
            let alternatives = group.split('|').map(|alternative| {
                let (name, rest) = alternative
                    .trim()
                    .split_once([' ', '('])
                    .unwrap_or((alternative.trim(), ""));
                let rest = rest
                    .split(')')
                    .next()
                    .unwrap_or(rest)
                    .trim_matches([' ', '(']);
                let end = rest
                    .find(|c: char| !matches!(c, '<' | '>' | '='))
                    .unwrap_or(rest.len());
                let bound = (end > 0).then(|| (&rest[..end], rest[end..].trim()));
                Wanted {
                    name: name.split(':').next().unwrap_or(name),
                    bound,
                }
            });
            (group, alternatives.collect())
        })
}

fn meets(candidate: &Candidate<'_>, wanted: &Wanted<'_>) -> bool {
    wanted
        .bound
        .is_none_or(|(relation, bound)| version::holds(candidate.version, relation, bound))
}

/// The provider of a virtual package meets a bound only if it provides a version that does.
fn provides(provider: &Candidate<'_>, wanted: &Wanted<'_>) -> bool {
    provider.provides.split(',').any(|provided| {
        let (name, rest) = provided
            .trim()
            .split_once([' ', '('])
            .unwrap_or((provided.trim(), ""));
        name == wanted.name
            && match wanted.bound {
                None => true,
                Some((relation, bound)) => rest
                    .trim_matches([' ', '(', ')'])
                    .strip_prefix('=')
                    .is_some_and(|version| version::holds(version.trim(), relation, bound)),
            }
    })
}

/// The seeds and everything they need, by name.
pub(super) fn closure<'t>(offer: &Offer<'t>, seeds: &[&'t str]) -> Result<BTreeSet<&'t str>> {
    let mut chosen: BTreeSet<&'t str> = BTreeSet::new();
    let mut pending = VecDeque::new();
    for seed in seeds {
        if chosen.insert(seed) {
            pending.push_back(*seed);
        }
    }
    while let Some(name) = pending.pop_front() {
        let Some(package) = offer.get(name) else {
            continue;
        };
        for (group, alternatives) in
            dependencies(package.pre_depends).chain(dependencies(package.depends))
        {
            let met = alternatives.iter().any(|wanted| {
                chosen.contains(wanted.name)
                    && offer
                        .get(wanted.name)
                        .is_some_and(|candidate| meets(candidate, wanted))
                    || offer.providers(wanted.name).iter().any(|provider| {
                        chosen.contains(provider)
                            && offer
                                .get(provider)
                                .is_some_and(|candidate| provides(candidate, wanted))
                    })
            });
            if met {
                continue;
            }
            let first = alternatives.iter().find_map(|wanted| {
                let real = offer
                    .get(wanted.name)
                    .filter(|candidate| meets(candidate, wanted))
                    .map(|candidate| candidate.name);
                real.or_else(|| {
                    let mut providers = offer.providers(wanted.name).iter().copied();
                    providers.find(|provider| {
                        offer
                            .get(provider)
                            .is_some_and(|candidate| provides(candidate, wanted))
                    })
                })
            });
            let Some(first) = first else {
                return Err(Error::Unmet {
                    package: name.to_owned(),
                    needs: group.to_owned(),
                });
            };
            chosen.insert(first);
            pending.push_back(first);
        }
    }
    Ok(chosen)
}

/// Everything that could come into question where these are installed: every alternative, every provider.
pub(super) fn reachable<'t>(offer: &Offer<'t>, seeds: &[&'t str]) -> BTreeSet<&'t str> {
    let mut found: BTreeSet<&'t str> = BTreeSet::new();
    let mut pending: Vec<&'t str> = seeds.to_vec();
    while let Some(name) = pending.pop() {
        let Some(package) = offer.get(name) else {
            pending.extend(
                offer
                    .providers(name)
                    .iter()
                    .filter(|provider| !found.contains(*provider)),
            );
            continue;
        };
        if !found.insert(package.name) {
            continue;
        }
        for (_, alternatives) in
            dependencies(package.pre_depends).chain(dependencies(package.depends))
        {
            for wanted in alternatives {
                let real = offer.get(wanted.name).map(|candidate| candidate.name);
                pending.extend(
                    real.into_iter()
                        .chain(offer.providers(wanted.name).iter().copied())
                        .filter(|next| !found.contains(next)),
                );
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::index::tests::texts;
    use super::*;

    const ARCHIVE: &str = "Package: base\nVersion: 1\nArchitecture: all\nFilename: f\nEssential: yes\nPre-Depends: awk\nDepends: libc (>= 2), merge | merged\n
Package: libc\nVersion: 2.1\nArchitecture: all\nFilename: f\nDepends: gcc:any (= 1) [amd64]\n
Package: gcc\nVersion: 1\nArchitecture: all\nFilename: f\n
Package: gawk\nVersion: 1\nArchitecture: all\nFilename: f\nProvides: awk\n
Package: mawk\nVersion: 1\nArchitecture: all\nFilename: f\nPriority: required\nProvides: awk\n
Package: merge\nVersion: 1\nArchitecture: all\nFilename: f\n
Package: merged\nVersion: 1\nArchitecture: all\nFilename: f\n
Package: odd\nVersion: 1\nArchitecture: all\nFilename: f\nDepends: libc (>> 3) | nothing\n";

    #[test]
    fn the_first_alternative_is_taken_unless_another_is_there() {
        let indices = texts(&[ARCHIVE]);
        let offer = Offer::read(&indices, "amd64").unwrap();
        let chosen = |seeds: &[&'static str]| {
            closure(&offer, seeds)
                .unwrap()
                .into_iter()
                .collect::<Vec<_>>()
        };
        assert_eq!(chosen(&["base"]), ["base", "gcc", "libc", "mawk", "merge"]);
        assert_eq!(
            chosen(&["base", "merged"]),
            ["base", "gcc", "libc", "mawk", "merged"]
        );
    }

    #[test]
    fn a_need_that_nothing_meets_is_named() {
        let indices = texts(&[ARCHIVE]);
        let offer = Offer::read(&indices, "amd64").unwrap();
        let error = closure(&offer, &["odd"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`odd` needs `libc (>> 3) | nothing`, which nothing in the suite meets"
        );
    }

    #[test]
    fn what_apt_may_choose_from_has_every_alternative() {
        let indices = texts(&[ARCHIVE]);
        let offer = Offer::read(&indices, "amd64").unwrap();
        let found: Vec<_> = reachable(&offer, &["base"]).into_iter().collect();
        assert_eq!(
            found,
            ["base", "gawk", "gcc", "libc", "mawk", "merge", "merged"]
        );
        assert_eq!(
            reachable(&offer, &["awk"]).into_iter().collect::<Vec<_>>(),
            ["gawk", "mawk"]
        );
    }
}
