//! One request for several platforms: a build for each, one after another, so that what they share is made once; then one
//! image of them all for every output.

use std::io;
use std::os::fd::AsFd as _;

use super::super::{BuildRequest, Descriptor, Outcome};
use super::export::{JoinedNames, SaveRequest};
use super::recorder::Recorder;
use super::{Embedded, one};
use crate::engine::failure::Failure;
use crate::engine::phases::StepReport;
use crate::event::{BuildEvent, EventSink};
use crate::image::{Name, Platform};
use crate::ship::export::{Output, Pushing};

/// Builds them.
///
/// # Errors
/// Everything that went wrong with the first that failed.
pub(super) fn build(
    backend: Embedded,
    request: &BuildRequest,
    recorder: &Recorder<'_>,
) -> Result<Outcome, Vec<Failure>> {
    let events: &dyn EventSink = recorder;
    let own = Platform::of_this_machine().to_string();
    let named = request.platforms.iter().position(|one| *one == own);
    let named = named.unwrap_or(0);
    let mut built = Vec::new();
    for (place, platform) in request.platforms.iter().enumerate() {
        let part = BuildRequest {
            work: request.work.for_platform(platform),
            platforms: vec![platform.clone()],
            tags: if place == named {
                request.tags.clone()
            } else {
                Vec::new()
            },
            outputs: request
                .outputs
                .iter()
                .filter_map(|output| in_store(output, place == named))
                .collect(),
            // They leave together, from the store.
            needs_files: true,
            ..request.clone()
        };
        let events = OfPlatform { platform, events };
        let reasons = |reports| recorder.reasons(&of_platform_too(reports, platform));
        let outcome =
            one(&part, &events, &reasons).map_err(|failures| of_platform(failures, platform))?;
        built.push(outcome);
    }
    let mut outcome = built[named].clone();
    let mut is_first = true;
    for output in &request.outputs {
        match output {
            Output::CacheOnly => continue,
            Output::Image(image) if image.pushing == Pushing::No => continue,
            _ => {}
        }
        let names = request.tags.iter().filter_map(|tag| tag.parse().ok());
        let save = SaveRequest {
            store: request.store.clone(),
            images: built
                .iter()
                .map(|outcome| (outcome.stored, Vec::new()))
                .collect(),
            output: output.clone(),
            joined: Some(JoinedNames {
                names: names.collect::<Vec<Name>>(),
                epoch: outcome.source_date_epoch,
            }),
        };
        let stdout = io::stdout();
        let joined = backend.save(save, &request.work, stdout.as_fd(), events)?;
        if let (true, Some(joined)) = (is_first, joined) {
            is_first = false;
            outcome.manifest = Descriptor {
                media_type: joined.media_type,
                digest: joined.digest,
                size: joined.size,
            };
        }
    }
    Ok(outcome)
}

/// What is stored of each platform; names lead to one of them.
fn in_store(output: &Output, is_named: bool) -> Option<Output> {
    let Output::Image(image) = output else {
        return None;
    };
    let mut image = image.clone();
    // All of them are sent together.
    image.pushing = Pushing::No;
    if !is_named {
        image.names.clear();
    }
    Some(Output::Image(image))
}

fn of_platform(mut failures: Vec<Failure>, platform: &str) -> Vec<Failure> {
    for failure in &mut failures {
        failure.message = format!("{platform}: {}", failure.message);
    }
    failures
}

fn of_platform_too(mut reports: Vec<StepReport>, platform: &str) -> Vec<StepReport> {
    for report in &mut reports {
        report.stage = format!("{platform} {}", report.stage);
    }
    reports
}

/// Tells the steps of one platform from those of the others.
struct OfPlatform<'a> {
    platform: &'a str,
    events: &'a dyn EventSink,
}

impl EventSink for OfPlatform<'_> {
    fn emit(&self, mut event: BuildEvent) {
        if let Some(origin) = event.origin_mut() {
            origin.step = format!("{}/{}", self.platform, origin.step);
            origin.stage = format!("{} {}", self.platform, origin.stage);
        }
        self.events.emit(event);
    }
}
