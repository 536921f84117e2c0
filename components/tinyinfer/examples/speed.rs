//! Times prefill and decode of a GGUF file, or an embedding, as one JSON line. With one thread the time is CPU time, which a busy
//! machine disturbs less than the clock on the wall.
//!
//! `speed generate MODEL.gguf THREADS PROMPT DECODE REPEATS` or `speed embed FOLDER THREADS TOKENS REPEATS`
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout, clippy::panic)]

use std::path::Path;
use std::time::Instant;

use tinyinfer::executor::{
    Embedder, Executor, LoadOptions, LoadedModel, StepBatch, StepSequence, Want, load,
};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize| args[i].parse::<usize>().unwrap();
    let options = LoadOptions { threads: number(3), ..LoadOptions::default() };
    match (args[1].as_str(), load(Path::new(&args[2]), &options).unwrap()) {
        ("generate", LoadedModel::Generator { mut executor, .. }) => {
            generate(executor.as_mut(), number(4), number(5), number(6));
        }
        ("embed", LoadedModel::Embedder { embedder, .. }) => {
            embed(embedder.as_ref(), number(3), number(4), number(5));
        }
        _ => panic!("generate takes a generator, embed an encoder"),
    }
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid timespec to write to.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    assert_eq!(rc, 0, "the thread's CPU clock");
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Seconds that `work` takes: of this thread's CPU time when it computes alone, else of wall time.
fn timed(threads: usize, work: impl FnOnce()) -> f64 {
    if threads == 1 {
        let began = cpu_seconds();
        work();
        return cpu_seconds() - began;
    }
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 1000 + (i.wrapping_mul(2_654_435_761) >> 12) % 20_000).collect()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn generate(executor: &mut dyn Executor, prompt: usize, decode: usize, repeats: usize) {
    let threads = executor.config().threads;
    let text = tokens(prompt + decode);
    let blocks: Vec<u32> = (0..(prompt + decode).div_ceil(executor.config().block_size) as u32).collect();
    let mut step = |start: usize, end: usize| {
        let sequence =
            StepSequence { tokens: &text[start..end], start, blocks: &blocks, want: Want::LastLogits };
        executor.step(&StepBatch { sequences: vec![sequence] }).unwrap();
    };
    let (mut prefill, mut decoding) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        prefill.push(timed(threads, || step(0, prompt)));
        decoding.extend((prompt..prompt + decode).map(|i| timed(threads, || step(i, i + 1))));
    }
    let best = prefill.iter().copied().fold(f64::MAX, f64::min);
    let fastest = decoding.iter().copied().fold(f64::MAX, f64::min);
    println!(
        "{{\"prefill_tok_s\":{:.1},\"prefill_best\":{:.1},\"decode_tok_s\":{:.1},\"decode_best\":{:.1}}}",
        prompt as f64 / median(prefill),
        prompt as f64 / best,
        1.0 / median(decoding),
        1.0 / fastest
    );
}

fn embed(embedder: &dyn Embedder, threads: usize, n: usize, repeats: usize) {
    let text = tokens(n);
    let run = || drop(embedder.embed(std::slice::from_ref(&text)).unwrap());
    let seconds: Vec<f64> = (0..repeats).map(|_| timed(threads, run)).collect();
    let best = seconds.iter().copied().fold(f64::MAX, f64::min);
    println!("{{\"embed_ms\":{:.3},\"embed_best_ms\":{:.3}}}", 1e3 * median(seconds), 1e3 * best);
}
