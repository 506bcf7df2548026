//! Whether what a step gave is as a case has it.

use std::os::unix::fs::FileTypeExt as _;

use base64::Engine as _;
use serde_json::Value;

use super::step::{Made, World, archive, is_there};
use crate::harness::layout::Layout;
use crate::harness::listing;

/// What BuildKit says, and what says the same here.
const SAID_OTHERWISE: &[(&str, &str)] = &[
    ("invalid chmod parameter", "is no mode"),
    (
        "unknown instruction: FNTRYPOINT",
        "unknown instruction `FNTRYPOINT`",
    ),
    ("did you mean ENTRYPOINT?", "did you mean `ENTRYPOINT`?"),
    ("contains no stages to build", "there is no FROM"),
    (
        "repository does not contain ref",
        "has no branch, tag or commit",
    ),
    ("ref conflicts", "names two references"),
    (".git/HEAD\": not found", ".git/HEAD` is not in"),
    ("submod/file\": not found", "submod/file` is not in"),
    (
        "'from' doesn't support variable expansion",
        "`from` of a mount takes no variables",
    ),
    (
        "invalid SOURCE_DATE_EPOCH: not-a-timestamp",
        "SOURCE_DATE_EPOCH is `not-a-timestamp`",
    ),
    // Said of a file that the ignore file leaves out, with the line that does so.
    (
        "\"/Dockerfile\": not found",
        "`Dockerfile` is in the build context, but line",
    ),
    (
        "empty platform value from expression",
        "`` is not a platform",
    ),
    (
        "failed to parse platform linux/",
        "`linux/` is not a platform",
    ),
];

/// `None` if it cannot be asked here.
pub(super) fn judge(world: &World, number: usize, check: &Value) -> Option<Result<(), String>> {
    let made = world.made.get(&number)?;
    let kind = check["check"].as_str().unwrap_or_default();
    let path = check["path"].as_str().unwrap_or_default();
    let path = path.trim_start_matches('/');
    let want = &check["want"];
    let is_built = made.run.as_ref().is_some_and(|run| run.status == 0);
    let is_right = match kind {
        "ok" => is_built || (made.run.is_none() && made.answer.is_some()),
        "fail" => is_refused(made),
        "error_contains" => {
            is_refused(made)
                && says(made, |text| {
                    text.contains(want.as_str().unwrap_or_default())
                })
                || is_refused(made) && is_said_otherwise(made, want.as_str().unwrap_or_default())
        }
        // What is after the name of the tree that BuildKit gives.
        "error_regex" => {
            let want = want.as_str().unwrap_or_default();
            is_refused(made) && is_said_otherwise(made, want)
        }
        "lint_warning" | "lint_subrequest_warning" => has_warning(made, want),
        "no_warnings" if made.warns_apart => made
            .run
            .as_ref()
            .is_some_and(|run| !run.stderr.contains("LegacyKeyValueFormat")),
        "no_warnings" => made
            .answer
            .as_ref()
            .is_some_and(|answer| answer["warnings"].as_array().is_none_or(Vec::is_empty)),
        "lint_error_line" => {
            let answered = made.answer.as_ref().is_some_and(|answer| {
                answer["buildError"]["location"]["ranges"][0]["start"]["line"] == *want
            });
            answered || says(made, |text| text.contains(&format!("Dockerfile:{want}:")))
        }
        // The rest says something about files, of which there are none.
        _ if made.run.is_some() && !is_built => return Some(Ok(())),
        "file_equal" => read(world, number, path).as_deref() == want.as_str(),
        "file_equal_trimmed" => {
            read(world, number, path).as_deref().map(str::trim) == want.as_str()
        }
        "contains" | "not_contains" => {
            let text = read(world, number, path)?;
            text.contains(want.as_str().unwrap_or_default()) == (kind == "contains")
        }
        "exists" if path == "out.tar" => made.archive(&world.bench, "oci").exists(),
        "exists" => is_there(&made.tree(&world.bench).join(path)),
        "absent" => !is_there(&made.tree(&world.bench).join(path)),
        "file_same_as_build" | "file_differs_from_build" => {
            let build = usize::try_from(want["build"].as_u64()?).ok()?;
            let other = read(world, build, want["path"].as_str()?.trim_start_matches('/'));
            (read(world, number, path) == other) == (kind == "file_same_as_build")
        }
        "file_is_archive" => {
            let found = std::fs::read(made.tree(&world.bench).join(path)).unwrap_or_default();
            found == archive(want)
        }
        _ => return said_in_words(world, made, check),
    };
    Some(if is_right {
        Ok(())
    } else {
        Err(complaint(world, number, check))
    })
}

fn is_refused(made: &Made) -> bool {
    match &made.run {
        Some(run) => run.status != 0 && run.status != 70,
        None => made.answer.is_none(),
    }
}

fn says(made: &Made, is_it: impl Fn(&str) -> bool) -> bool {
    made.run.as_ref().is_some_and(|run| is_it(&run.stderr)) || is_it(&made.answered)
}

fn is_said_otherwise(made: &Made, want: &str) -> bool {
    SAID_OTHERWISE
        .iter()
        .any(|(theirs, ours)| want.contains(theirs) && says(made, |text| text.contains(ours)))
}

fn has_warning(made: &Made, want: &Value) -> bool {
    let Some(answer) = &made.answer else {
        return false;
    };
    // A rule is described here in words of its own.
    let fields = [
        ("RuleName", "ruleName"),
        ("Detail", "detail"),
        ("URL", "url"),
    ];
    answer["warnings"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|warning| {
            let says_the_same = fields.iter().all(|(theirs, ours)| {
                let said = want[theirs].as_str().unwrap_or_default();
                said == warning[ours].as_str().unwrap_or_default()
            });
            let line = &warning["location"]["ranges"][0]["start"]["line"];
            says_the_same && (want["Line"].is_null() || want["Line"] == *line)
        })
}

/// A file's content, or a link's target.
fn read(world: &World, number: usize, path: &str) -> Option<String> {
    let file = world.made.get(&number)?.tree(&world.bench).join(path);
    if let Ok(target) = std::fs::read_link(&file) {
        return Some(target.to_string_lossy().into_owned());
    }
    let bytes = std::fs::read(file).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The checks that say in words what they look at.
fn said_in_words(world: &World, made: &Made, check: &Value) -> Option<Result<(), String>> {
    let words = check["expect"].as_str()?;
    let (subject, is_count) = match words.strip_prefix("number of ") {
        Some(subject) => (subject, true),
        None => (words, false),
    };
    let found = found(world, made, subject, check["want"].as_str())?;
    let found = match (&found, is_count) {
        (Value::Array(items), true) => Value::from(items.len()),
        (Value::Object(items), true) => Value::from(items.len()),
        (Value::String(text), true) => Value::from(text.len()),
        _ => found,
    };
    let want = &check["want"];
    let is_right = match check["check"].as_str()? {
        "equal" => found == *want || text_of(&found) == text_of(want),
        "notequal" => found != *want,
        "greater" => found.as_u64() > want.as_u64(),
        "len" => {
            found.as_array().map(Vec::len) == want.as_u64().and_then(|n| usize::try_from(n).ok())
        }
        "empty" => is_empty(&found),
        "notempty" => !is_empty(&found),
        _ => return None,
    };
    Some(if is_right {
        Ok(())
    } else {
        Err(format!("{words}; but it is {found}"))
    })
}

/// What is left out of JSON is what is empty.
fn text_of(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(false) => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn found(world: &World, made: &Made, subject: &str, want: Option<&str>) -> Option<Value> {
    let bench = &world.bench;
    let layout = || {
        let path = made.archive(bench, "oci");
        path.exists().then(|| Layout::read(&path))
    };
    // The subject is everything before the verb.
    let subject = [
        " equals ",
        " is greater ",
        " is empty",
        " is not empty",
        " has length",
    ]
    .iter()
    .find_map(|verb| subject.split_once(verb))
    .map(|(subject, _)| subject)?;
    if let Some(member) = subject.strip_prefix("archive member ") {
        let tar = std::fs::read(made.archive(bench, "tar")).ok();
        let tar = tar.or_else(|| layout()?.layers().pop())?;
        return member_of(&tar, member);
    }
    if let Some(path) = subject.strip_prefix("exported file ") {
        let file = made.tree(bench).join(path);
        return Some(Value::from(std::fs::metadata(file).ok()?.len()));
    }
    if let Some(path) = subject.strip_prefix("entries of exported directory ") {
        let entries = std::fs::read_dir(made.tree(bench).join(path)).ok()?;
        return Some(Value::from(vec![Value::Null; entries.count()]));
    }
    if let Some(path) = subject
        .strip_prefix("stat of exported ")
        .and_then(|rest| rest.strip_suffix(".Mode().IsRegular()"))
    {
        let kind = made.tree(bench).join(path).symlink_metadata().ok()?;
        return Some(Value::from(kind.is_file() && !kind.file_type().is_socket()));
    }
    if subject == "image config.Created.Unix()" {
        let created = layout()?.config()["created"].as_str()?.to_owned();
        let seconds = bench.sh(&format!("date -d {created} +%s")).out();
        return seconds.trim().parse::<i64>().ok().map(Value::from);
    }
    if let Some(field) = subject.strip_prefix("image config.Config.") {
        return Some(layout()?.config()["config"][field].clone());
    }
    if subject == "v" {
        let labels = layout()?.config()["config"]["Labels"].clone();
        let values: Vec<String> = labels
            .as_object()?
            .values()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect();
        let want = want?;
        return Some(Value::from(
            values
                .into_iter()
                .find(|value| *value == want)
                .unwrap_or_default(),
        ));
    }
    if let Some(index) = subject
        .strip_prefix("ports[")
        .and_then(|rest| rest.strip_suffix(']'))
    {
        let ports = layout()?.config()["config"]["ExposedPorts"].clone();
        let port = ports.as_object()?.keys().nth(index.parse().ok()?)?.clone();
        return Some(Value::from(port));
    }
    if subject == "image index.Manifests" {
        return Some(layout()?.index()["manifests"].clone());
    }
    if subject == "image manifest.Layers" {
        return Some(layout()?.manifest()["layers"].clone());
    }
    for answer in ["outline.", "list."] {
        if let Some(path) = subject.strip_prefix(answer) {
            let found = at(made.answer.as_ref()?, path)?;
            // Files are in base64 there.
            return Some(match (path.starts_with("Sources["), found.as_str()) {
                (true, Some(text)) => {
                    let bytes = base64::prelude::BASE64_STANDARD.decode(text).ok()?;
                    Value::from(String::from_utf8(bytes).ok()?)
                }
                _ => found,
            });
        }
    }
    None
}

/// What is at a path of Go's fields in an answer.
fn at(answer: &Value, path: &str) -> Option<Value> {
    let mut here = answer.clone();
    for part in path.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, index)) => (name, Some(index.trim_end_matches(']'))),
            None => (part, None),
        };
        let key = here.as_object().and_then(|object| {
            object
                .keys()
                .find(|key| key.eq_ignore_ascii_case(name))
                .cloned()
        });
        here = key.map_or(Value::Null, |key| here[key].clone());
        if let Some(index) = index {
            here = here[index.parse::<usize>().ok()?].clone();
        }
        // The number of a file, of which there is one.
        if part == "SourceIndex" && here.is_null() {
            here = Value::from(0);
        }
    }
    Some(here)
}

fn member_of(tar: &[u8], member: &str) -> Option<Value> {
    let (path, field) = match member.split_once(".Header.") {
        Some((path, field)) => (path, field),
        None => (member.strip_suffix(".Data")?, "Data"),
    };
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().ok()? {
        let mut entry = entry.ok()?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if name.trim_matches('/') != path.trim_matches('/') {
            continue;
        }
        return Some(match field {
            "Uid" => Value::from(entry.header().uid().ok()?),
            "Gid" => Value::from(entry.header().gid().ok()?),
            _ => {
                let mut text = String::new();
                std::io::Read::read_to_string(&mut entry, &mut text).ok()?;
                Value::from(text)
            }
        });
    }
    Some(Value::from(format!(
        "nothing: there are {:?}",
        listing::entries(tar).keys().collect::<Vec<_>>()
    )))
}

fn complaint(world: &World, number: usize, check: &Value) -> String {
    let kind = check["check"].as_str().unwrap_or_default();
    let words = check["expect"].as_str().unwrap_or(kind);
    let path = check["path"].as_str().unwrap_or_default();
    let found = match read(world, number, path.trim_start_matches('/')) {
        Some(text) if kind.starts_with("file") => format!(", but it is {text:?}"),
        _ => {
            let made = &world.made[&number];
            let said = match (&made.run, kind.contains("lint") || kind == "no_warnings") {
                (Some(run), false) => run.both(),
                _ => warnings_of(made),
            };
            let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
            let last = lines[lines.len().saturating_sub(14)..].join("\n    ");
            format!("\n    {last}")
        }
    };
    format!("{words}{found}")
}

fn warnings_of(made: &Made) -> String {
    let Some(answer) = &made.answer else {
        return made.answered.clone();
    };
    answer["warnings"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|warning| format!("{warning}\n"))
        .chain([answer["buildError"].to_string()])
        .collect()
}
