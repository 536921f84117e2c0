// Keys and values of an e4m3 cache out of their pages: dense, in bf16, times the scale of their head. What prefill attention reads.
//
// Memory-bound: a byte is read and two are written. A thread has the same sixteen numbers of a token's key and of its value, both loads in flight
// together. What it writes is read by the attention behind it, so it stays in the caches.
#include <cuda_fp16.h>

#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

struct Problem {
  __nv_bfloat16 *dense_keys, *dense_values;  // [tokens, kv_heads, 16 * vectors]
  const uint8_t *keys, *values;              // [pages, kv_heads, page_tokens, 16 * vectors]
  const float *key_scale, *value_scale;      // [kv_heads]
  const int *table, *starts;                 // [sequences, width]; [sequences + 1]: where a sequence's tokens begin, and where the last one's end
  int tokens, sequences, width, pages, page_tokens, kv_heads, vectors;
};

// Two e4m3 times a scale, as two bf16.
__device__ __forceinline__ uint32_t widened(uint16_t two, float scale) {
  uint32_t word;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(word) : "h"(two));
  const float2 f = __half22float2(*reinterpret_cast<const __half2*>(&word));
  return tk::pack_bf16(f.x * scale, f.y * scale);
}

__device__ __forceinline__ void store_widened(__nv_bfloat16* to, uint4 v, float scale) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
  uint32_t out[8];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    out[2 * i] = widened(static_cast<uint16_t>(words[i]), scale);
    out[2 * i + 1] = widened(static_cast<uint16_t>(words[i] >> 16), scale);
  }
  reinterpret_cast<uint4*>(to)[0] = make_uint4(out[0], out[1], out[2], out[3]);
  reinterpret_cast<uint4*>(to)[1] = make_uint4(out[4], out[5], out[6], out[7]);
}

// Which page a token lies in, or -1, and its place there: of the last sequence that begins at it or before it.
__device__ __forceinline__ int page_of(const Problem& p, int token, int& place) {
  int low = 0, high = p.sequences;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (__ldg(p.starts + middle) <= token ? low : high) = middle;
  }
  if (p.sequences == 0 || token >= __ldg(p.starts + low + 1)) return -1;
  const int64_t at = static_cast<int64_t>(token) - __ldg(p.starts + low);
  if (at < 0 || at / p.page_tokens >= p.width) return -1;
  const int page = __ldg(p.table + static_cast<int64_t>(low) * p.width + at / p.page_tokens);
  place = static_cast<int>(at % p.page_tokens);
  return page < p.pages ? page : -1;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) read_pages(const __grid_constant__ Problem p) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int vector = unit % p.vectors, head = unit / p.vectors % p.kv_heads;
  const int64_t token = unit / p.vectors / p.kv_heads;
  if (token >= p.tokens) return;
  uint4 k = make_uint4(0x7f7f7f7fu, 0x7f7f7f7fu, 0x7f7f7f7fu, 0x7f7f7f7fu), v = k;  // what has no page is no number
  int place = 0;
  const int page = page_of(p, static_cast<int>(token), place);
  if (page >= 0) {
    const int64_t from = (((static_cast<int64_t>(page) * p.kv_heads + head) * p.page_tokens + place) * p.vectors + vector) * 16;
    k = tk::load_stream(p.keys + from), v = tk::load_stream(p.values + from);
  }
  const int64_t to = ((token * p.kv_heads + head) * p.vectors + vector) * 16;
  store_widened(p.dense_keys + to, k, __ldg(p.key_scale + head));
  store_widened(p.dense_values + to, v, __ldg(p.value_scale + head));
}
