// What lies between the projection and attention, in one pass: RMS norm of each query and key head (where the model has one), rotary
// embedding of queries and keys, and keys and values into their pages.
//
// Memory-bound: every element of qkv is read once and written once. D / 8 lanes hold a head: four elements of its lower half and the four of its
// upper half that rotate with them, so that a rotation stays within a lane. A group of lanes takes kHeads heads of one token at a time: all their
// loads are in flight together, and cosines and sines are read once for them. Norm and rotation are in f32, rounded once to bf16; for
// an e4m3 cache that is divided by its head's scale and rounded again.
#include "../ptx/math.cuh"

namespace {

constexpr int kHeads = 4;

struct Problem {
  __nv_bfloat16* q;
  void *k, *v;  // of bf16 or e4m3
  const __nv_bfloat16* qkv;
  const __nv_bfloat16 *q_weight, *k_weight;
  const float* rotary;  // [positions, D]: cosines of D / 2 frequencies, then sines
  const int *position, *slot;
  int tokens, heads, kv_heads, positions, page_tokens, slots;
  float epsilon;
  const float *k_scale, *v_scale;  // [kv_heads] each, of an e4m3 cache
};

struct Four {
  float x[4];
};

__device__ __forceinline__ Four unpack(uint2 w) {
  const float2 a = tk::unpack_bf16(w.x), b = tk::unpack_bf16(w.y);
  return {{a.x, a.y, b.x, b.y}};
}
__device__ __forceinline__ uint2 pack(const Four& f) { return make_uint2(tk::pack_bf16(f.x[0], f.x[1]), tk::pack_bf16(f.x[2], f.x[3])); }

__device__ __forceinline__ uint2 load8(const __nv_bfloat16* p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
__device__ __forceinline__ void store8(__nv_bfloat16* p, uint2 v) { *reinterpret_cast<uint2*>(p) = v; }

// Four numbers of a cache, from element `at` on.
template <bool E4M3>
__device__ __forceinline__ void store_cached(void* cache, int64_t at, uint2 words, float inverse) {
  if constexpr (E4M3) {
    const Four f = unpack(words);
    uint16_t low, high;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(f.x[1] * inverse), "f"(f.x[0] * inverse));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(f.x[3] * inverse), "f"(f.x[2] * inverse));
    reinterpret_cast<uint32_t*>(cache)[at / 4] = low | static_cast<uint32_t>(high) << 16;
  } else {
    store8(static_cast<__nv_bfloat16*>(cache) + at, words);
  }
}

template <int D, bool NORM, bool E4M3>
__device__ __forceinline__ void rope_cache(const Problem& p) {
  constexpr int kLanes = D / 8;
  const int rows = p.heads + 2 * p.kv_heads, units = (rows + kHeads - 1) / kHeads;
  const int64_t group = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kLanes;
  const int at = threadIdx.x % kLanes * 4;
  const bool live = group / units < p.tokens;  // lanes past the end take part in the sums below and store nothing
  const int token = live ? static_cast<int>(group / units) : 0, first = static_cast<int>(group % units) * kHeads;
  const __nv_bfloat16* from = p.qkv + static_cast<int64_t>(token) * rows * D + at;
  uint2 low[kHeads], high[kHeads];
#pragma unroll
  for (int i = 0; i < kHeads; i++) {
    const int row = min(first + i, rows - 1);
    low[i] = load8(from + static_cast<int64_t>(row) * D);
    high[i] = load8(from + static_cast<int64_t>(row) * D + D / 2);
  }
  const int position = __ldg(p.position + token), slot = __ldg(p.slot + token);
  float4 cosine = make_float4(NAN, NAN, NAN, NAN), sine = cosine;  // a position that the table does not have is no number
  if (position >= 0 && position < p.positions) {
    const float* table = p.rotary + static_cast<int64_t>(position) * D + at;
    cosine = __ldg(reinterpret_cast<const float4*>(table)), sine = __ldg(reinterpret_cast<const float4*>(table + D / 2));
  }
  const float c[4] = {cosine.x, cosine.y, cosine.z, cosine.w}, s[4] = {sine.x, sine.y, sine.z, sine.w};
  const bool kept = slot >= 0 && slot < p.slots;
  const int64_t page = kept ? slot / p.page_tokens : 0, offset = kept ? slot % p.page_tokens : 0;
#pragma unroll
  for (int i = 0; i < kHeads; i++) {
    const int row = first + i, key = row - p.heads, value = key - p.kv_heads;
    Four a = unpack(low[i]), b = unpack(high[i]);
    if (NORM) {
      float sum = 0.0f;
#pragma unroll
      for (int e = 0; e < 4; e++) sum += a.x[e] * a.x[e] + b.x[e] * b.x[e];
#pragma unroll
      for (int step = kLanes / 2; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
      const float scale = rsqrtf(sum / D + p.epsilon);
      const __nv_bfloat16* weight = (key < 0 ? p.q_weight : p.k_weight) + at;
      const Four v = unpack(__ldg(reinterpret_cast<const uint2*>(weight))), w = unpack(__ldg(reinterpret_cast<const uint2*>(weight + D / 2)));
#pragma unroll
      for (int e = 0; e < 4; e++) a.x[e] *= scale * v.x[e], b.x[e] *= scale * w.x[e];
    }
    Four x, y;
#pragma unroll
    for (int e = 0; e < 4; e++) x.x[e] = a.x[e] * c[e] - b.x[e] * s[e], y.x[e] = b.x[e] * c[e] + a.x[e] * s[e];
    if (!live || row >= rows) continue;
    if (key < 0) {
      __nv_bfloat16* to = p.q + (static_cast<int64_t>(token) * p.heads + row) * D + at;
      store8(to, pack(x));
      store8(to + D / 2, pack(y));
    } else if (kept) {
      const int head = value < 0 ? key : value;
      void* cache = value < 0 ? p.k : p.v;
      const int64_t to = ((page * p.kv_heads + head) * p.page_tokens + offset) * D + at;
      const float inverse = E4M3 ? 1.f / __ldg((value < 0 ? p.k_scale : p.v_scale) + head) : 1.f;
      store_cached<E4M3>(cache, to, value < 0 ? pack(x) : low[i], inverse);
      store_cached<E4M3>(cache, to + D / 2, value < 0 ? pack(y) : high[i], inverse);
    }
  }
}

}  // namespace

#define ROPE_CACHE(NAME, D, NORM, E4M3) \
  extern "C" __global__ void __launch_bounds__(256) NAME(const __grid_constant__ Problem p) { rope_cache<D, NORM, E4M3>(p); }
ROPE_CACHE(rope_cache_d64, 64, false, false)
ROPE_CACHE(rope_cache_d128, 128, false, false)
ROPE_CACHE(rope_cache_norm_d64, 64, true, false)
ROPE_CACHE(rope_cache_norm_d128, 128, true, false)
ROPE_CACHE(rope_cache_e4m3_d64, 64, false, true)
ROPE_CACHE(rope_cache_e4m3_d128, 128, false, true)
ROPE_CACHE(rope_cache_e4m3_norm_d64, 64, true, true)
ROPE_CACHE(rope_cache_e4m3_norm_d128, 128, true, true)
