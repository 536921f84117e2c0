#![no_main]
#[path = "../exercise/command.rs"]
mod exercise;
#[path = "../../src/mvcc/mod.rs"]
#[allow(dead_code, unused_imports)]
mod mvcc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    exercise::command(data);
});
