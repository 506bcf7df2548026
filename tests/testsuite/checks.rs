//! What is said of a Dockerfile that nothing is built from: `build --check` and `--call`, `lint`, `fmt`.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use crate::harness::bench::{Bench, Run, status_of};
use crate::harness::machine::{self, need};
use crate::peers::buildkit::buildkit;

/// Breaches of many rules, on no base at all.
const CARELESS: &str = "\
# check=experimental=InvalidDefinitionDescription
# BASE what it starts from
ARG BASE=scratch
FROM --platform=$TARGETPLATFORM $BASE AS Tools
# a remark
ARG VERSION=1 SUFFIX
ENV API_KEY=1 OTHER=$VERSON
run --mount=type=secret,id=token,required --mount=type=cache,target=/cache \\
  # why

  true
FROM tools as last
WORKDIR relative
LABEL old style
MAINTAINER me
EXPOSE 80/TCP 127.0.0.1:1:2
CMD one
CMD two
COPY left-out .
";

/// Runs shmocker with something on its standard input.
fn fed(bench: &Bench, line: &str, input: impl AsRef<[u8]>) -> Run {
    let mut child = bench
        .shmocker_command(line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("shmocker can be started");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_ref()).expect("it is read");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    bench.said(
        status_of(output.status),
        output.stdout,
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn a_check_finds_what_could_be_better_and_builds_nothing() {
    let bench = Bench::new(&need!(machine::plain_user()), "check");
    bench.file("Dockerfile", "FROM scratch AS Base\nCMD x\n");
    let run = bench.shmocker("build --check .");
    assert_eq!(run.status, 1, "{}", run.both());
    for part in [
        "Check complete, 2 warnings have been found!",
        "WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
        "WARNING: JSONArgsRecommended",
        " 2 | >>> CMD x",
    ] {
        assert!(run.out().contains(part), "no `{part}`\n{}", run.both());
    }
    assert_eq!(bench.ok("build --call=check,ignorestatus=true .").status, 0);

    let answer = bench.shmocker("build --call=check,format=json .").json();
    let first = &answer["warnings"][0];
    assert_eq!(first["ruleName"], "StageNameCasing");
    assert_eq!(first["detail"], "Stage name 'Base' should be lowercase");
    assert_eq!(
        first["location"],
        json!({"ranges": [{"start": {"line": 1}, "end": {"line": 1}}]})
    );
    assert_eq!(answer["sources"][0]["filename"], "Dockerfile");
    assert!(answer.get("buildError").is_none());

    bench.file("Dockerfile", "FROM scratch\nCMD [\"x\"]\n");
    let run = bench.ok("build --check .");
    assert_eq!(run.out(), "Check complete, no warnings found.\n");
    let answer = bench.ok("build --call=check,format=json .").json();
    assert_eq!(answer["warnings"], json!(null));

    bench.file("Dockerfile", "FROM scratch\nRUNN x\nEXPOSE many\n");
    bench
        .shmocker("build --check .")
        .expect(1, &["RUNN", "did you mean `RUN`?", "many", ":2:", ":3:"]);
    let run = bench.shmocker("build --call=check,format=json .");
    assert_eq!(run.status, 1, "{}", run.both());
    assert_eq!(
        run.json()["buildError"]["location"]["ranges"][0]["start"]["line"],
        2
    );
}

#[test]
fn a_check_takes_its_file_from_wherever_a_build_does() {
    let bench = Bench::new(&need!(machine::plain_user()), "check-stdin");
    let file = "FROM scratch\nCMD x\n";
    for line in ["build --check -f - .", "build --check -"] {
        let run = fed(&bench, line, file);
        assert_eq!(run.status, 1, "{line}\n{}", run.both());
        assert!(run.out().contains(">>> CMD x"), "{line}\n{}", run.both());
    }
    bench.file("inside/Dockerfile", file);
    bench.sh("tar -C inside -cf context.tar Dockerfile");
    let archive = std::fs::read(bench.path("context.tar")).expect("an archive");
    let run = fed(&bench, "build --check -", &archive);
    assert_eq!(run.status, 1, "{}", run.both());
    assert!(run.out().contains(">>> CMD x"), "{}", run.both());
}

#[test]
fn a_file_can_skip_rules_and_make_errors_of_them() {
    let bench = Bench::new(&need!(machine::plain_user()), "check-directive");
    for (head, above, count) in [
        ("", "", 1),
        ("# check=skip=JSONArgsRecommended\n", "", 0),
        ("# check=skip=all\n", "", 0),
        ("", "# check=skip=JSONArgsRecommended it has to be\n", 0),
        ("", "# check=skip=StageNameCasing\n", 1),
    ] {
        bench.file("Dockerfile", format!("{head}FROM scratch\n{above}CMD x\n"));
        let answer = bench.shmocker("build --call=check,format=json .").json();
        let found = answer["warnings"].as_array().map_or(0, Vec::len);
        assert_eq!(found, count, "{head}{above}");
    }
    bench.file("Dockerfile", "# check=error=true\nFROM scratch\nCMD x\n");
    bench
        .shmocker("build .")
        .expect(1, &["JSON arguments recommended for CMD", ":3:"]);
    let answer = bench.shmocker("build --call=check,format=json .").json();
    assert_eq!(
        answer["buildError"]["message"],
        "lint violation found for rules: JSONArgsRecommended"
    );
    bench.ok("build --build-arg BUILDKIT_DOCKERFILE_CHECK=skip=all -o type=cacheonly .");
}

#[test]
fn a_file_says_what_it_can_build_and_what_it_takes() {
    let bench = Bench::new(&need!(machine::plain_user()), "outline");
    bench.file("Dockerfile", CARELESS);
    let targets = bench.ok("build --call=targets,format=json .").json();
    assert_eq!(
        targets["targets"],
        json!([
            {
                "name": "tools",
                "base": "$BASE",
                "platform": "$TARGETPLATFORM",
                "location": {"ranges": [{"start": {"line": 4}, "end": {"line": 4}}]}
            },
            {
                "name": "last",
                "default": true,
                "base": "tools",
                "location": {"ranges": [{"start": {"line": 12}, "end": {"line": 12}}]}
            }
        ])
    );
    let outline = bench
        .ok("build --target=tools --build-arg SUFFIX=given --call=outline,format=json .")
        .json();
    assert_eq!(outline["name"], "tools");
    let args: Vec<_> = outline["args"]
        .as_array()
        .expect("arguments")
        .iter()
        .map(|arg| [&arg["name"], &arg["value"], &arg["description"]].map(|it| it.to_string()))
        .collect();
    assert_eq!(
        args,
        [
            ["\"BASE\"", "\"scratch\"", "\"what it starts from\""],
            ["\"VERSION\"", "\"1\"", "null"],
            ["\"SUFFIX\"", "\"given\"", "null"],
        ]
    );
    assert_eq!(outline["secrets"][0]["name"], "token");
    assert_eq!(outline["secrets"][0]["required"], true);
    assert_eq!(outline["cache"][0]["ID"], "/cache");
    let described = bench.ok("build --call=describe,format=json .").json();
    let names: Vec<_> = described
        .as_array()
        .expect("requests")
        .iter()
        .filter_map(|request| request["name"].as_str())
        .collect();
    assert!(names.contains(&"frontend.outline"), "{names:?}");
    bench
        .shmocker("build --call=nonsense .")
        .expect(2, &["outline"]);
}

/// The answers of BuildKit itself, of which only what follows the summary of the check is printed.
#[test]
fn buildkit_answers_the_same() {
    let bench = Bench::new(&need!(machine::plain_user()), "check-buildkit");
    let buildkit = need!(buildkit());
    bench.file(".dockerignore", "left-out\n");
    let odd = "FROM scratch AS context\nENV a b c\nHEALTHCHECK NONE\nHEALTHCHECK CMD x\n\
               FROM scratch AS context\nENTRYPOINT x\nSHELL [\"a\"]\nCMD y\n\
               FROM --platform=linux/arm64 scratch\nCOPY $NOWHERE /\n\
               # check=skip=UndefinedVar for a reason\nCOPY $NOWHERE /\nworkdir x\n";
    for file in [CARELESS, odd] {
        bench.file("Dockerfile", file);
        for (ours, theirs) in [
            ("check", "frontend.lint"),
            ("outline", "frontend.outline"),
            ("targets", "frontend.targets"),
        ] {
            let run = bench.shmocker(&format!("build --call={ours} ."));
            let printed = run.out();
            // The version that is compared with ends itself when asked for the targets of a file that has a check above
            // one instruction.
            if ours == "targets" && file == odd {
                continue;
            }
            // A cache is in BuildKit's JSON format, but it never fills that in.
            let printed = printed.split("CACHE\n").next().unwrap_or_default();
            let body = match ours {
                "check" => printed.split_once('\n').map_or("", |(_, rest)| rest),
                _ => printed,
            };
            let answer = buildkit.ask(&bench.project(), theirs);
            assert_eq!(in_order(body), in_order(&answer), "{ours}\n{file}");
        }
    }
}

/// The warnings of a check, or the lines of an outline: BuildKit has those of one line of the file in any order.
fn in_order(text: &str) -> Vec<String> {
    let between = if text.contains("WARNING: ") {
        "\nWARNING: "
    } else {
        "\n"
    };
    let mut parts: Vec<String> = text
        .split(between)
        .map(|part| part.trim().to_owned())
        .collect();
    parts.sort();
    parts
}

#[test]
fn lint_reads_files_in_every_form() {
    let bench = Bench::new(&need!(machine::plain_user()), "lint");
    bench
        .file("Dockerfile", CARELESS)
        .file(".dockerignore", "left-out\n");
    bench.file("other/Dockerfile", "FROM scratch\nCOPY $A /\n");
    let run = bench.shmocker("lint --format short Dockerfile other/Dockerfile");
    assert_eq!(run.status, 1, "{}", run.both());
    let said = run.out();
    for line in [
        "Dockerfile:4:42: Stage name 'Tools' should be lowercase",
        "Dockerfile:19:6: Attempting to Copy file \"left-out\" that is excluded by .dockerignore",
        "other/Dockerfile:2:6: Usage of undefined variable '$A'",
    ] {
        assert!(said.lines().any(|it| it == line), "no `{line}`\n{said}");
    }
    let found = bench.shmocker("lint --format json Dockerfile").json();
    let first = &found[0];
    for key in [
        "file",
        "line",
        "column",
        "end_line",
        "end_column",
        "code",
        "severity",
        "message",
        "help",
    ] {
        assert!(first.get(key).is_some(), "no `{key}`: {first}");
    }
    let codes: std::collections::BTreeSet<_> = found
        .as_array()
        .expect("an array")
        .iter()
        .filter_map(|problem| problem["code"].as_str())
        .collect();
    assert_eq!(
        codes.into_iter().collect::<Vec<_>>(),
        [
            "ConsistentInstructionCasing",
            "CopyIgnoredFile",
            "ExposeInvalidFormat",
            "ExposeProtoCasing",
            "FromAsCasing",
            "InvalidDefinitionDescription",
            "JSONArgsRecommended",
            "LegacyKeyValueFormat",
            "MaintainerDeprecated",
            "MultipleInstructionsDisallowed",
            "NoEmptyContinuation",
            "RedundantTargetPlatform",
            "SecretsUsedInArgOrEnv",
            "StageNameCasing",
            "UndefinedVar",
            "WorkdirRelativePath",
        ]
    );
    let pretty = bench.shmocker("lint Dockerfile").out();
    assert!(pretty.contains("MaintainerDeprecated"), "{pretty}");
    assert!(pretty.contains("15 │ MAINTAINER me"), "{pretty}");

    // An image that nobody asks for may set what it likes.
    let run = fed(&bench, "lint -", "FROM elsewhere\nCOPY $A /\n");
    assert_eq!(run.status, 0, "{}", run.both());
    bench
        .shmocker("lint nowhere")
        .expect(1, &["nowhere", "cannot be read"]);
}

#[test]
fn fmt_lays_files_out_and_changes_nothing_else() {
    let bench = Bench::new(&need!(machine::plain_user()), "fmt");
    let crooked =
        "from   scratch   as base\n\n\n\ncopy --chmod=644   a \\\n b   /x/\nRUN a   &&   b\n";
    let even = "FROM scratch AS base\n\nCOPY --chmod=644 a \\\n    b /x/\nRUN a   &&   b\n";
    let crooked = crooked.replace("from ", "FROM ").replace("copy", "COPY");
    bench.file("Dockerfile", &crooked).file("even", even);
    let run = bench.shmocker("fmt --check Dockerfile even");
    assert_eq!((run.status, run.out().as_str()), (1, "Dockerfile\n"));
    let read = || std::fs::read_to_string(bench.path("Dockerfile")).expect("a file");
    assert_eq!(read(), crooked);
    bench.ok("fmt Dockerfile even");
    assert_eq!(read(), even);
    bench.ok("fmt --check Dockerfile even");
    let run = fed(&bench, "fmt -", &crooked);
    assert_eq!((run.status, run.out().as_str()), (0, even));

    bench.file("broken", "FROM scratch\nRUNN  x\n");
    bench.file("Dockerfile", &crooked);
    bench
        .shmocker("fmt Dockerfile broken")
        .expect(1, &["RUNN", "broken:2:"]);
    assert_eq!(read(), crooked, "with a mistake in one, none is written");
}
