//! The parts of shmocker that read what strangers write, without those that need a network, a store or a kernel: so the
//! fuzzer has little to compile.

#[path = "../../src/digest.rs"]
pub mod digest;
#[path = "../../src/dockerfile/mod.rs"]
pub mod dockerfile;
#[path = "../../src/event.rs"]
pub mod event;
#[path = "../../src/frontend/mod.rs"]
pub mod frontend;
#[path = "../../src/graph/mod.rs"]
pub mod graph;
#[path = "../../src/image/mod.rs"]
pub mod image;
