//! ModelHub from outside, over HTTP.
//!
//! `gateway` runs against engines that misbehave on purpose and needs nothing else. `stack` runs against real stores and
//! engines: those that `MODELHUB_TEST_ETCD`, `MODELHUB_TEST_QDRANT`, `MODELHUB_TEST_CHAT` and `MODELHUB_TEST_EMBED` name (URLs), else
//! our own, started from the binaries that stand beside this test's.

mod engine;
mod gateway;
mod hub;
mod processes;
mod stack;
