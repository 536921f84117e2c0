// One token a row from [rows, vocabulary] logits: grammar bitmask, temperature, top-k, top-p, min-p, Gumbel noise, and its log-probability.
//
// Nothing is sorted and no probability is stored. The token drawn from a kept set is the arg max of (logit + Gumbel noise) over that set, so:
//   pass 1   arg max over all tokens, the row's maximum, and its sum of exponentials
//   pass 2   the candidate is in the kept set if the mass and count of the tokens before it (greater logit, or equal and lower index) are
//            under top-p and top-k; the same pass finds the arg max over the tokens before it, the next candidate
// The noise of a token is a pure function of (seed, token), and arg maxima over nested sets need no fresh noise, so every rejected candidate
// costs one more pass and the result is exactly the arg max over the kept set. A row is read from device memory once; later passes hit L2.
//
// Both limits apply to the full distribution. A row has kept tokens unless all are masked: then token -1 and log-probability -inf.
// NaN and -inf count as masked, +inf as the largest finite float.
// A cluster of CLUSTER blocks holds a row, whatever the number of rows, and sums are taken in a fixed order: bits do not depend on the batch.
// Source of the idea: inverse-transform rejection sampling (FlashInfer, 2025) with the race of exponentials in place of the prefix sum.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

constexpr int kCluster = 4;
constexpr int kThreads = 512;
constexpr float kLargest = 3.4028234e38f;

struct Row {
  float temperature, top_p, min_p;
  int top_k;
  unsigned long long seed;
};

struct Problem {
  int* token;
  float* logprob;
  const void* logits;
  const unsigned int* bitmask;  // [rows, mask_words], bit set = allowed; null allows all
  const float* temperature;     // [rows] each; 0 is greedy
  const float* top_p;
  const float* min_p;
  const int* top_k;             // 0 is off
  const unsigned long long* seed;
  int vocabulary, mask_words;
  long long row_stride;         // in elements, a multiple of 4 and at least the vocabulary rounded up to one
};

// Philox 4x32-7 (Salmon et al., 2011): four words of noise for four neighbouring tokens.
__device__ __forceinline__ uint4 philox(unsigned long long seed, unsigned int counter) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  uint4 c = {counter, 0u, 0u, 0u};
#pragma unroll
  for (int round = 0; round < 7; round++) {
    const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * c.x, b = static_cast<uint64_t>(0xCD9E8D57u) * c.z;
    c = make_uint4(static_cast<uint32_t>(b >> 32) ^ c.y ^ k0, static_cast<uint32_t>(b),
                   static_cast<uint32_t>(a >> 32) ^ c.w ^ k1, static_cast<uint32_t>(a));
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// -ln(e) with e = -ln(1 - w) an exponential variate, w uniform in (0, 1]. The winners of a race over many tokens have tiny e: there all 32 bits
// count and the series is exact to rounding, where a logarithm of a number near one would not be. w = 1 gives -inf, which never wins.
__device__ __forceinline__ float gumbel(uint32_t bits) {
  const float w = (static_cast<float>(bits) + 0.5f) * 2.3283064e-10f;
  const float e = w < 0.03125f ? w * (1.f + w * (0.5f + w * (0.33333333f + w * 0.25f))) : -__logf(1.f - w);
  return -__logf(e);
}

// A token and its key; a greater key wins, then the lower token.
struct Best {
  float key, logit;
  int token;
};
__device__ __forceinline__ bool beats(float key, int token, const Best& b) {
  return key > b.key || (key == b.key && static_cast<unsigned>(token) < static_cast<unsigned>(b.token));
}
__device__ __forceinline__ Best better(const Best& a, const Best& b) { return beats(a.key, a.token, b) ? a : b; }

struct Tally {
  float peak, mass;  // sum of exp(logit - peak)
  int count;
  Best best;
};

__device__ __forceinline__ Tally empty_tally() { return {-INFINITY, 0.f, 0, {-INFINITY, -INFINITY, -1}}; }

__device__ __forceinline__ Tally join(const Tally& a, const Tally& b) {
  const float peak = fmaxf(a.peak, b.peak);
  const float mass = (a.peak == -INFINITY ? 0.f : a.mass * __expf(a.peak - peak)) + (b.peak == -INFINITY ? 0.f : b.mass * __expf(b.peak - peak));
  return {peak, mass, a.count + b.count, better(a.best, b.best)};
}

__device__ __forceinline__ Tally shuffle_down(const Tally& t, int step) {
  Tally r;
  r.peak = __shfl_down_sync(0xffffffffu, t.peak, step);
  r.mass = __shfl_down_sync(0xffffffffu, t.mass, step);
  r.count = __shfl_down_sync(0xffffffffu, t.count, step);
  r.best.key = __shfl_down_sync(0xffffffffu, t.best.key, step);
  r.best.logit = __shfl_down_sync(0xffffffffu, t.best.logit, step);
  r.best.token = __shfl_down_sync(0xffffffffu, t.best.token, step);
  return r;
}

__device__ __forceinline__ unsigned int cluster_rank() {
  unsigned int r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ float remote_load(uint32_t address, unsigned int rank) {
  float v;
  asm volatile("{\n\t.reg .b32 r;\n\tmapa.shared::cluster.u32 r, %1, %2;\n\tld.shared::cluster.f32 %0, [r];\n\t}"
               : "=f"(v)
               : "r"(address), "r"(rank)
               : "memory");
  return v;
}

struct Board {
  Tally warps[kThreads / 32];
  Tally block;
};

// Every thread of the cluster gets the joined tally of all its threads. Two boards are used in turn, so one cluster barrier a pass is enough.
__device__ __forceinline__ Tally cluster_join(Tally t, Board& board) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) t = join(t, shuffle_down(t, step));
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) board.warps[warp] = t;
  __syncthreads();
  if (warp == 0) {
    Tally b = lane < kThreads / 32 ? board.warps[lane] : empty_tally();
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) b = join(b, shuffle_down(b, step));
    if (lane == 0) board.block = b;
  }
  cluster_sync();
  const uint32_t base = tk::smem_address(&board.block);
  Tally all = empty_tally();
#pragma unroll
  for (unsigned int rank = 0; rank < kCluster; rank++) {
    Tally b;
    b.peak = remote_load(base, rank);
    b.mass = remote_load(base + 4, rank);
    b.count = __float_as_int(remote_load(base + 8, rank));
    b.best.key = remote_load(base + 12, rank);
    b.best.logit = remote_load(base + 16, rank);
    b.best.token = __float_as_int(remote_load(base + 20, rank));
    all = join(all, b);
  }
  return all;
}

__device__ __forceinline__ void load4(const float* p, float (&x)[4]) {
  const float4 v = *reinterpret_cast<const float4*>(p);
  x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}
__device__ __forceinline__ void load4(const __nv_bfloat16* p, float (&x)[4]) {
  const uint2 v = *reinterpret_cast<const uint2*>(p);
  const float2 a = tk::unpack_bf16(v.x), b = tk::unpack_bf16(v.y);
  x[0] = a.x, x[1] = a.y, x[2] = b.x, x[3] = b.y;
}

// Allowed, not -inf and not NaN: the logit over the temperature, finite; else -inf.
__device__ __forceinline__ void prepare(float (&x)[4], unsigned int allowed, float inverse) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const bool keep = (allowed >> i & 1u) && x[i] > -INFINITY;
    x[i] = keep ? fminf(fmaxf(x[i] * inverse, -kLargest), kLargest) : -INFINITY;
  }
}

// One pass of this thread's share of a row. BOUNDED looks only at the tokens before (pivot, pivot_token).
template <typename T, bool BOUNDED>
__device__ __forceinline__ Tally pass(const Problem& p, const Row& row, const T* logits, const unsigned int* mask, float inverse, float peak,
                                      float pivot, int pivot_token) {
  Tally t = empty_tally();
  const bool noise = row.temperature > 0.f;
  if (BOUNDED) t.peak = peak;
  const int vectors = (p.vocabulary + 3) / 4;
  const int stride = kCluster * kThreads;
  constexpr int kUnroll = 4;
  for (int first = cluster_rank() * kThreads + threadIdx.x; first < vectors; first += stride * kUnroll) {
    float x[kUnroll][4] = {};
    unsigned int allowed[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      const int v = first + u * stride;
      allowed[u] = 0;
      if (v < vectors) {
        load4(logits + 4 * v, x[u]);
        allowed[u] = mask ? __ldg(mask + v / 8) >> (v % 8 * 4) & 15u : 15u;
        if (4 * v + 4 > p.vocabulary) allowed[u] &= 15u >> (4 * v + 4 - p.vocabulary);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      const int v = first + u * stride;
      prepare(x[u], allowed[u], inverse);
      if (BOUNDED) {
        bool any = false;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (!(x[u][i] > pivot || (x[u][i] == pivot && 4 * v + i < pivot_token))) x[u][i] = -INFINITY;
          any = any || x[u][i] > -INFINITY;
        }
        if (!any) continue;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          t.mass += __expf(x[u][i] - peak);
          t.count += x[u][i] > -INFINITY;
        }
      } else {
        const float top = fmaxf(fmaxf(x[u][0], x[u][1]), fmaxf(x[u][2], x[u][3]));
        if (top == -INFINITY) continue;
        if (top > t.peak) {
          t.mass *= __expf(t.peak - top);
          t.peak = top;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) t.mass += __expf(x[u][i] - t.peak);
      }
      const uint4 r = noise ? philox(row.seed, v) : make_uint4(0, 0, 0, 0);
      const uint32_t bits[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (x[u][i] == -INFINITY) continue;
        const float key = noise ? x[u][i] + gumbel(bits[i]) : x[u][i];
        if (beats(key, 4 * v + i, t.best)) t.best = {key, x[u][i], 4 * v + i};
      }
    }
  }
  return t;
}

template <typename T>
__device__ __forceinline__ void sample_row(const Problem& p) {
  __shared__ Board boards[2];
  const int r = blockIdx.x / kCluster;
  const Row row = {p.temperature[r], p.top_p[r], p.min_p[r], p.top_k[r], p.seed[r]};
  const float inverse = row.temperature > 0.f ? 1.f / row.temperature : 1.f;
  const T* logits = reinterpret_cast<const T*>(p.logits) + r * p.row_stride;
  const unsigned int* mask = p.bitmask ? p.bitmask + static_cast<size_t>(r) * p.mask_words : nullptr;
  const Tally all = cluster_join(pass<T, false>(p, row, logits, mask, inverse, 0.f, 0.f, 0), boards[0]);
  Best chosen = all.best;
  const bool bounded = row.temperature > 0.f && (row.top_p < 1.f || row.top_k > 0 || row.min_p > 0.f);
  if (bounded && chosen.token >= 0) {
    const float limit = row.top_p < 1.f ? row.top_p * all.mass : INFINITY;
    const float floor = row.min_p > 0.f ? all.peak + __logf(row.min_p) : -INFINITY;
    // Each round moves the candidate strictly forward in (logit, token) order, so this ends; the first token of that order is always kept.
    for (int round = 1;; round++) {
      const Tally before = cluster_join(pass<T, true>(p, row, logits, mask, inverse, all.peak, chosen.logit, chosen.token), boards[round & 1]);
      const bool kept = before.mass < limit && (row.top_k <= 0 || before.count < row.top_k) && chosen.logit >= floor;
      if (kept || before.count == 0) break;
      chosen = before.best;
    }
  }
  if (threadIdx.x == 0 && cluster_rank() == 0) {
    p.token[r] = chosen.token;
    p.logprob[r] = chosen.token < 0 ? -INFINITY : chosen.logit - all.peak - __logf(all.mass);
  }
  // No block leaves while another may still read its board.
  cluster_sync();
}

}  // namespace

extern "C" __global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 2) sample_f32(const __grid_constant__ Problem p) {
  sample_row<float>(p);
}
extern "C" __global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 2) sample_bf16(const __grid_constant__ Problem p) {
  sample_row<__nv_bfloat16>(p);
}
