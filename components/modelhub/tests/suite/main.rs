//! ModelHub from outside, over HTTP.
//!
//! `gateway` and `grpc` run against engines that misbehave on purpose and need nothing else. `stack` runs against real stores and
//! engines: those that `HUB_TEST_ETCD`, `HUB_TEST_QDRANT`, `HUB_TEST_CHAT` and `HUB_TEST_EMBED` name (URLs), else
//! our own, started from the binaries that stand beside this test's.

mod bad_input;
mod canaries;
mod certificates;
mod commands;
mod engine;
mod faults;
mod gateway;
mod grpc;
mod hub;
mod passages;
mod pdf;
mod pods;
mod processes;
mod renewed;
mod s3;
mod small_disk;
mod stack;
mod tls;
mod traffic;
