//! What the users phase has to know: who USER is to be.

use serde_json::{Value, json};

use super::check::Habitat;

/// The values of the step that makes USER; `None` where there is nothing to make: root is in every image.
pub(super) fn step(habitat: &Habitat) -> Option<Value> {
    if habitat.user == "root" {
        return None;
    }
    let number = |name: &str| {
        habitat
            .environment
            .get(name)
            .and_then(|entry| entry.known())
    };
    Some(json!({
        "user_name": habitat.user,
        "home": habitat.home,
        "uid": number("UID").unwrap_or_default(),
        "gid": number("GID").unwrap_or_default(),
        "home_is_assumed": habitat.environment.get("HOME").is_none(),
    }))
}
