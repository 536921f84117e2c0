//! The embedded kernel images and the functions in them.

use std::ffi::CString;
use std::path::Path;

use cudarc::driver::{result, sys};

use super::error::{CudaError, DriverFault};

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
            /// Loads every image into the current context: out of `folder` where it has one of that name, else the embedded one.
            pub fn load(folder: Option<&Path>) -> Result<Self, CudaError> {
                $(let $image = load_image(stringify!($image), images::$image, folder)?;)*
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
    read_pages { read_pages }
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
        linear_bf16_32, linear_bf16_64, linear_bf16_96, linear_bf16_128, linear_bf16_160, linear_bf16_192, linear_bf16_224, linear_bf16_256,
    }
    linear_fused {
        linear_bf16_fused_64, linear_bf16_fused_128, linear_bf16_fused_192, linear_bf16_fused_256,
        linear_bf16_fused_few_8, linear_bf16_fused_few_16, linear_bf16_fused_few_32, linear_bf16_fused_few_64,
        linear_f16_fused_64, linear_f16_fused_128, linear_f16_fused_192, linear_f16_fused_256,
        linear_f16_fused_few_8, linear_f16_fused_few_16, linear_f16_fused_few_32, linear_f16_fused_few_64,
    }
    linear_8bit {
        linear_e4m3_64, linear_e4m3_96, linear_e4m3_128, linear_e4m3_160, linear_e4m3_192, linear_e4m3_224, linear_e4m3_256,
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

fn load_image(
    module: &'static str,
    embedded: &'static [u8],
    folder: Option<&Path>,
) -> Result<sys::CUmodule, CudaError> {
    let refuse = |name: &str, meaning: String| CudaError::Module {
        module,
        source: DriverFault { name: name.into(), meaning },
    };
    let found = match folder.map(|f| std::fs::read(f.join(module).with_extension("cubin"))) {
        Some(Ok(bytes)) => Some(bytes),
        // One that is not there stays the embedded one, but not all of them because the folder is not.
        Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound || folder.is_some_and(|f| !f.is_dir()) => {
            return Err(refuse("not read", format!("{}: {e}", folder.unwrap_or(Path::new("")).display())));
        }
        _ => None,
    };
    let image = found.as_deref().unwrap_or(embedded);
    if let Some(reason) = not_whole(image) {
        return Err(refuse("not an image", reason));
    }
    // SAFETY: the image is an ELF whose tables lie within it; the driver judges the rest, and copies it.
    unsafe { result::module::load_data(image.as_ptr().cast()) }
        .map_err(|e| CudaError::Module { module, source: e.into() })
}

/// Why these bytes are no whole ELF of 64 bits, if they are not: the driver is told no length, and would read past the end of a file that was cut short.
fn not_whole(image: &[u8]) -> Option<String> {
    /// The type of a section that takes room on the device alone.
    const EMPTY: u64 = 8;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(image.get(at..at + bytes)?);
        Some(u64::from_le_bytes(word))
    };
    // Of the program and of the section headers: where they begin, what one takes, how many; then where a section begins and what it takes.
    let tables = [(32, 54, 56), (40, 58, 60)]
        .map(|(at, size, count)| Some((number(at, 8)?, number(size, 2)?, number(count, 2)?)));
    let (Some(b"\x7fELF\x02"), [Some(program), Some(sections)]) = (image.get(..5), tables) else {
        return Some(format!("{} bytes that are no ELF of 64 bits", image.len()));
    };
    let whole = image.len() as u64;
    let ends = |(at, size, count): (u64, u64, u64)| at.saturating_add(size.saturating_mul(count));
    if ends(program).max(ends(sections)) > whole {
        return Some(format!(
            "cut short: {whole} bytes, and its tables end at {}",
            ends(program).max(ends(sections))
        ));
    }
    for section in 0..sections.2 {
        let at = (sections.0 + section * sections.1) as usize;
        let (Some(kind), Some(from), Some(bytes)) =
            (number(at + 4, 4), number(at + 24, 8), number(at + 32, 8))
        else {
            return Some(format!("cut short: {whole} bytes, and the header of a section is past them"));
        };
        if kind != EMPTY && from.saturating_add(bytes) > whole {
            return Some(format!(
                "cut short: {whole} bytes, and a section ends at {}",
                from.saturating_add(bytes)
            ));
        }
    }
    None
}

fn function(module: &'static str, loaded: sys::CUmodule, name: &'static str) -> Result<Kernel, CudaError> {
    let symbol = CString::new(name).expect("kernel names hold no NUL");
    // SAFETY: the module was just loaded and is never unloaded: it goes with the primary context.
    unsafe { result::module::get_function(loaded, symbol) }
        .map(Kernel)
        .map_err(|e| CudaError::Module { module, source: e.into() })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{images, load_image, not_whole};

    #[test]
    fn an_image_that_was_cut_short_or_is_something_else_is_named_before_the_driver_reads_it() {
        let whole = images::norm;
        assert_eq!(not_whole(whole), None);
        for length in [0, 3, 63, 64, whole.len() / 2, whole.len() - 1] {
            let reason = not_whole(&whole[..length]).unwrap_or_default();
            assert!(reason.contains("cut short") || reason.contains("no ELF"), "{length}: {reason}");
        }
        assert!(not_whole(&[b'x'; 4096]).is_some_and(|r| r.contains("no ELF")));
        // No program header, and one section whose header begins with the last byte.
        let mut header = whole[..64].to_vec();
        header[32..48].copy_from_slice(&[0_u64.to_le_bytes(), 63_u64.to_le_bytes()].concat());
        header[54..62].copy_from_slice(&[0, 0, 0, 0, 1, 0, 1, 0]);
        assert!(not_whole(&header).is_some_and(|r| r.contains("header of a section")));
    }

    #[test]
    fn a_folder_of_images_that_is_not_there_is_refused_by_its_name() {
        let refused = load_image("norm", images::norm, Some(Path::new("/nowhere/images")));
        let error = refused.expect_err("no such folder").to_string();
        assert!(error.contains("norm") && error.contains("/nowhere/images"), "{error}");
    }
}
