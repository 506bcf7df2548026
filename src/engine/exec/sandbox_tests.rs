//! What is made of how a container ended.

use super::*;
use crate::engine::work::Resources;
use crate::sys::file::tempdir::TempDir;

#[test]
fn who_fails_where_memory_was_used_up_is_told_so() {
    let place = TempDir::new();
    let resources = Resources {
        memory_bytes: Some(64 << 20),
        ..Resources::default()
    };
    let group = Group::make(place.path(), &resources).unwrap();
    let made = std::fs::read_dir(place.path()).unwrap().next();
    let events = made.unwrap().unwrap().path().join("memory.events");
    std::fs::write(&events, "oom 0\noom_kill 0\n").unwrap();
    let judge = |ended| judged(ended, Some(&group));
    assert_eq!(judge(Ended::Exited(137)), Exit::Status(137));
    std::fs::write(&events, "oom 1\noom_kill 1\n").unwrap();
    let out_of_memory = Exit::OutOfMemory {
        status: 137,
        limit_bytes: Some(64 << 20),
    };
    assert_eq!(judge(Ended::Exited(137)), out_of_memory);
    assert_eq!(judge(Ended::Killed(9)), out_of_memory);
    // One that did without the process that was killed is none the worse.
    assert_eq!(judge(Ended::Exited(0)), Exit::Status(0));
    assert_eq!(judged(Ended::Killed(9), None), Exit::Killed(9));
}
