//! The embedded kernel images and the functions in them.

use std::ffi::CString;

use cudarc::driver::{result, sys};

use super::error::CudaError;

#[allow(non_upper_case_globals)] // named as their sources
mod images {
    //! Compiled by build.rs from kernels/cuda.
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}

/// A kernel of a loaded image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel(pub sys::CUfunction);

// SAFETY: a CUfunction is an immutable handle, usable from every thread with the context bound.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

macro_rules! kernels {
    ($($image:ident { $($kernel:ident),* $(,)? })*) => {
        /// Every kernel the Rust side launches, by name.
        #[derive(Debug)]
        pub(super) struct Modules { $($(pub $kernel: Kernel,)*)* }

        impl Modules {
            /// Loads every image into the current context.
            pub fn load() -> Result<Self, CudaError> {
                $(let $image = load_image(stringify!($image), images::$image)?;)*
                Ok(Self { $($($kernel: function(stringify!($image), $image, stringify!($kernel))?,)*)* })
            }
        }
    };
}

kernels! {
    norm { add_rms_norm_1, add_rms_norm_2, add_rms_norm_4, rms_norm_1, rms_norm_2, rms_norm_4 }
    activation { silu_mul_1, silu_mul_2, silu_mul_4, gelu_erf, gelu_tanh, gelu_gradient_erf, gelu_gradient_tanh }
    layer_norm {
        add_layer_norm_1, add_layer_norm_2, add_layer_norm_4, layer_norm_1, layer_norm_2, layer_norm_4,
    }
    norm_gradient {
        rms_norm_gradient_1, rms_norm_gradient_2, layer_norm_gradient_1, add_slots,
    }
    softmax {
        softmax_bf16_1, softmax_bf16_2, softmax_bf16_4, softmax_bf16_long,
        softmax_f32_1, softmax_f32_2, softmax_f32_4, softmax_f32_long,
    }
    softmax_gradient {
        softmax_gradient_bf16_1, softmax_gradient_bf16_2, softmax_gradient_bf16_long,
        softmax_gradient_f32_1, softmax_gradient_f32_2, softmax_gradient_f32_long,
    }
    cross_entropy {
        cross_entropy_bf16, cross_entropy_f32, cross_entropy_gradient_bf16, cross_entropy_gradient_f32,
    }
    embedding { embedding }
    paged_decode {
        paged_decode_g1, paged_decode_g2, paged_decode_g4, paged_decode_g8,
        paged_decode_d64_g1, paged_decode_d64_g2, paged_decode_d64_g4, paged_decode_d64_g8,
        paged_decode_e4m3_g1, paged_decode_e4m3_g2, paged_decode_e4m3_g4, paged_decode_e4m3_g8,
        paged_decode_e4m3_d64_g1, paged_decode_e4m3_d64_g2, paged_decode_e4m3_d64_g4, paged_decode_e4m3_d64_g8,
    }
    prefill {
        prefill_d64, prefill_d64_cap, prefill_paged_d64, prefill_paged_d64_cap,
        prefill_d128, prefill_d128_cap, prefill_paged_d128, prefill_paged_d128_cap,
    }
    gradient {
        attention_gradient_keys_d64, attention_gradient_keys_d128, attention_gradient_queries_d64, attention_gradient_queries_d128,
        attention_gradient_keys_d64_cap, attention_gradient_keys_d128_cap,
        attention_gradient_queries_d64_cap, attention_gradient_queries_d128_cap,
        attention_statistics_d64, attention_statistics_d128,
    }
    rope_cache {
        rope_cache_d64, rope_cache_d128, rope_cache_norm_d64, rope_cache_norm_d128,
        rope_cache_e4m3_d64, rope_cache_e4m3_d128, rope_cache_e4m3_norm_d64, rope_cache_e4m3_norm_d128,
    }
    sample { sample_f32, sample_bf16, mark_prompt }
    weight_only {
        w4a16_m8, w4a16_m16, w4a16_m32, w4a16_wide_m32, w4a16_wide_m64,
        w8a16_m8, w8a16_m16, w8a16_m32, w8a16_wide_m32, w8a16_wide_m64,
        w4a16_pair_m64, w8a16_pair_m64,
    }
    linear_bf16 {
        linear_bf16_64, linear_bf16_96, linear_bf16_128, linear_bf16_160, linear_bf16_192, linear_bf16_224, linear_bf16_256,
    }
    linear_fused {
        linear_bf16_fused_64, linear_bf16_fused_128, linear_bf16_fused_192, linear_bf16_fused_256,
        linear_bf16_fused_few_8, linear_bf16_fused_few_16, linear_bf16_fused_few_32, linear_bf16_fused_few_64,
        linear_f16_fused_64, linear_f16_fused_128, linear_f16_fused_192, linear_f16_fused_256,
        linear_f16_fused_few_8, linear_f16_fused_few_16, linear_f16_fused_few_32, linear_f16_fused_few_64,
    }
    linear_8bit {
        linear_e4m3_64, linear_e4m3_128, linear_e4m3_192, linear_e4m3_256,
        linear_e4m3_few_8, linear_e4m3_few_16, linear_e4m3_few_32, linear_e4m3_few_64,
        linear_int8_64, linear_int8_128, linear_int8_192, linear_int8_256,
        linear_int8_few_8, linear_int8_few_16, linear_int8_few_32, linear_int8_few_64,
    }
    linear_block { linear_block_128, linear_block_few_8, linear_block_few_16, linear_block_few_32, linear_block_few_64 }
    quantize {
        quantize_rows_1, quantize_rows_2, quantize_rows_4,
        rms_norm_quantize_1, rms_norm_quantize_2, rms_norm_quantize_4,
        add_rms_norm_quantize_1, add_rms_norm_quantize_2, add_rms_norm_quantize_4,
        silu_mul_quantize_1, silu_mul_quantize_2, silu_mul_quantize_4,
    }
    linear_sparse { linear_sparse_16, linear_sparse_64, linear_sparse_128, linear_sparse_256 }
    linear_few { linear_few_8, linear_few_16, linear_few_32, linear_few_64 }
    reduce { reduce_sum, reduce_max, reduce_min }
    scan { scan_inclusive, scan_exclusive }
    histogram { histogram }
    transpose { transpose_16, transpose_32 }
    topk { topk_f32 }
    sort { radix_histogram, radix_starts, radix_pass_keys, radix_pass_pairs }
}

fn load_image(module: &'static str, image: &'static [u8]) -> Result<sys::CUmodule, CudaError> {
    // SAFETY: the image is a complete ELF that nvcc wrote; the driver copies it.
    unsafe { result::module::load_data(image.as_ptr().cast()) }
        .map_err(|e| CudaError::Module { module, source: e.into() })
}

fn function(module: &'static str, loaded: sys::CUmodule, name: &'static str) -> Result<Kernel, CudaError> {
    let symbol = CString::new(name).expect("kernel names hold no NUL");
    // SAFETY: the module was just loaded and is never unloaded: it goes with the primary context.
    unsafe { result::module::get_function(loaded, symbol) }
        .map(Kernel)
        .map_err(|e| CudaError::Module { module, source: e.into() })
}
