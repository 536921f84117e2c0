#![no_main]
#[path = "../exercise/gateway.rs"]
mod exercise;
#[path = "../../src/etcd/gateway/frames.rs"]
#[allow(dead_code)]
mod frames;
#[path = "../../src/etcd/gateway/json.rs"]
#[allow(dead_code)]
mod json;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    exercise::gateway(data);
});
