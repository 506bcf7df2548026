//! Any Dockerfile is lowered, or refused, without a panic; twice to the same graph, and laid out to the same graph.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shmocker_fuzz::dockerfile::{Severity, format, parse};
use shmocker_fuzz::frontend::{Lowered, Lowering, Need, Options, Resolved, Scope, lower};
use shmocker_fuzz::graph::Op;
use shmocker_fuzz::image::ImageConfig;

fuzz_target!(|text: &str| {
    let Some(lowered) = lowered(text, Scope::Target) else {
        return;
    };
    let again = lowered_again(text);
    assert_eq!(Some(&lowered), again.as_ref());
    let laid_out = format(text).expect("what can be lowered can be laid out");
    let laid_out = lowered_again(&laid_out).expect("what is laid out can be lowered");
    assert_eq!(ops(&lowered), ops(&laid_out));
    assert_eq!(lowered.config, laid_out.config);
    assert_eq!(lowered.history, laid_out.history);
});

fn ops(lowered: &Lowered) -> Vec<&Op> {
    lowered.graph.nodes().iter().map(|node| &node.op).collect()
}

fn lowered_again(text: &str) -> Option<Lowered> {
    lowered(text, Scope::Target)
}

/// Lowers; every image is there and has an environment, every file is there.
fn lowered(text: &str, scope: Scope) -> Option<Lowered> {
    let parsed = parse(text);
    let is_wrong = parsed
        .problems
        .iter()
        .any(|problem| problem.severity == Severity::Error);
    let mut options = Options {
        scope,
        file: "Dockerfile".to_owned(),
        ..Options::default()
    };
    options
        .build_args
        .insert("GIVEN".to_owned(), "value".to_owned());
    let mut config = ImageConfig::default();
    config.config.env.push("BASE=from the base".to_owned());
    config.config.on_build = Some(vec!["ENV TRIGGERED=yes".to_owned()]);
    let mut resolved = Resolved::default();
    loop {
        match lower(&parsed.dockerfile, &options, &resolved) {
            Err(problems) => {
                assert!(!problems.is_empty());
                return None;
            }
            Ok(Lowering::Done(lowered)) => return (!is_wrong).then_some(*lowered),
            Ok(Lowering::Needs(needs)) => {
                assert!(!needs.is_empty());
                for need in needs {
                    match need {
                        Need::Config(source) => resolved.found(source, config.clone()),
                        Need::File(file) => resolved.file(file, None),
                    }
                }
            }
        }
    }
}
