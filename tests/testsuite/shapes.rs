//! What programs read: the JSON of every command that has any, and the fields of every event, have the shape that the documents
//! promise.
//!
//! A shape is JSON with the names of types for values: `"string"`, `"number"`, `"bool"`, with `?` after it where it may be null,
//! `"any"`; `{"*": shape}` has any keys, `"key?"` may be missing; `[shape]` is any number of them, `[shape, "+"]` at least one.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::layout::Layout;
use crate::harness::machine::{self, need};
use crate::harness::registry::MemoryRegistry;
use crate::tidy::flags;

/// Where a value is not of a shape, and how.
fn misfits(at: &str, value: &Value, shape: &Value, found: &mut Vec<String>) {
    match (shape, value) {
        (Value::String(name), value) => {
            let (name, may_be_null) = match name.strip_suffix('?') {
                Some(name) => (name, true),
                None => (name.as_str(), false),
            };
            let fits = match name {
                "string" => value.is_string(),
                "number" => value.is_number(),
                "bool" => value.is_boolean(),
                "any" => true,
                word => value == word,
            };
            let may_be_so = may_be_null && value.is_null();
            if !fits && !may_be_so {
                found.push(format!("{at}: {value} is no {name}"));
            }
        }
        (Value::Array(shapes), Value::Array(values)) => {
            if shapes.len() > 1 && values.is_empty() {
                found.push(format!("{at}: it is empty"));
            }
            for value in values {
                misfits(&format!("{at}[]"), value, &shapes[0], found);
            }
        }
        (Value::Object(shapes), Value::Object(values)) => {
            if let Some(shape) = shapes.get("*") {
                for (key, value) in values {
                    misfits(&format!("{at}.{key}"), value, shape, found);
                }
                return;
            }
            for (key, shape) in shapes {
                let name = key.trim_end_matches('?');
                match values.get(name) {
                    Some(value) => misfits(&format!("{at}.{name}"), value, shape, found),
                    None if name != key => {}
                    None => found.push(format!("{at}: there is no `{name}`")),
                }
            }
            for key in values.keys() {
                if !shapes.contains_key(key) && !shapes.contains_key(&format!("{key}?")) {
                    found.push(format!("{at}: `{key}` is promised nowhere"));
                }
            }
        }
        (_, value) => found.push(format!("{at}: {value} is no {shape}")),
    }
}

fn cause() -> Value {
    json!({"field": "string", "kind": "string", "path?": "string", "old": "string?", "new": "string?", "note?": "string",
        "file?": "string", "line?": "number", "causes?": ["any"]})
}

fn step() -> Value {
    json!({"name": "string", "stage": "string", "file": "string", "line": "number", "state": "string", "causes": [cause()]})
}

fn phase() -> Value {
    json!({"id": "number", "name": "string", "title": "string", "stages": ["string"], "state": "string", "reason": "string?",
        "hash": "string", "hooks": {"before": "number", "after": "number"}, "duration_ms": "number?", "size_bytes": "number?"})
}

fn problem() -> Value {
    json!({"file": "string", "line": "number?", "column": "number?", "end_line": "number?", "end_column": "number?", "code": "string",
        "severity": "string", "message": "string", "help": "string?"})
}

fn instance() -> Value {
    json!({"id": "string", "name": "string", "state": "string", "exit_status": "number?", "config": "string", "image": "string",
        "digest": "string", "ports": ["any"], "volumes": ["any"], "services": ["any"], "started": "any"})
}

fn build_record() -> Value {
    json!({"id": "string", "project": "string", "target": "string?", "names": ["string"], "status": "string",
        "started_ms": "number", "duration_ms": "number", "steps_run": "number", "steps_cached": "number",
        "ran": [{"stage": "string", "name": "string", "duration_ms": "number", "failed": "bool"}],
        "digest": "string?", "errors": ["string"], "has_log": "bool", "reasons": [step()]})
}

fn descriptor() -> Value {
    json!({"mediaType": "string", "digest": "string", "size": "number", "annotations?": {"*": "string"}, "platform?": "any",
        "artifactType?": "string"})
}

fn image_config() -> Value {
    json!({"created?": "string", "author?": "string", "architecture": "string", "variant?": "string", "os": "string",
        "config": {"*": "any"}, "rootfs": {"type": "string", "diff_ids": ["string"]},
        "history?": [{"created?": "string", "created_by?": "string", "comment?": "string", "empty_layer?": "bool", "author?": "string"}]})
}

fn with(mut shape: Value, more: Value) -> Value {
    let more = more.as_object().expect("an object").clone();
    shape.as_object_mut().expect("an object").extend(more);
    shape
}

/// Command lines, how they end, and the shape of what they print. They are run in this order, in one project.
fn table(host: &str) -> Vec<(String, i32, Value)> {
    let row = |line: &str, status: i32, shape: Value| (line.to_owned(), status, shape);
    vec![
        row(
            "doctor --format json",
            0,
            json!([{"check": "string", "status": "string", "detail": "string", "fix": "string?"}, "+"]),
        ),
        row("lint --format json Dockerfile", 1, json!([problem(), "+"])),
        row(
            "habitat check --format json habitat/wrong.yaml",
            1,
            json!([problem(), "+"]),
        ),
        row(
            "images --format json",
            0,
            json!([{"name": "string?", "digest": "string", "platforms": ["string", "+"], "created": "string?",
            "size_bytes": "number"}, "+"]),
        ),
        row("image ls --format json", 0, json!([{"*": "any"}, "+"])),
        row(
            "inspect app --format json",
            0,
            with(
                image_config(),
                json!({"digest": "string", "layers": [descriptor(), "+"]}),
            ),
        ),
        row(
            "image inspect app --format json",
            0,
            with(
                image_config(),
                json!({"digest": "string", "layers": [descriptor(), "+"]}),
            ),
        ),
        row(
            &format!("imagetools inspect {host}/base:1 --format json"),
            0,
            json!({"name": "string",
            "manifest": with(descriptor(), json!({"schemaVersion": "number", "config?": descriptor(), "layers?": [descriptor()], "manifests?": [descriptor()]})),
            "image": image_config(), "referrers": [descriptor()]}),
        ),
        row("history ls --format json", 0, json!([build_record(), "+"])),
        row("history inspect --format json", 0, build_record()),
        row(
            "history why --format json",
            0,
            json!({"id": "string", "steps_run": "number", "steps": [step()]}),
        ),
        row(
            "why --format json .",
            10,
            json!({"would_rebuild": "bool", "steps": [step(), "+"]}),
        ),
        row(
            "rebuild --check app --format json",
            1,
            json!({"recorded": "string", "rebuilt": "string?", "same": "bool", "inputs": [step(), "+"],
            "difference": "any"}),
        ),
        row(
            "cache du --format json",
            0,
            json!({"total_bytes": "number", "reclaimable_bytes": "number", "index_bytes": "number",
            "disk": {"total_bytes": "number", "free_bytes": "number"}, "groups": [{"group": "string", "size_bytes": "number", "rows": [{"name": "string", "part": "string?", "size_bytes": "number", "reclaimable_bytes": "number", "unmeasured": "any", "used_ms": "number?", "in_use": "bool", "kept_by": "string?", "count": "number"}]}, "+"]}),
        ),
        row(
            "cache prune --all --dry-run --format json",
            0,
            json!({"removed": [{"id": "string", "type": "string", "size_bytes": "number", "description": "string"}, "+"], "removed_bytes": "number", "total_bytes": "number"}),
        ),
        row(
            "store check --format json",
            0,
            json!({"sound": "bool", "files": "number", "bytes": "number", "snapshots": "number", "trees": "number", "images": "number", "findings": [{"what": "string", "id": "string", "problem": "string", "repaired": "string?"}]}),
        ),
        row(
            "habitat phases --format json habitat/config.yaml",
            0,
            json!([phase(), "+"]),
        ),
        row(
            "habitat build --show-phases --format json habitat/config.yaml",
            0,
            json!([phase(), "+"]),
        ),
        row(
            "habitat why --format json habitat/config.yaml",
            10,
            json!({"would_rebuild": "bool", "phases": [{"id": "number", "name": "string", "state": "string", "causes": [cause()]}, "+"]}),
        ),
        row(
            "habitat diff --format json habitat/config.yaml habitat/other.yaml",
            0,
            json!({"equal": "bool", "changes": [with(cause(), json!({"remark": "bool"})), "+"]}),
        ),
        row(
            "habitat diff --dockerfile --format json habitat/config.yaml habitat/other.yaml",
            0,
            json!({"equal": "bool", "lines": [{"change": "string", "text": "string"}, "+"]}),
        ),
        row(
            "habitat outdated --format json habitat/config.yaml",
            0,
            json!([{"name": "string", "source": "string", "locked": "string?", "available": "string?"}]),
        ),
        row(
            "habitat migrate --format json habitat/config.yaml",
            0,
            json!({"text": "string", "changes": ["any"], "unmapped": ["any"]}),
        ),
        row(
            "habitat test --format json habitat/config.yaml",
            0,
            json!({"habitat": "string", "passed": "bool", "tests": [{"path": "string", "file": "string",
            "line": "number", "passed": "bool", "failure": "string?", "cached": "bool", "planned": "number?", "duration_ms": "number",
            "points": [{"number": "number", "name": "string", "ok": "bool", "skip": "string?", "todo": "string?", "diagnostics": ["string"],
            "duration_ms": "number"}, "+"]}, "+"]}),
        ),
        row(
            "habitat up --progress quiet --format json habitat/config.yaml",
            0,
            instance(),
        ),
        row("habitat ps --format json", 0, json!([instance(), "+"])),
        row(
            "habitat stop --format json habitat/config.yaml",
            0,
            instance(),
        ),
        row(
            "habitat down --format json habitat/config.yaml",
            0,
            instance(),
        ),
    ]
}

#[test]
fn every_command_prints_the_json_that_is_promised() {
    let user = need!(machine::plain_user());
    let layout = need!(busybox::layout());
    let registry = MemoryRegistry::start();
    registry.put_layout("base", "1", &Layout::read(layout));
    let host = registry.host();
    let bench = Bench::new(&user, "shapes");
    bench.file("file", "one");
    bench.file(
        "Dockerfile",
        format!("FROM {host}/base:1\nCOPY file /file\nRUN cat /file\nmaintainer me\n"),
    );
    bench.ok("build -t app .");
    bench.file("file", "two");
    let habitat = |rest: &str| {
        format!(
            "name: sample\nbase:\n  oci: {}\nenv:\n  - A=b\n{rest}",
            layout.display()
        )
    };
    bench.file(
        "habitat/works.sh",
        "#!/bin/sh\necho 1..1; echo ok 1 - it works\n",
    );
    bench.file("habitat/config.yaml", habitat("tests:\n  - works.sh\n"));
    bench.file("habitat/other.yaml", habitat("").replace("A=b", "A=c"));
    bench.file("habitat/wrong.yaml", habitat("userz: []\n"));
    bench.ok("habitat lock habitat/config.yaml");
    let mut complaints = Vec::new();
    let mut told = BTreeSet::new();
    for (line, status, shape) in table(&host) {
        let run = bench.shmocker(&line);
        if run.status != status {
            complaints.push(format!("{line}: {}", run.both()));
            continue;
        }
        let mut found = Vec::new();
        misfits("", &run.json(), &shape, &mut found);
        found.sort();
        found.dedup();
        complaints.extend(found.iter().map(|misfit| format!("{line}: {misfit}")));
        told.insert(line);
    }
    complaints.dedup();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    // No command that has the flag is left out.
    let mut all = BTreeSet::new();
    flags(&[], &mut all);
    let commands = all.iter().filter(|(_, flag)| flag == "--format");
    let untold: Vec<&String> = commands
        .map(|(command, _)| command)
        // Of these it is the form of an archive.
        .filter(|command| !command.ends_with("save"))
        .filter(|command| {
            !told
                .iter()
                .any(|line| line.starts_with(&format!("{command} ")))
        })
        .collect();
    assert!(untold.is_empty(), "{untold:?}");
}

/// The fields of events, beside `v`, `event` and `time_ms`; those of steps have more.
fn event_shape(name: &str) -> Option<Value> {
    let of_step = |more: Value| {
        let step = json!({"step": "string", "stage": "string", "name": "string", "line": "number", "file": "string"});
        with(step, more)
    };
    let fields = match name {
        "build.started" => json!({"target": "string", "platforms": ["string", "+"]}),
        "step.started" => of_step(json!({})),
        "step.progress" => of_step(json!({"done": "number", "total": "number", "unit": "string"})),
        "step.log" => of_step(json!({"stream": "string", "text": "string"})),
        "step.done" => of_step(json!({"cached": "bool", "duration_ms": "number"})),
        "step.failed" => {
            of_step(json!({"exit_status": "number?", "message": "string", "log_path": "string?"}))
        }
        "test.done" => of_step(
            json!({"cached": "bool", "failure": "string?", "planned": "number?", "points": ["any"], "duration_ms": "number"}),
        ),
        "source.started" => json!({"source": "string"}),
        "source.progress" => json!({"source": "string", "bytes": "number", "total": "number"}),
        "source.done" => {
            json!({"source": "string", "cached": "bool", "bytes": "number", "resolved": "string?", "age_s": "number?"})
        }
        "source.failed" => json!({"source": "string", "message": "string"}),
        "push.started" => json!({"image": "string"}),
        "push.progress" => json!({"image": "string", "bytes": "number", "total": "number"}),
        "push.done" => {
            json!({"image": "string", "digest": "string", "bytes": "number", "blobs_sent": "number", "blobs_mounted": "number",
            "blobs_there": "number"})
        }
        "waiting" => {
            json!({"host": "string", "reason": "string", "attempt": "number", "attempts": "number", "wait_ms": "number"})
        }
        "warning" => {
            json!({"code": "string", "message": "string", "file": "string?", "line": "number?"})
        }
        "build.done" => {
            json!({"status": "string", "digest": "string?", "config_digest": "string?", "steps_run": "number",
            "steps_cached": "number", "duration_ms": "number"})
        }
        _ => return None,
    };
    Some(with(
        fields,
        json!({"v": "number", "event": "string", "time_ms": "number"}),
    ))
}

#[test]
fn every_event_has_the_fields_that_are_promised() {
    let user = need!(machine::plain_user());
    let registry = MemoryRegistry::start();
    registry.put_layout("base", "1", &Layout::read(need!(busybox::layout())));
    let host = registry.host();
    let bench = Bench::new(&user, "shapes-events");
    bench.file(
        "Dockerfile",
        format!(
            "FROM {host}/base:1\nCOPY <<EOF /file\nx\nEOF\nRUN cat /file\nRUN echo more; exit 3\n"
        ),
    );
    let mut told = BTreeSet::new();
    let mut complaints = Vec::new();
    for line in [
        "build --push -t HOST/app:1 .",
        "build --target none .",
        "pull HOST/gone:1",
    ] {
        let run = bench.shmocker(&format!("{} --progress json", line.replace("HOST", &host)));
        for text in run.stderr.lines().filter(|text| text.starts_with("{\"v\"")) {
            let event: Value = serde_json::from_str(text).expect("JSON");
            let name = event["event"].as_str().unwrap_or_default().to_owned();
            match event_shape(&name) {
                Some(shape) => misfits(&name, &event, &shape, &mut complaints),
                None => complaints.push(format!("{name} is promised nowhere")),
            }
            told.insert(name);
        }
        if line.contains("--push") {
            assert_eq!(run.status, 3, "{}", run.both());
            let dockerfile = bench.sh("grep -v exit Dockerfile").out();
            bench.file("Dockerfile", dockerfile);
            let pushed = bench.events(&format!("build --push -t {host}/app:1 ."));
            for name in ["push.started", "push.done"] {
                for event in pushed.of_kind(name) {
                    let shape = event_shape(name).expect("it is promised");
                    misfits(name, event, &shape, &mut complaints);
                    told.insert(name.to_owned());
                }
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    for name in [
        "build.started",
        "source.done",
        "source.failed",
        "step.log",
        "step.failed",
        "push.done",
        "build.done",
    ] {
        assert!(told.contains(name), "{name} is not seen: {told:?}");
    }
    // And the documents name each with all of its fields.
    let documented = include_str!("../../docs/progress-json.md");
    for name in told {
        let row = documented
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}`")));
        let row = row.unwrap_or_else(|| panic!("docs/progress-json.md has no `{name}`"));
        let shape = event_shape(&name).expect("it was seen");
        let common = [
            "v", "event", "time_ms", "step", "stage", "name", "line", "file",
        ];
        for field in shape.as_object().expect("an object").keys() {
            let is_said = common.contains(&field.as_str()) || row.contains(&format!("`{field}`"));
            assert!(
                is_said,
                "docs/progress-json.md says nothing of `{field}` of `{name}`"
            );
        }
    }
}
