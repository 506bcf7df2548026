//! The events that `--progress json` wrote.

use serde_json::Value;

use super::Run;

/// A build that was watched.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    pub(crate) run: Run,
    pub(crate) all: Vec<Value>,
}

impl Events {
    /// Reads them off standard error, in which every line is one.
    pub(crate) fn of(run: Run) -> Self {
        let all = run
            .stderr
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect();
        Self { run, all }
    }

    /// The events of one kind.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.all.iter().filter(move |event| event["event"] == kind)
    }

    /// The last one, which is always `build.done`.
    pub(crate) fn done(&self) -> &Value {
        let last = self
            .all
            .last()
            .unwrap_or_else(|| panic!("no events\n{}", self.run.both()));
        assert_eq!(last["event"], "build.done", "{}", self.run.both());
        last
    }

    fn count(&self, field: &str) -> u64 {
        self.done()[field]
            .as_u64()
            .unwrap_or_else(|| panic!("no {field}: {}", self.done()))
    }

    /// Steps that were executed.
    pub(crate) fn steps_run(&self) -> u64 {
        self.count("steps_run")
    }

    /// Steps whose results were there.
    pub(crate) fn steps_cached(&self) -> u64 {
        self.count("steps_cached")
    }

    /// The manifest's digest.
    pub(crate) fn digest(&self) -> String {
        self.done()["digest"]
            .as_str()
            .unwrap_or_else(|| panic!("no digest: {}", self.done()))
            .to_owned()
    }

    /// `stage: instruction` of every step that was executed, sorted.
    pub(crate) fn executed(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .of_kind("step.done")
            .filter(|event| event["cached"] == false)
            .map(|event| {
                let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
                format!("{}: {}", text("stage"), text("name"))
            })
            .collect();
        names.sort();
        names
    }

    /// The stages in which a step was executed, in the order in which their steps ended.
    pub(crate) fn stages_executed(&self) -> Vec<String> {
        let mut stages = Vec::new();
        for event in self
            .of_kind("step.done")
            .filter(|event| event["cached"] == false)
        {
            let stage = event["stage"].as_str().unwrap_or_default().to_owned();
            if !stages.contains(&stage) {
                stages.push(stage);
            }
        }
        stages
    }

    /// What the steps wrote.
    pub(crate) fn log(&self) -> String {
        self.of_kind("step.log")
            .filter_map(|event| event["text"].as_str())
            .map(|line| format!("{line}\n"))
            .collect()
    }
}
