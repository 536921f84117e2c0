// A row of logits on the chip: what a thread of the row's cluster holds of it, and its scores. sample.cu says what they are for.
#pragma once
#include "../ptx/cluster.cuh"
#include "../ptx/math.cuh"

namespace {

// 64 rows are 128 blocks, one a multiprocessor: larger clusters do not all fit at once (62 of 4 blocks did) and take a second wave.
constexpr int kCluster = 2;
constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
// Vectors of four scores a thread keeps in shared memory, 224 KB a block, and behind those in registers.
constexpr int kKept = 14, kHeld = 2;
constexpr int kStride = kCluster * kThreads;
constexpr float kLargest = 3.0e38f;
// A token's entry in the counts of a sequence: whether its prompt has it, and how often it was drawn.
constexpr unsigned int kInPrompt = 0x8000u, kMostDrawn = 0x7fffu;

// The row as the passes see it: scores y = logit / temperature * log2(e).
template <typename T>
struct Row {
  const T* logits;
  const unsigned int* mask;
  const unsigned short* counts;  // null: no penalties
  const float* penalties;        // in shared memory: repetition, presence, frequency
  float factor;
  int vocabulary;
};

__device__ __forceinline__ void unpack4(const float4& v, const float*, float (&x)[4]) { x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w; }
__device__ __forceinline__ void unpack4(const float4& v, const __nv_bfloat16*, float (&x)[4]) {
  const float2 a = tk::unpack_bf16(__float_as_uint(v.x)), b = tk::unpack_bf16(__float_as_uint(v.y));
  x[0] = a.x, x[1] = a.y, x[2] = b.x, x[3] = b.y;
}
__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ float4 load4(const __nv_bfloat16* p) {
  const float2 v = *reinterpret_cast<const float2*>(p);
  return make_float4(v.x, v.y, 0.f, 0.f);
}

// Four scores out of four logits; -inf for what is masked, NaN or past the vocabulary.
template <typename T>
__device__ __forceinline__ void scores(const Row<T>& row, int vector, const float4& raw, float (&y)[4]) {
  unpack4(raw, row.logits, y);
  if (row.counts) {
    const uint2 packed = *reinterpret_cast<const uint2*>(row.counts + 4 * static_cast<size_t>(vector));
    if (packed.x | packed.y) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const unsigned int entry = (i < 2 ? packed.x : packed.y) >> (i % 2 * 16) & 0xffffu, drawn = entry & kMostDrawn;
        if (entry) y[i] = y[i] > 0.f ? __fdividef(y[i], row.penalties[0]) : y[i] * row.penalties[0];
        if (drawn) y[i] -= row.penalties[2] * static_cast<float>(drawn) + row.penalties[1];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    y[i] *= row.factor;
    y[i] = y[i] > -INFINITY ? fminf(y[i], kLargest) : -INFINITY;
  }
  if (row.mask) {
    const unsigned int allowed = __ldg(row.mask + vector / 8) >> (vector % 8 * 4);
#pragma unroll
    for (int i = 0; i < 4; i++) y[i] = allowed >> i & 1u ? y[i] : -INFINITY;
  }
  if (4 * vector + 4 > row.vocabulary) {
#pragma unroll
    for (int i = 0; i < 4; i++) y[i] = 4 * vector + i < row.vocabulary ? y[i] : -INFINITY;
  }
}

extern __shared__ float4 kept[];  // [kKept][kThreads]

// What a thread has of the row beyond shared memory.
struct Held {
  float4 y[kHeld];
};

__device__ __forceinline__ void copy4(uint32_t shared, const float* p) { tk::copy_async16(shared, p); }
__device__ __forceinline__ void copy4(uint32_t shared, const __nv_bfloat16* p) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared), "l"(p) : "memory");
}

template <int I>
struct Index {
  static constexpr int value = I;
};
template <int FROM, int TO, typename F>
__device__ __forceinline__ void count_up(F f) {
  if constexpr (FROM < TO) {
    f(Index<FROM>());
    count_up<FROM + 1, TO>(f);
  }
}

// The first pass: calls use(vector, scores) for this thread's vectors in order, and keeps what there is room for. Unrolled, as the wait for a copy names
// how many behind it may still be under way; the later passes are short code rather, which is waited for where it comes from device memory.
template <typename T, typename Use>
__device__ __forceinline__ void first_pass(const Row<T>& row, Held& held, Use use) {
  const int vectors = (row.vocabulary + 3) / 4, v = tk::cluster_rank() * kThreads + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kKept; i++) {
    if (v + i * kStride < vectors) copy4(tk::smem_address(kept + i * kThreads + threadIdx.x), row.logits + 4 * static_cast<size_t>(v + i * kStride));
    tk::copy_async_commit();
  }
#pragma unroll
  for (int i = 0; i < kHeld; i++)
    if (v + (kKept + i) * kStride < vectors) held.y[i] = load4(row.logits + 4 * static_cast<size_t>(v + (kKept + i) * kStride));
  const auto take = [&](int at, float4& place) {
    if (at >= vectors) return;
    float y[4];
    scores(row, at, place, y);
    place = make_float4(y[0], y[1], y[2], y[3]);
    use(at, y);
  };
  count_up<0, kKept>([&](auto index) {
    constexpr int i = decltype(index)::value;
    tk::copy_async_wait<kKept - 1 - i>();
    take(v + i * kStride, kept[i * kThreads + threadIdx.x]);
  });
#pragma unroll
  for (int i = 0; i < kHeld; i++) take(v + (kKept + i) * kStride, held.y[i]);
#pragma unroll 1
  for (int at = v + (kKept + kHeld) * kStride; at < vectors; at += kStride) {
    float4 four = load4(row.logits + 4 * static_cast<size_t>(at));
    take(at, four);
  }
}

// Four scores of a later pass: of turn `turn` of column `column` of the block's threads, this thread's own unless it holds none in registers.
template <typename T>
__device__ __forceinline__ float4 kept_scores(const Row<T>& row, const Held& held, int turn, int column, int v) {
  if (turn < kKept) return kept[turn * kThreads + column];
  if (turn == kKept) return held.y[0];
  if (turn == kKept + 1) return held.y[1];
  float y[4];
  scores(row, v, load4(row.logits + 4 * static_cast<size_t>(v)), y);
  return make_float4(y[0], y[1], y[2], y[3]);
}

}  // namespace
