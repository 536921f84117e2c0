#![no_main]
#[path = "../../src/bbolt/mod.rs"]
#[allow(dead_code, unused_imports)]
mod bbolt;
#[path = "../exercise/bbolt.rs"]
mod exercise;

use std::path::PathBuf;
use std::sync::LazyLock;

/// In memory, where there is such a place.
static SCRATCH: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("bbolt-{}", std::process::id()))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    exercise::bbolt(data, &SCRATCH);
});
