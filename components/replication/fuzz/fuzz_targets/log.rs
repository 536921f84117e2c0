#![no_main]
#[path = "../exercise.rs"]
mod exercise;
#[path = "../../src/log/frame.rs"]
#[allow(dead_code)]
mod frame;
#[path = "../../src/log/record.rs"]
#[allow(dead_code)]
mod record;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    exercise::log(data);
});
