//! The same logits to the last bit, however a sequence is run.
#![allow(clippy::unwrap_used, missing_docs)]

mod models;

use models::{smollm2, smollm2_on};
use tinyinfer::executor::{Executor, ExecutorError, StepBatch, StepSequence, Want};
use tinykernels::cpu::Cpu;
use tinykernels::cpu::isa::Isa;

/// Tokens that differ from sequence to sequence.
fn tokens(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 7919) >> 9) % 49_152).collect()
}

/// The logits after the last token, run in chunks that end at `cuts` and then the end.
fn run(executor: &mut dyn Executor, tokens: &[u32], blocks: &[u32], cuts: &[usize]) -> Vec<f32> {
    let mut start = 0;
    let mut last = Vec::new();
    for &end in cuts.iter().chain(&[tokens.len()]) {
        let want = if end == tokens.len() { Want::LastLogits } else { Want::None };
        let sequence = StepSequence { tokens: &tokens[start..end], start, blocks, want };
        let result = executor.step(&StepBatch { sequences: vec![sequence] }).unwrap();
        if let Some(logits) = result.first() {
            last = logits.last().to_vec();
        }
        start = end;
    }
    last
}

fn same(a: &[f32], b: &[f32], what: &str) {
    let differ = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert!(a.len() == b.len() && differ == 0, "{what}: {differ} of {} logits differ", a.len());
}

#[test]
fn chunks_blocks_and_threads_change_no_bit() {
    let text = tokens(1, 203);
    let blocks: Vec<u32> = (0..13).collect();
    let scattered: Vec<u32> = (0..13).map(|i| (i * 37 + 11) % 200).collect();
    let mut executor = smollm2(1);
    let whole = run(&mut executor, &text, &blocks, &[]);
    same(&run(&mut executor, &text, &scattered, &[]), &whole, "scattered blocks");
    same(&run(&mut executor, &text, &scattered, &[1, 17, 100, 101, 202]), &whole, "chunks");
    let one_by_one: Vec<usize> = (150..203).collect();
    same(&run(&mut executor, &text, &blocks, &one_by_one), &whole, "decoded one by one");
    for threads in [2, 5] {
        let mut executor = smollm2(threads);
        same(&run(&mut executor, &text, &blocks, &[]), &whole, "threads");
        same(&run(&mut executor, &text, &blocks, &[90, 202]), &whole, "threads and chunks");
    }
    let mut wide = smollm2_on(Cpu::new(1), 32);
    same(&run(&mut wide, &text, &(0..7).collect::<Vec<_>>(), &[64]), &whole, "blocks of 32");
}

#[test]
fn a_sequence_in_a_batch_of_sixteen_is_the_same_as_alone() {
    let mut executor = smollm2(2);
    let texts: Vec<Vec<u32>> = (0..16).map(|s| tokens(s + 2, 5 + 3 * s as usize)).collect();
    let tables: Vec<Vec<u32>> = (0..16).map(|s| (0..8).map(|b| s * 8 + b).collect()).collect();
    let alone: Vec<Vec<f32>> =
        texts.iter().map(|text| run(&mut executor, text, &(200..208).collect::<Vec<_>>(), &[])).collect();
    // All prompts but their last tokens together, then all last tokens together: a mixed prefill and a decode of sixteen.
    for (from_end, want) in [(1, Want::None), (0, Want::LastLogits)] {
        let sequences = texts.iter().zip(&tables).map(|(text, blocks)| {
            let n = text.len();
            let (start, end) = if from_end == 1 { (0, n - 1) } else { (n - 1, n) };
            StepSequence { tokens: &text[start..end], start, blocks, want }
        });
        let result = executor.step(&StepBatch { sequences: sequences.collect() }).unwrap();
        for logits in &result {
            same(logits.last(), &alone[logits.sequence], "in a batch");
            assert_eq!(logits.position, texts[logits.sequence].len() - 1);
        }
        assert_eq!(result.len(), if from_end == 1 { 0 } else { 16 });
    }
    // A long prompt and decodes in one step.
    let long = tokens(99, 180);
    let mut sequences: Vec<StepSequence<'_>> = texts
        .iter()
        .zip(&tables)
        .map(|(text, blocks)| {
            let n = text.len();
            StepSequence { tokens: &text[n - 1..], start: n - 1, blocks, want: Want::LastLogits }
        })
        .collect();
    let blocks: Vec<u32> = (210..222).collect();
    sequences.insert(7, StepSequence { tokens: &long, start: 0, blocks: &blocks, want: Want::LastLogits });
    let result = executor.step(&StepBatch { sequences }).unwrap();
    let long_alone = run(&mut executor, &long, &(230..242).collect::<Vec<_>>(), &[]);
    for (i, logits) in result.iter().enumerate() {
        let want = match i {
            7 => &long_alone,
            _ => &alone[if i < 7 { i } else { i - 1 }],
        };
        same(logits.last(), want, "mixed with a prompt");
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let text = tokens(5, 20);
    let mut first: Option<Vec<f32>> = None;
    for isa in Isa::ALL.into_iter().rev() {
        let Some(cpu) = Cpu::with_isa(2, isa) else { continue };
        let mut executor = smollm2_on(cpu, 16);
        let logits = run(&mut executor, &text, &[1, 2], &[18]);
        same(&logits, first.get_or_insert_with(|| logits.clone()), isa.name());
    }
}

#[test]
fn all_logits_are_the_last_logits_of_each_prefix_and_copied_blocks_serve() {
    let text = tokens(6, 40);
    let blocks = [4, 9, 2];
    let mut executor = smollm2(1);
    let sequence = StepSequence { tokens: &text, start: 0, blocks: &blocks, want: Want::AllLogits };
    let all = executor.step(&StepBatch { sequences: vec![sequence] }).unwrap().remove(0);
    assert_eq!(all.rows().len(), 40);
    for end in [1, 16, 33] {
        let want = run(&mut executor, &text[..end], &[7, 6, 5], &[]);
        same(all.rows().nth(end - 1).unwrap(), &want, "prefix");
    }
    executor.copy_blocks(&[(4, 14), (9, 19), (2, 12)]).unwrap();
    let sequence =
        StepSequence { tokens: &text[39..], start: 39, blocks: &[14, 19, 12], want: Want::LastLogits };
    let again = executor.step(&StepBatch { sequences: vec![sequence] }).unwrap().remove(0);
    same(again.last(), all.last(), "copied blocks");
}

#[test]
fn steps_that_do_not_hold_together_are_refused_and_change_nothing() {
    let mut executor = smollm2(1);
    let text = tokens(7, 20);
    let before = run(&mut executor, &text, &[0, 1], &[]);
    let n_blocks = executor.config().n_blocks as u32;
    let mut step = |tokens: &[u32], start: usize, blocks: &[u32]| {
        let sequence = StepSequence { tokens, start, blocks, want: Want::LastLogits };
        executor.step(&StepBatch { sequences: vec![sequence] }).unwrap_err()
    };
    assert!(matches!(step(&[], 0, &[0]), ExecutorError::EmptySequence { sequence: 0 }));
    assert!(matches!(step(&[49_152], 0, &[0]), ExecutorError::UnknownToken { token: 49_152, .. }));
    assert!(matches!(step(&[1], usize::MAX, &[0]), ExecutorError::ContextExceeded { .. }));
    assert!(matches!(step(&[1], 16, &[0]), ExecutorError::TooFewBlocks { needed: 2, given: 1, .. }));
    assert!(matches!(step(&[1], 0, &[n_blocks]), ExecutorError::UnknownBlock { .. }));
    assert!(executor.copy_blocks(&[(0, n_blocks)]).is_err());
    let sequence = StepSequence { tokens: &text[19..], start: 19, blocks: &[0, 1], want: Want::LastLogits };
    let after = executor.step(&StepBatch { sequences: vec![sequence] }).unwrap();
    same(after[0].last(), &before, "after refusals");
}
