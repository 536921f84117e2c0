//! The real models against golden files written by Hugging Face's implementations (`e2e/peers/transformers/golden.py`).
#![allow(clippy::unwrap_used, missing_docs)]

mod models;

use std::io::{Cursor, Read};
use std::path::PathBuf;

use models::{all_minilm, model_path, smollm2};
use tinyinfer::executor::{Executor, LoadOptions, StepBatch, StepSequence, Want};
use tinyinfer::gguf::Gguf;
use tinyinfer::model::llama::Llama;
use tinyinfer::tokenizer::Tokenizer;

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(&path).unwrap()
}

/// Little-endian arrays, one after the other.
struct Arrays(Cursor<Vec<u8>>);

impl Arrays {
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }
    fn u32(&mut self, n: usize) -> Vec<u32> {
        self.bytes(4 * n).chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }
    fn u16(&mut self, n: usize) -> Vec<u32> {
        self.bytes(2 * n).chunks(2).map(|b| u32::from(u16::from_le_bytes(b.try_into().unwrap()))).collect()
    }
    fn f32(&mut self, n: usize) -> Vec<f32> {
        self.bytes(4 * n).chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

struct TeacherForced {
    tokens: Vec<u32>,
    top_ids: Vec<u32>,
    top: Vec<f32>,
    log_sum_exp: Vec<f32>,
    samples: Vec<f32>,
}

/// `(logits kept of each position, columns sampled, sequences)`
fn teacher_forced() -> (usize, Vec<u32>, Vec<TeacherForced>) {
    let mut file = Arrays(Cursor::new(golden("teacher_forced.bin")));
    let head = file.u32(3);
    let (count, top, samples) = (head[0] as usize, head[1] as usize, head[2] as usize);
    let columns = file.u32(samples);
    let sequences = (0..count).map(|_| {
        let n = file.u32(1)[0] as usize;
        TeacherForced {
            tokens: file.u16(n),
            top_ids: file.u16(n * top),
            top: file.f32(n * top),
            log_sum_exp: file.f32(n),
            samples: file.f32(n * samples),
        }
    });
    (top, columns, sequences.collect())
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::MIN, f32::max);
    f64::from(max) + row.iter().map(|v| f64::from(v - max).exp()).sum::<f64>().ln()
}

fn argmax(row: &[f32]) -> u32 {
    let best =
        row.iter().enumerate().fold((0, f32::MIN), |best, (i, &v)| if v > best.1 { (i, v) } else { best });
    best.0 as u32
}

#[test]
fn teacher_forced_logits_follow_transformers() {
    let (top, columns, sequences) = teacher_forced();
    let mut executor = smollm2(2);
    let (mut agree, mut positions, mut kl) = (0usize, 0usize, 0f64);
    let (mut difference, mut size) = (0f64, 0f64);
    for golden in &sequences {
        let blocks: Vec<u32> = (0..golden.tokens.len().div_ceil(16) as u32).collect();
        for start in (0..golden.tokens.len()).step_by(256) {
            let tokens = &golden.tokens[start..(start + 256).min(golden.tokens.len())];
            let sequence = StepSequence { tokens, start, blocks: &blocks, want: Want::AllLogits };
            let result = executor.step(&StepBatch { sequences: vec![sequence] }).unwrap();
            for (i, row) in result[0].rows().enumerate() {
                let at = start + i;
                let (ids, theirs) = (&golden.top_ids[at * top..][..top], &golden.top[at * top..][..top]);
                agree += usize::from(argmax(row) == ids[0]);
                positions += 1;
                let (their_sum, our_sum) = (f64::from(golden.log_sum_exp[at]), log_sum_exp(row));
                let (mut rest_p, mut rest_q) = (1f64, 1f64);
                for (&id, &theirs) in ids.iter().zip(theirs) {
                    let (p, q) = (f64::from(theirs) - their_sum, f64::from(row[id as usize]) - our_sum);
                    kl += p.exp() * (p - q);
                    rest_p -= p.exp();
                    rest_q -= q.exp();
                    difference += f64::from(row[id as usize] - theirs).powi(2);
                    size += f64::from(theirs).powi(2);
                }
                kl += rest_p.max(1e-9) * (rest_p.max(1e-9) / rest_q.max(1e-9)).ln();
                for (&column, &theirs) in columns.iter().zip(&golden.samples[at * columns.len()..]) {
                    difference += f64::from(row[column as usize] - theirs).powi(2);
                    size += f64::from(theirs).powi(2);
                }
            }
        }
    }
    let (relative, agreement) = ((difference / size).sqrt(), agree as f64 / positions as f64);
    let kl = kl / positions as f64;
    println!(
        "{positions} positions: rel-L2 {relative:.2e}, top-1 agreement {agreement:.5}, mean KL {kl:.2e}"
    );
    assert!(positions >= 2000);
    assert!(relative < 2e-3, "rel-L2 {relative}");
    assert!(agreement >= 0.998, "top-1 agreement {agreement}");
    assert!(kl < 1e-4, "mean KL {kl}");
}

#[test]
fn every_layer_follows_transformers() {
    let mut file = Arrays(Cursor::new(golden("layers.bin")));
    let head = file.u32(3);
    let (states, positions, columns) = (head[0] as usize, head[1] as usize, head[2] as usize);
    let (at, column) = (file.u32(positions), file.u32(columns));
    let want: Vec<Vec<f32>> = (0..states).map(|_| file.f32(positions * columns)).collect();
    let (_, _, sequences) = teacher_forced();
    let tokens = &sequences.last().unwrap().tokens;
    let mut executor = smollm2(1);
    let hidden = executor.config().hidden;
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(16) as u32).collect();
    let mut got = vec![vec![f32::NAN; positions * columns]; states];
    executor
        .trace(tokens, &blocks, |first, layer, stream| {
            for (i, &p) in at.iter().enumerate() {
                let Some(row) = (p as usize).checked_sub(first).and_then(|r| stream.chunks(hidden).nth(r))
                else {
                    continue;
                };
                for (j, &c) in column.iter().enumerate() {
                    got[layer][i * columns + j] = row[c as usize];
                }
            }
        })
        .unwrap();
    // The last state of the golden file is normed, ours is not: the logits test covers it.
    for (layer, (got, want)) in got.iter().zip(&want).enumerate().take(states - 1) {
        let difference: f64 = got.iter().zip(want).map(|(g, w)| f64::from(g - w).powi(2)).sum();
        let size: f64 = want.iter().map(|w| f64::from(*w).powi(2)).sum();
        let relative = (difference / size).sqrt();
        println!("layer {layer}: rel-L2 {relative:.2e}");
        assert!(relative < 1e-2, "layer {layer}: rel-L2 {relative:.2e}");
    }
}

#[test]
fn embeddings_follow_sentence_transformers() {
    let texts: Vec<String> = serde_json::from_slice(&golden("texts.json")).unwrap();
    let texts: Vec<&String> = texts.iter().filter(|t| !t.is_empty()).collect();
    let (model, tokenizer) = all_minilm(1);
    let mut want = Arrays(Cursor::new(golden("embeddings.bin")));
    let mut batch: Vec<Vec<u32>> = texts.iter().map(|t| tokenizer.encode(t, true).unwrap().ids).collect();
    for ids in &mut batch {
        let limit = model.max_tokens();
        if ids.len() > limit {
            let end = ids[ids.len() - 1];
            ids.truncate(limit - 1);
            ids.push(end);
        }
    }
    let together = model.embed(&batch).unwrap();
    let mut worst = 1f64;
    for ((ids, vector), text) in batch.iter().zip(&together).zip(&texts) {
        assert_eq!(
            model.embed(std::slice::from_ref(ids)).unwrap()[0],
            *vector,
            "alone and in a batch: {text:?}"
        );
        let want = want.f32(model.dimension());
        let dot: f64 = vector.iter().zip(&want).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        worst = worst.min(dot / length(vector) / length(&want));
    }
    println!("{} texts: worst cosine {worst:.8}", texts.len());
    assert!(worst >= 0.9999, "cosine {worst}");
}

#[test]
fn tokens_equal_hugging_face() {
    #[derive(serde::Deserialize)]
    struct Golden {
        smollm2: Vec<Vec<u32>>,
        minilm: Vec<Vec<u32>>,
    }
    let texts: Vec<String> = serde_json::from_slice(&golden("texts.json")).unwrap();
    let want: Golden = serde_json::from_slice(&golden("tokens.json")).unwrap();
    let gguf = Gguf::open(&model_path("smollm2-135m-instruct/model.gguf")).unwrap();
    let smollm2 = Tokenizer::from_gguf(&gguf.header).unwrap();
    let minilm = Tokenizer::from_json(&model_path("all-minilm-l6-v2/tokenizer.json")).unwrap();
    for ((text, smollm2_ids), minilm_ids) in texts.iter().zip(&want.smollm2).zip(&want.minilm) {
        assert_eq!(&smollm2.encode(text, false).unwrap().ids, smollm2_ids, "{text:?}");
        assert_eq!(&minilm.encode(text, true).unwrap().ids, minilm_ids, "{text:?}");
        assert_eq!(&smollm2.decode(smollm2_ids, false).unwrap(), text);
    }
    assert_eq!(smollm2.eos(), [0, 2]);
    assert!(smollm2.is_special(2) && !smollm2.is_special(200));
    assert_eq!(smollm2.token(2).as_deref(), Some("<|im_end|>"));
}

#[test]
fn the_file_is_described_as_it_is() {
    let executor = smollm2(1);
    let config = executor.config();
    assert_eq!((config.layers, config.hidden, config.vocab), (30, 576, 49152));
    assert_eq!((config.weight_type.as_str(), config.parameters), ("Q4_1", 134_515_008));
    let gguf = Gguf::open(&model_path("smollm2-135m-instruct/model.gguf")).unwrap();
    let model = Llama::load(gguf, &model_path("smollm2-135m-instruct/model.gguf")).unwrap();
    assert_eq!(model.sizes.context, 8192);
    assert_eq!(LoadOptions::default().block_size, config.block_size);
}
