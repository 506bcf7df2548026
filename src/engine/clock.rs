//! The one place that asks what time it is, so that time can stand still.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time of day: the machine's, or a fixed one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    fixed: Option<Duration>,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self { fixed: None }
    }

    /// A clock that stands still at so many seconds after 1970.
    #[must_use]
    pub const fn fixed(seconds: u64) -> Self {
        Self {
            fixed: Some(Duration::from_secs(seconds)),
        }
    }

    /// The time since the start of 1970, UTC; zero if the machine's clock stands before it.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that everything else is handed"
    )]
    pub fn now(&self) -> Duration {
        self.fixed.unwrap_or_else(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
        })
    }
}
