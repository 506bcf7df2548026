//! In what two lists of [`Fields`] differ, where names are paths and `list[3]` is an item of a list.
//!
//! Items are matched before they are compared, so that one more at the front is one more, and not a change of all. What
//! an item is told apart by is the value of its bare name (`scripts[2]` = `install`); an item whose bare name has no
//! values below it is that value.

use std::collections::{BTreeSet, HashMap};

use super::Fields;

/// One value that is not the same in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name: that in the new list, unless it is gone.
    pub name: String,
    /// What it was; `None`: it was not there.
    pub old: Option<String>,
    /// What it is; `None`: it is not there any more.
    pub new: Option<String>,
    /// What kind of change it is.
    pub kind: ChangeKind,
}

/// The kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// A value is another one, or is there on one side only.
    Value,
    /// A whole item is there on one side only: `old` or `new` is what it is told apart by.
    Item,
    /// The same items stand in another order, which is what `old` and `new` are.
    Order,
}

/// An item of a list: what it is told apart by, and its values by what stands after `list[n]`.
#[derive(Debug, Default)]
struct Item {
    identity: String,
    values: Fields,
}

/// Everything in which `new` differs from `old`, in the order of `new`, and last what is gone. Of a list that is named in
/// `unordered` the order does not count.
#[must_use]
pub fn changes(old: &Fields, new: &Fields, unordered: &[&str]) -> Vec<Change> {
    let mut changes = Vec::new();
    compare("", old, new, unordered, &mut changes);
    changes
}

/// `name` as the list it is in and the place in it: `repos[1].commit` is 1 of `repos`, and then `.commit`.
fn in_list(name: &str) -> Option<(&str, usize, &str)> {
    let open = name.find('[')?;
    let close = open + name[open..].find(']')?;
    let index = name[open + 1..close].parse().ok()?;
    Some((&name[..open], index, &name[close + 1..]))
}

fn compare(
    prefix: &str,
    old: &Fields,
    new: &Fields,
    unordered: &[&str],
    changes: &mut Vec<Change>,
) {
    let (old_plain, old_lists) = split(old);
    let (new_plain, new_lists) = split(new);
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for (name, value) in new.iter() {
        match in_list(name) {
            Some((list, _, _)) => {
                if done.insert(list) {
                    let none = Vec::new();
                    let was = old_lists.get(list).unwrap_or(&none);
                    lists(prefix, list, was, &new_lists[list], unordered, changes);
                }
            }
            None => {
                let was = old_plain.get(name).copied();
                if was != Some(value) {
                    changes.push(Change {
                        name: format!("{prefix}{name}"),
                        old: was.map(str::to_owned),
                        new: Some(value.to_owned()),
                        kind: ChangeKind::Value,
                    });
                }
            }
        }
    }
    for (name, value) in old.iter() {
        match in_list(name) {
            Some((list, _, _)) if done.insert(list) => {
                lists(prefix, list, &old_lists[list], &[], unordered, changes);
            }
            None if !new_plain.contains_key(name) => changes.push(Change {
                name: format!("{prefix}{name}"),
                old: Some(value.to_owned()),
                new: None,
                kind: ChangeKind::Value,
            }),
            _ => {}
        }
    }
}

type Lists<'f> = HashMap<&'f str, Vec<(usize, Item)>>;

fn split(fields: &Fields) -> (HashMap<&str, &str>, Lists<'_>) {
    let mut plain = HashMap::new();
    let mut lists: Lists<'_> = HashMap::new();
    for (name, value) in fields.iter() {
        let Some((list, index, rest)) = in_list(name) else {
            plain.insert(name, value);
            continue;
        };
        let items = lists.entry(list).or_default();
        let at = match items.iter().rposition(|(known, _)| *known == index) {
            Some(at) => at,
            None => {
                items.push((index, Item::default()));
                items.len() - 1
            }
        };
        let item = &mut items[at].1;
        if rest.is_empty() {
            item.identity = value.to_owned();
        } else {
            item.values.put(rest, value);
        }
    }
    (plain, lists)
}

impl Item {
    fn is_bare(&self) -> bool {
        self.values.iter().next().is_none()
    }

    fn shares_a_value_with(&self, other: &Self) -> bool {
        self.values
            .iter()
            .any(|value| other.values.iter().any(|known| known == value))
    }
}

fn lists(
    prefix: &str,
    list: &str,
    old: &[(usize, Item)],
    new: &[(usize, Item)],
    unordered: &[&str],
    changes: &mut Vec<Change>,
) {
    let pairs = matched(old, new);
    let name = |index: usize| format!("{prefix}{list}[{index}]");
    for (at, (index, item)) in new.iter().enumerate() {
        match pairs[at] {
            Some(was) => {
                let (_, was) = &old[was];
                if item.is_bare() && was.identity != item.identity {
                    changes.push(Change {
                        name: name(*index),
                        old: Some(was.identity.clone()),
                        new: Some(item.identity.clone()),
                        kind: ChangeKind::Value,
                    });
                }
                let name = name(*index);
                compare(&name, &was.values, &item.values, unordered, changes);
            }
            None => changes.push(Change {
                name: name(*index),
                old: None,
                new: Some(item.identity.clone()),
                kind: ChangeKind::Item,
            }),
        }
    }
    for (at, (index, item)) in old.iter().enumerate() {
        if !pairs.contains(&Some(at)) {
            changes.push(Change {
                name: name(*index),
                old: Some(item.identity.clone()),
                new: None,
                kind: ChangeKind::Item,
            });
        }
    }
    let places: Vec<usize> = pairs.iter().flatten().copied().collect();
    let full = format!("{prefix}{list}");
    if !places.is_sorted() && !unordered.contains(&full.as_str()) {
        let mut before = places.clone();
        before.sort_unstable();
        let shown = |items: Vec<String>| Some(items.join(", "));
        changes.push(Change {
            name: full,
            old: shown(before.iter().map(|at| described(&old[*at], list)).collect()),
            new: shown(
                new.iter()
                    .zip(&pairs)
                    .filter(|(_, pair)| pair.is_some())
                    .map(|(item, _)| described(item, list))
                    .collect(),
            ),
            kind: ChangeKind::Order,
        });
    }
}

fn described((index, item): &(usize, Item), list: &str) -> String {
    if item.identity.is_empty() {
        format!("{list}[{index}]")
    } else {
        item.identity.clone()
    }
}

/// For each new item the place of the old one that it was: the very same first, then one that is told apart by the same,
/// then one that stands in for it.
fn matched(old: &[(usize, Item)], new: &[(usize, Item)]) -> Vec<Option<usize>> {
    let mut pairs: Vec<Option<usize>> = vec![None; new.len()];
    let mut free: Vec<bool> = vec![true; old.len()];
    let mut pass = |fits: &dyn Fn(&Item, &Item) -> bool| {
        for (at, (_, item)) in new.iter().enumerate() {
            if pairs[at].is_some() {
                continue;
            }
            let found = (0..old.len()).find(|was| free[*was] && fits(&old[*was].1, item));
            if let Some(was) = found {
                free[was] = false;
                pairs[at] = Some(was);
            }
        }
    };
    pass(&|was, is| was.identity == is.identity && was.values == is.values);
    pass(&|was, is| !is.is_bare() && was.identity == is.identity && !is.identity.is_empty());
    pass(&|was, is| !is.is_bare() && was.shares_a_value_with(is));
    // What is a value and no map has changed where it stands, if nothing before it came or went.
    if new.len() == old.len() {
        pass(&|was, is| is.is_bare() && was.is_bare());
        // A single item that has nothing in common with what it was is still that item.
        pass(&|was, is| new.len() == 1 && !is.is_bare() && !was.is_bare());
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        let mut fields = Fields::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (name, value) = line.trim().split_once(" = ").expect("NAME = VALUE");
            fields.put(name, value);
        }
        fields
    }

    fn told(old: &str, new: &str) -> Vec<String> {
        changes(&fields(old), &fields(new), &["packages"])
            .into_iter()
            .map(|change| {
                let side = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
                format!(
                    "{}: {} -> {}",
                    change.name,
                    side(change.old),
                    side(change.new)
                )
            })
            .collect()
    }

    #[test]
    fn plain_values_are_compared_by_name_in_any_order() {
        assert_eq!(told("a = 1\nb = 2", "b = 2\na = 1"), [""; 0]);
        assert_eq!(
            told("a = 1\nb = 2", "b = 3\nc = 4"),
            ["b: 2 -> 3", "c: - -> 4", "a: 1 -> -"]
        );
    }

    #[test]
    fn an_item_that_is_put_in_front_changes_no_other() {
        let old = "s[0] = one\ns[0].name = one\ns[0].commands[0] = echo 1";
        let new = "s[0] = new\ns[0].name = new\ns[0].commands[0] = echo 0\n\
                   s[1] = one\ns[1].name = one\ns[1].commands[0] = echo 1";
        assert_eq!(told(old, new), ["s[0]: - -> new"]);
        assert_eq!(told(new, old), ["s[0]: new -> -"]);
    }

    #[test]
    fn a_change_within_an_item_is_told_by_its_path() {
        let old = "s[0] = a\ns[0].name = a\ns[0].commands[0] = x\ns[0].commands[1] = y";
        let new = "s[0] = a\ns[0].name = a\ns[0].commands[0] = x\ns[0].commands[1] = z";
        assert_eq!(told(old, new), ["s[0].commands[1]: y -> z"]);
        // What it is told apart by may be what changes.
        let old = "f[0] = /a\nf[0].src = x\nf[0].dest = /a";
        let new = "f[0] = /b\nf[0].src = x\nf[0].dest = /b";
        assert_eq!(told(old, new), ["f[0].dest: /a -> /b"]);
    }

    #[test]
    fn order_counts_but_where_it_has_no_meaning() {
        let one = "s[0] = a\ns[0].name = a\ns[1] = b\ns[1].name = b";
        let other = "s[0] = b\ns[0].name = b\ns[1] = a\ns[1].name = a";
        assert_eq!(told(one, other), ["s: a, b -> b, a"]);
        assert_eq!(
            told(
                "packages[0] = a\npackages[1] = b",
                "packages[0] = b\npackages[1] = a\npackages[2] = c"
            ),
            ["packages[2]: - -> c"]
        );
    }
}
