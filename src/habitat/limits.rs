//! How much of the machine a habitat may take when it runs. The image says so in labels, which can only narrow what a
//! command has: `shmocker run` keeps to them as `habitat up` does.

use super::check::Check;
use super::keys::{Count, Scalar, keys};
use crate::dockerfile::parse_bytes;

/// Begins the names of the labels.
const LABEL: &str = "io.shmocker.habitat";

keys! {
    /// How much of the machine a habitat may take when it runs.
    Limits is "limits" {
        /// Memory: a number of bytes, or one with k, m, g or t.
        #[schemars(with = "Option<Scalar>")]
        memory: Option<Scalar> = "memory",
        /// Processors, such as 1.5.
        #[schemars(with = "Option<Scalar>")]
        cpus: Option<Scalar> = "cpus",
        /// How many processes there may be at a time.
        pids: Option<Count> = "pids",
    }
}

impl Limits {
    /// What the image says of them.
    pub(super) fn labels(&self) -> Vec<(String, String)> {
        let bytes = self
            .memory
            .as_ref()
            .and_then(|memory| parse_bytes(&memory.0.value));
        let said = [
            ("memory", bytes.map(|bytes| bytes.to_string())),
            ("cpus", self.cpus.as_ref().map(|cpus| cpus.0.value.clone())),
            ("pids", self.pids.map(|pids| pids.value.to_string())),
        ];
        let said = said
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        said.map(|(name, value)| (format!("{LABEL}.limits.{name}"), value))
            .collect()
    }
}

impl Check<'_> {
    pub(super) fn limits(&mut self) {
        let Some(limits) = self
            .document
            .entry
            .as_ref()
            .and_then(|entry| entry.limits.as_ref())
        else {
            return;
        };
        if let Some(Scalar(memory)) = &limits.memory
            && parse_bytes(&memory.value).is_none_or(|bytes| bytes == 0)
        {
            self.report
                .error(
                    "habitat::bad_value",
                    memory.span,
                    format!("`{}` is no amount of memory", memory.value),
                )
                .label("a number of bytes, or one with k, m, g or t, such as 2g");
        }
        if let Some(Scalar(cpus)) = &limits.cpus
            && !cpus
                .value
                .parse::<f64>()
                .is_ok_and(|cpus| (0.01..=100_000.0).contains(&cpus))
        {
            self.report
                .error(
                    "habitat::bad_value",
                    cpus.span,
                    format!("`{}` is no number of processors", cpus.value),
                )
                .label("such as 2 or 1.5");
        }
        if let Some(pids) = limits.pids.filter(|pids| pids.value == 0) {
            self.report
                .error(
                    "habitat::bad_value",
                    pids.span,
                    "no process could be started",
                )
                .label("at least 1");
        }
    }
}
