//! What an image was made from, so that it can be made again: the request, what its sources were, and what its steps have
//! read. No secret is in it.
//!
//! ```text
//! history/<hex of the image's digest>.recipe     JSON, packed with zstd
//! ```

use serde::{Deserialize, Serialize};

use super::super::BuildRequest;
use crate::digest::{Digest, without_passwords};
use crate::engine::phases::{self, Makings};
use crate::engine::plan::Planned;
use crate::engine::solve::Session;
use crate::engine::work::AgentKind;
use crate::image::Assembled;
use crate::registry;
use crate::ship::export::ImageOutput;
use crate::store::{History, Limits};

/// What a recipe of another shape has another number for.
const VERSION: u32 = 1;
/// How hard it is packed: it is written while somebody waits.
const LEVEL: i32 = 1;

/// What an image was made from.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Recipe {
    version: u32,
    /// The build, with its sources pinned. Without what it did with its result, how servers are reached, and secrets; `None`
    /// where an address in it has a password.
    pub(super) request: Option<BuildRequest>,
    /// How the image was written; `None`: as the store has it.
    pub(super) form: Option<ImageOutput>,
    /// The secrets that it had, by id.
    pub(super) secrets: Vec<String>,
    /// The ssh agents that it had and that hold keys themselves, by id.
    pub(super) keys: Vec<String>,
    /// What its parts were made from.
    pub(super) makings: Vec<(String, Makings)>,
    /// The image's manifest.
    pub(super) manifest: String,
    /// Its configuration.
    pub(super) config: String,
}

/// Writes down what an image was made from. That fails no build.
pub(super) fn note(
    request: &BuildRequest,
    session: &Session<'_>,
    planned: &Planned,
    image: &Assembled,
    form: Option<&ImageOutput>,
) {
    let mut work = session.work.clone();
    let secrets = work.secrets.drain(..).map(|secret| secret.id).collect();
    let mut keys = Vec::new();
    work.agents.retain(|agent| match agent.who {
        AgentKind::Keys(_) => {
            keys.push(agent.id.clone());
            false
        }
        AgentKind::Forwarded(_) | AgentKind::Raw(_) => true,
    });
    work.registries = registry::Settings::default();
    work.proxies = Vec::new();
    let Ok(lock) = session.pinned_lock(planned) else {
        return;
    };
    work.lock = Some(lock);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut recipe = Recipe {
        version: VERSION,
        request: Some(BuildRequest {
            store: request.store.clone(),
            work,
            platforms: request.platforms.clone(),
            tags: Vec::new(),
            outputs: Vec::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            needs_files: true,
            limits: Limits::default(),
        }),
        form: form.cloned(),
        secrets,
        keys,
        makings: phases::makings(session, planned),
        manifest: text(&image.manifest_bytes),
        config: text(&image.config_bytes),
    };
    let asked = serde_json::to_string(&recipe.request).unwrap_or_default();
    if without_passwords(&asked) != asked {
        recipe.request = None;
    }
    let Ok(written) = serde_json::to_vec(&recipe) else {
        return;
    };
    if let Ok(packed) = zstd::encode_all(written.as_slice(), LEVEL) {
        drop(History::of(&request.store).put_recipe(&image.digest(), &packed));
    }
}

/// What an image was made from, if that was written down by this version.
pub(super) fn read(history: &History, image: &Digest) -> Option<Recipe> {
    let packed = history.recipe(image).ok()??;
    let written = zstd::decode_all(packed.as_slice()).ok()?;
    let recipe: Recipe = serde_json::from_slice(&written).ok()?;
    (recipe.version == VERSION).then_some(recipe)
}
