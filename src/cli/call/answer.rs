//! The answers to `--call`, as text and as JSON: fields, order and columns are BuildKit's.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

use crate::dockerfile::{Dockerfile, Problem, Severity, Span};
use crate::frontend::{self, Outline, OutlineMount, Review};

/// Something that can be printed in both forms.
pub(super) trait Answer: Serialize {
    /// For people.
    fn text(&self) -> String;
}

#[derive(Debug, Serialize)]
struct Location {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

#[derive(Debug, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Position {
    line: u32,
}

impl Location {
    /// The lines of the instruction that a place is in.
    fn of(dockerfile: &Dockerfile, span: Span) -> Self {
        let whole = dockerfile
            .at(span)
            .map_or(span, |instruction| instruction.span);
        let (first, last) = dockerfile.lines(whole);
        Self {
            ranges: vec![Range {
                start: Position { line: first },
                end: Position { line: last },
            }],
        }
    }

    fn of_problem(dockerfile: &Dockerfile, problem: &Problem) -> Self {
        match problem.span {
            Some(span) => {
                let mut location = Self::of(dockerfile, span);
                if problem.code == "NoEmptyContinuation" {
                    // As BuildKit has it: the line with which the instruction ends.
                    for range in &mut location.ranges {
                        range.start.line = range.end.line;
                    }
                }
                location
            }
            None => Self { ranges: Vec::new() },
        }
    }

    fn lines(&self) -> Option<(u32, u32)> {
        let first = self.ranges.first()?;
        Some((first.start.line, first.end.line))
    }
}

/// `check`
#[derive(Debug, Serialize)]
pub(super) struct CheckAnswer {
    /// As BuildKit has it, `null` where there is none.
    warnings: Option<Vec<Warning>>,
    sources: [SourceFile; 1],
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    error: Option<BuildError>,
    #[serde(skip)]
    text: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Warning {
    rule_name: &'static str,
    description: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    detail: String,
    location: Location,
}

#[derive(Debug, Serialize)]
struct SourceFile {
    filename: String,
    data: String,
    language: &'static str,
}

#[derive(Debug, Serialize)]
struct BuildError {
    message: String,
    location: Location,
}

impl CheckAnswer {
    pub(super) fn of(review: &Review, file: &str) -> Self {
        let dockerfile = &review.dockerfile;
        let warnings: Vec<Warning> = review
            .breaches()
            .map(|(rule, problem)| Warning {
                rule_name: rule.name,
                description: rule.description,
                url: rule.url(),
                detail: problem.message.clone(),
                location: Location::of_problem(dockerfile, problem),
            })
            .collect();
        let refused: BTreeSet<&str> = review
            .breaches()
            .filter(|(_, problem)| problem.severity == Severity::Error)
            .map(|(rule, _)| rule.name)
            .collect();
        let error = match review.mistakes().next() {
            Some(first) => {
                let messages: Vec<&str> = review
                    .mistakes()
                    .map(|problem| problem.message.as_str())
                    .collect();
                Some(BuildError {
                    message: messages.join("\n"),
                    location: Location::of_problem(dockerfile, first),
                })
            }
            None if refused.is_empty() => None,
            None => Some(BuildError {
                message: format!(
                    "lint violation found for rules: {}",
                    Vec::from_iter(refused).join(", ")
                ),
                location: Location { ranges: Vec::new() },
            }),
        };
        Self {
            warnings: (!warnings.is_empty()).then_some(warnings),
            sources: [SourceFile {
                filename: file.to_owned(),
                data: base64(dockerfile.text().as_bytes()),
                language: "Dockerfile",
            }],
            error,
            text: dockerfile.text().to_owned(),
        }
    }

    /// Whether nothing was found.
    pub(super) fn is_clean(&self) -> bool {
        self.warnings.is_none() && self.error.is_none()
    }
}

impl Answer for CheckAnswer {
    fn text(&self) -> String {
        let warnings = self.warnings.as_deref().unwrap_or_default();
        let mut text = match warnings.len() {
            0 if self.error.is_some() => String::new(),
            0 => "Check complete, no warnings found.\n".to_owned(),
            1 => "Check complete, 1 warning has been found!\n".to_owned(),
            n => format!("Check complete, {n} warnings have been found!\n"),
        };
        for warning in warnings {
            let _ = write!(text, "\nWARNING: {}", warning.rule_name);
            if let Some(url) = &warning.url {
                let _ = write!(text, " - {url}");
            }
            let _ = writeln!(text, "\n{}", warning.detail);
            if let Some(lines) = warning.location.lines() {
                excerpt(&mut text, &self.sources[0].filename, &self.text, lines);
            }
        }
        // Mistakes are printed as those of a build are.
        if let Some(error) = self
            .error
            .as_ref()
            .filter(|error| error.location.ranges.is_empty())
        {
            let _ = writeln!(text, "\n{}", error.message);
        }
        text
    }
}

/// The lines that are meant, and some around them.
fn excerpt(out: &mut String, file: &str, text: &str, (first, last): (u32, u32)) {
    let lines: Vec<&str> = text.split('\n').collect();
    let (mut start, mut end) = (first as usize, (last as usize).min(lines.len()));
    if start == 0 || start > lines.len() {
        return;
    }
    let wanted = if start == end { 4 } else { 2 };
    let mut padded = 0;
    while padded < wanted {
        if start > 1 {
            start -= 1;
            padded += 1;
        }
        if end != lines.len() {
            end += 1;
            padded += 1;
        }
        padded += 1;
    }
    let rule = "--------------------";
    let _ = writeln!(out, "{file}:{first}\n{rule}");
    for number in start..=end {
        let is_meant = (first as usize..=last as usize).contains(&number);
        let mark = if is_meant { ">>>" } else { "   " };
        let _ = writeln!(out, " {number:>3} | {mark} {}", lines[number - 1]);
    }
    let _ = writeln!(out, "{rule}");
}

/// `outline`
#[derive(Debug, Serialize)]
pub(super) struct OutlineAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Arg>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Mount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Mount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cache: Vec<Cache>,
    sources: [String; 1],
}

#[derive(Debug, Serialize)]
struct Arg {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    value: String,
    location: Location,
}

#[derive(Debug, Serialize)]
struct Mount {
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: Location,
}

#[derive(Debug, Serialize)]
struct Cache {
    #[serde(rename = "ID")]
    id: String,
    location: Location,
}

impl OutlineAnswer {
    pub(super) fn of(outline: &Outline, dockerfile: &Dockerfile) -> Self {
        let mounts = |mounts: &[OutlineMount]| -> Vec<Mount> {
            mounts
                .iter()
                .map(|mount| Mount {
                    name: mount.id.clone(),
                    required: mount.required,
                    location: Location::of(dockerfile, mount.span),
                })
                .collect()
        };
        Self {
            name: outline.name.clone(),
            description: outline.description.clone(),
            args: outline
                .args
                .iter()
                .map(|arg| Arg {
                    name: arg.name.clone(),
                    description: arg.description.clone(),
                    value: arg.value.clone().unwrap_or_default(),
                    location: Location::of(dockerfile, arg.span),
                })
                .collect(),
            secrets: mounts(&outline.secrets),
            ssh: mounts(&outline.ssh),
            cache: outline
                .caches
                .iter()
                .map(|cache| Cache {
                    id: cache.id.clone(),
                    location: Location::of(dockerfile, cache.span),
                })
                .collect(),
            sources: [base64(dockerfile.text().as_bytes())],
        }
    }
}

impl Answer for OutlineAnswer {
    fn text(&self) -> String {
        let mut text = String::new();
        if self.name.is_some() || self.description.is_some() {
            let name = self.name.as_deref().unwrap_or("(default)");
            let mut rows = vec![vec!["TARGET:", name]];
            rows.extend(
                self.description
                    .as_deref()
                    .map(|said| vec!["DESCRIPTION:", said]),
            );
            text += &columns(&rows, 1);
            text.push('\n');
        }
        if !self.args.is_empty() {
            let mut rows = vec![vec!["BUILD ARG", "VALUE", "DESCRIPTION"]];
            rows.extend(self.args.iter().map(|arg| {
                let description = arg.description.as_deref().unwrap_or_default();
                vec![arg.name.as_str(), &arg.value, description]
            }));
            text += &columns(&rows, 3);
            text.push('\n');
        }
        for (title, mounts) in [("SECRET", &self.secrets), ("SSH", &self.ssh)] {
            if mounts.is_empty() {
                continue;
            }
            let mut rows = vec![vec![title, "REQUIRED"]];
            rows.extend(mounts.iter().map(|mount| {
                vec![
                    mount.name.as_str(),
                    if mount.required { "true" } else { "" },
                ]
            }));
            text += &columns(&rows, 3);
            text.push('\n');
        }
        if !self.cache.is_empty() {
            let mut rows = vec![vec!["CACHE"]];
            rows.extend(self.cache.iter().map(|cache| vec![cache.id.as_str()]));
            text += &columns(&rows, 3);
            text.push('\n');
        }
        text
    }
}

/// `targets`
#[derive(Debug, Serialize)]
pub(super) struct TargetsAnswer {
    targets: Vec<Target>,
    sources: [String; 1],
}

#[derive(Debug, Serialize)]
struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    base: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    location: Location,
}

impl TargetsAnswer {
    pub(super) fn of(dockerfile: &Dockerfile) -> Self {
        let target = |target: frontend::Target| Target {
            name: target.name,
            default: target.is_default,
            description: target.description,
            base: target.base,
            platform: target.platform,
            location: Location::of(dockerfile, target.span),
        };
        Self {
            targets: frontend::targets(dockerfile)
                .into_iter()
                .map(target)
                .collect(),
            sources: [base64(dockerfile.text().as_bytes())],
        }
    }
}

impl Answer for TargetsAnswer {
    fn text(&self) -> String {
        let names: Vec<String> = self
            .targets
            .iter()
            .map(|target| match (&target.name, target.default) {
                (None, true) => "(default)".to_owned(),
                (name, true) => format!("{} (default)", name.as_deref().unwrap_or_default()),
                (name, false) => name.clone().unwrap_or_default(),
            })
            .collect();
        let mut rows = vec![vec!["TARGET", "DESCRIPTION"]];
        rows.extend(self.targets.iter().zip(&names).map(|(target, name)| {
            vec![
                name.as_str(),
                target.description.as_deref().unwrap_or_default(),
            ]
        }));
        columns(&rows, 1)
    }
}

/// `describe`
#[derive(Debug, Serialize)]
pub(super) struct DescribeAnswer([Request; 4]);

#[derive(Debug, Serialize)]
struct Request {
    name: &'static str,
    version: &'static str,
    r#type: &'static str,
    description: &'static str,
    opts: Vec<Named>,
    inputs: Option<Vec<Named>>,
    metadata: Vec<Named>,
    refs: Option<Vec<Named>>,
}

#[derive(Debug, Serialize)]
struct Named {
    name: &'static str,
    description: &'static str,
}

impl DescribeAnswer {
    pub(super) fn new() -> Self {
        let request = |name, description| Request {
            name,
            version: "1.0.0",
            r#type: "rpc",
            description,
            opts: Vec::new(),
            inputs: None,
            metadata: ["result.json", "result.txt"]
                .map(|name| Named {
                    name,
                    description: "",
                })
                .into(),
            refs: None,
        };
        let target = Named {
            name: "target",
            description: "The stage that is asked about",
        };
        Self([
            Request {
                opts: vec![target],
                ..request("frontend.outline", "What the target can be given")
            },
            request("frontend.targets", "Which stages can be built"),
            request(
                "frontend.lint",
                "What is wrong with the file, or could be better",
            ),
            request("frontend.subrequests.describe", "What can be asked"),
        ])
    }
}

impl Answer for DescribeAnswer {
    fn text(&self) -> String {
        let mut rows = vec![vec!["NAME", "VERSION", "DESCRIPTION"]];
        rows.extend(self.0.iter().map(|request| {
            let name = request.name.strip_prefix("frontend.");
            vec![
                name.unwrap_or(request.name),
                request.version,
                request.description,
            ]
        }));
        columns(&rows, 1)
    }
}

/// Rows whose columns are as wide as they need to be, with so many blanks between them.
fn columns(rows: &[Vec<&str>], between: usize) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if index + 1 < row.len() {
                let blanks = widths[index] - cell.chars().count() + between;
                text.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        text.push('\n');
    }
    text
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |index: usize| u32::from(three.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= three.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_base_64() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
