//! Drawing tokens, for [`super`].

use std::ffi::{c_int, c_void};

use tinykernels::cuda::{Logits, Penalties, SamplingParameters, sample, start_counts};

use super::{Handle, input, output, status, stream};

/// Extents and addresses of a sampling call. `bitmask` null allows every token, `counts` null is without penalties.
#[repr(C)]
pub struct Sample {
    token: u64,
    log_probability: u64,
    logits: u64,
    bitmask: u64,
    temperature: u64,
    top_p: u64,
    min_p: u64,
    top_k: u64,
    seed: u64,
    repetition: u64,
    presence: u64,
    frequency: u64,
    slot: u64,
    counts: u64,
    rows: usize,
    stride: usize,
    vocabulary: usize,
    mask_words: usize,
    slots: usize,
    counts_stride: usize,
    half_precision: c_int,
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_sample(handle: *const Handle, queue: *mut c_void, s: *const Sample) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let s = &*s;
        let shape = [s.rows, s.stride];
        let logits = if s.half_precision == 0 {
            Logits::F32(input(s.logits, shape))
        } else {
            Logits::Bf16(input(s.logits, shape))
        };
        let mask = (s.bitmask != 0).then(|| input(s.bitmask, [s.rows, s.mask_words]));
        let parameters = SamplingParameters {
            temperature: input(s.temperature, [s.rows]),
            top_p: input(s.top_p, [s.rows]),
            min_p: input(s.min_p, [s.rows]),
            top_k: input(s.top_k, [s.rows]),
            seed: input(s.seed, [s.rows]),
        };
        let mut counts = output(s.counts, [s.slots, s.counts_stride]);
        let penalties = (s.counts != 0).then(|| Penalties {
            repetition: input(s.repetition, [s.rows]),
            presence: input(s.presence, [s.rows]),
            frequency: input(s.frequency, [s.rows]),
            slot: input(s.slot, [s.rows]),
            counts: &mut counts,
        });
        let (mut token, mut log_probability) =
            (output(s.token, [s.rows]), output(s.log_probability, [s.rows]));
        let drawn = (&mut token, &mut log_probability);
        status(sample(
            &stream(handle, queue),
            drawn,
            logits,
            s.vocabulary,
            mask,
            parameters,
            penalties.as_ref(),
        ))
    }
}

/// # Safety
/// Pointers as the shapes say, on the handle's GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tk_start_counts(
    handle: *const Handle,
    queue: *mut c_void,
    counts: u64,
    slots: usize,
    stride: usize,
    slot: usize,
    prompt: u64,
    tokens: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let mut counts = output(counts, [slots, stride]);
        status(start_counts(&super::stream(handle, queue), &mut counts, slot, input(prompt, [tokens])))
    }
}
