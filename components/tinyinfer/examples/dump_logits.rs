//! Writes the logits of every position of a token sequence as little-endian f32, `[tokens × vocab]`, for comparison with other engines:
//! `dump_logits MODEL.gguf TOKENS.u32 LOGITS.f32 [THREADS]`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{File, read};
use std::io::{BufWriter, Write};
use std::path::Path;

use tinyinfer::executor::{LoadOptions, LoadedModel, StepBatch, StepSequence, Want, load};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let threads = args.get(4).map_or(1, |n| n.parse().unwrap());
    let tokens: Vec<u32> =
        read(&args[2]).unwrap().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    let options = LoadOptions { threads, ..LoadOptions::default() };
    let LoadedModel::Generator { mut executor, .. } = load(Path::new(&args[1]), &options).unwrap() else {
        panic!("a generator is needed");
    };
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(options.block_size) as u32).collect();
    let mut out = BufWriter::new(File::create(&args[3]).unwrap());
    for (i, tokens) in tokens.chunks(128).enumerate() {
        let sequence = StepSequence { tokens, start: 128 * i, blocks: &blocks, want: Want::AllLogits };
        let logits = executor.step(&StepBatch { sequences: vec![sequence] }).unwrap().remove(0);
        for value in &logits.values {
            out.write_all(&value.to_le_bytes()).unwrap();
        }
    }
    out.flush().unwrap();
}
