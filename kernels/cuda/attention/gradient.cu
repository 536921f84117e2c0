// The gradients of attention: dq, dk and dv of out = softmax(scale · q · Kᵀ) · V, causal or not, after FlashAttention-2 (Dao, 2023).
//
//   P = exp(scale · q · Kᵀ − lse)      dV = Pᵀ · dO      dP = dO · Vᵀ      dS = P ∘ (dP − Σ dO ∘ out)      dQ = scale · dS · K      dK = scale · dSᵀ · Q
//   under a soft cap P = exp(z − lse) with z = cap · tanh(scale · q · Kᵀ / cap), and dS has the factor 1 − (z / cap)² besides
//
// Two kernels of one shape. A block owns 128 rows of a pair of tensors, (K, V) or (q, dO), and walks 64 rows at a time of the other pair: a
// producer warp orders tensor copies into a ring of kStages; each of two consumer warpgroups multiplies its 64 rows of the pair with the stage, twice
// (scores and dP, of 64 × 64), makes P and dS of them in registers, and multiplies those, still in registers, with the stage read transposed. The one
// that owns keys keeps scores transposed, Sᵀ = K · qᵀ, so that nothing goes through shared memory on either side.
// Scores and dP are computed in both: seven products where atomics in dQ would do with five. In return every sum has an order that the sequence's own
// length fixes: a row's bits depend neither on the batch nor on the run.
#include "../ptx/fragment.cuh"
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"
#include "../ptx/wgmma.cuh"

namespace {

// A tile of owned rows: what the host planned for it.
struct alignas(16) Item {
  int row, rows;       // first owned row, and how many of the tile's there are
  int base, length;    // the sequence's first row among the others, and how many it has there
  int start;           // place of the first owned row: of a key among the keys; of a query among the keys too, that is keys − queries + its number
  int offset;          // owned keys: the first query's place among the keys
  int first, last;     // blocks of 64 of the others to walk
  int stat;            // row of the statistics of the tile's first query, or of the sequence's first
  int pad[3];
};

struct Problem {
  __nv_bfloat16 *first, *second;  // dq; or dk and dv
  const Item* items;
  const float *lse, *delta;       // [heads][stat_rows]: lse · log2(e), and Σ dO ∘ out
  int heads, group, stat_rows;
  int causal, window;
  float scale;                    // of dq and dk
  float scale_log2;               // scale · log2(e); under a cap 2 · log2(e) · scale / cap
  float cap;                      // cap · log2(e)
};

__device__ __forceinline__ void meet(int id) { asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory"); }

template <int D, bool KEYS, bool CAPPED>
struct Gradient {
  static constexpr int kRows = 128, kBlock = 64, kPanels = D / 64, kStages = D == 128 ? 4 : 6;
  static constexpr int kOwnPanel = kRows * 128, kOwn = kPanels * kOwnPanel;    // bytes of one of the pair
  static constexpr int kSidePanel = kBlock * 128, kSide = kPanels * kSidePanel;
  static constexpr int kStage = 2 * kSide;

  uint32_t own, ring, stats, full, empty, ready;

  // The tensor maps of the owned pair and of the other one: kernel parameters, whose addresses the copies take.
  struct Maps {
    const tk::TensorMap &own1, &own2, &side1, &side2;
  };

  __device__ __forceinline__ void produce(const Maps& maps, const Problem& p, const Item& item, int head) const {
    const int heads = KEYS ? p.group : 1, first_head = KEYS ? head * p.group : head / p.group;
    tk::barrier_expect(ready, 2 * kOwn);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int panel = 0; panel < kPanels; panel++)
        tk::copy_tensor(own + i * kOwn + panel * kOwnPanel, i ? maps.own2 : maps.own1, head * D + panel * 64, item.row, ready);
    tk::Place at{0, 0};
#pragma unroll 1
    for (int h = 0; h < heads; h++) {
#pragma unroll 1
      for (int block = item.first; block <= item.last; block++) {
        const uint32_t barrier = full + 8 * at.slot, to = ring + at.slot * kStage;
        tk::barrier_wait(empty + 8 * at.slot, at.parity ^ 1);
        tk::barrier_expect(barrier, kStage + (KEYS ? 2 * kBlock * 4 : 0));
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
          for (int panel = 0; panel < kPanels; panel++)
            tk::copy_tensor(to + i * kSide + panel * kSidePanel, i ? maps.side2 : maps.side1, (first_head + h) * D + panel * 64, item.base + block * kBlock, barrier);
        if constexpr (KEYS) {
          const size_t from = static_cast<size_t>(first_head + h) * p.stat_rows + item.stat + block * kBlock;
          tk::copy_bulk(stats + at.slot * 2 * kBlock * 4, p.lse + from, kBlock * 4, barrier);
          tk::copy_bulk(stats + at.slot * 2 * kBlock * 4 + kBlock * 4, p.delta + from, kBlock * 4, barrier);
        }
        at.template advance<kStages>();
      }
    }
  }

  // D[64, 64] = own rows · stage rowsᵀ.
  __device__ __forceinline__ void queue_scores(float (&s)[32], uint32_t mine, uint32_t side) const {
    const uint64_t a = tk::matrix_descriptor(mine), b = tk::matrix_descriptor(side);
#pragma unroll
    for (int k = 0; k < D / 16; k++)
      tk::wgmma_k16(s, a + k / 4 * (kOwnPanel >> 4) + k % 4 * 2, b + k / 4 * (kSidePanel >> 4) + k % 4 * 2, k > 0);
  }
  // D[64, D] += weights[64, 64] · stage.
  __device__ __forceinline__ void queue_sums(float (&o)[D / 2], const uint32_t (&w)[16], uint32_t side) const {
    const uint64_t b = tk::transposed_descriptor(side, kSidePanel);
#pragma unroll
    for (int k = 0; k < 4; k++) tk::wgmma_k16_registers(o, w[4 * k], w[4 * k + 1], w[4 * k + 2], w[4 * k + 3], b + k * 128);
  }

  __device__ __forceinline__ float2 load2(uint32_t address) const {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address) : "memory");
    return v;
  }

  // Rows of a stage from `from` on become zeros: 0 · what lies there is not always 0. Both warpgroups write the same.
  __device__ __forceinline__ void zero_rows(uint32_t stage, int from, int group) const {
    for (int row = from + threadIdx.x / 32 % 4; row < kBlock; row += 4) {
#pragma unroll
      for (int panel = 0; panel < 2 * kPanels; panel++)
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(stage + panel * kSidePanel + row * 128 + threadIdx.x % 32 * 4), "r"(0) : "memory");
    }
    tk::fence_async_shared();
    meet(1 + group);
  }

  // Which of this thread's scores count; row and column of the 64 × 64 of a warpgroup.
  __device__ __forceinline__ bool seen(const Problem& p, const Item& item, int block, int row, int column) const {
    const int key = KEYS ? item.start + row : block * kBlock + column;
    const int query = KEYS ? item.offset + block * kBlock + column : item.start + row;
    const bool inside = KEYS ? block * kBlock + column < item.length : key < item.length;
    return inside && (!p.causal || (key <= query && key > query - p.window));
  }
  // Whether all of them do.
  __device__ __forceinline__ bool whole(const Problem& p, const Item& item, int block, int group) const {
    if ((block + 1) * kBlock > item.length) return false;
    if (!p.causal) return true;
    const int low_key = KEYS ? item.start + 64 * group : block * kBlock, low_query = KEYS ? item.offset + block * kBlock : item.start + 64 * group;
    return low_key + 63 <= low_query && low_key > low_query + 63 - p.window;
  }

  __device__ __forceinline__ void consume(const Problem& p, const Item& item, int head, int group) const {
    const int lane = threadIdx.x % 32, row = 64 * group + threadIdx.x / 32 % 4 * 16 + lane / 4, t = lane % 4;
    const uint32_t mine = own + 64 * group * 128;
    float first[D / 2], second[KEYS ? D / 2 : 1], lse[2] = {}, delta[2] = {};
#pragma unroll
    for (int i = 0; i < D / 2; i++) first[i] = 0.f;
    if constexpr (KEYS) {
#pragma unroll
      for (int i = 0; i < D / 2; i++) second[i] = 0.f;
    } else {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const size_t at = static_cast<size_t>(head) * p.stat_rows + item.stat + row + 8 * r;
        lse[r] = __ldg(p.lse + at), delta[r] = __ldg(p.delta + at);
      }
    }
    tk::barrier_wait(ready, 0);
    tk::Place at{0, 0};
    const int heads = KEYS ? p.group : 1;
#pragma unroll 1
    for (int h = 0; h < heads; h++) {
#pragma unroll 1
      for (int block = item.first; block <= item.last; block++) {
        const uint32_t stage = ring + at.slot * kStage, stat = stats + at.slot * 2 * kBlock * 4 + t * 8;
        float s[32], d[32];
        uint32_t w[16];
        tk::barrier_wait(full + 8 * at.slot, at.parity);
        if (item.length - block * kBlock < kBlock) zero_rows(stage, item.length - block * kBlock, group);
        tk::wgmma_fence();
        queue_scores(s, mine, stage);
        tk::wgmma_commit();
        queue_scores(d, mine + kOwn, stage + kSide);
        tk::wgmma_commit();
        tk::wgmma_wait<1>();
        tk::wgmma_hold(s);
        const bool all_seen = whole(p, item, block, group);
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const float2 of = KEYS ? load2(stat + i * 32) : make_float2(0.f, 0.f);
          float slope[4];  // of the capped scores: 1 − tanh²
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const float log_sum = KEYS ? (e % 2 ? of.y : of.x) : lse[e / 2];
            float& x = s[4 * i + e];
            if constexpr (CAPPED) {
              // As in prefill.cu: cap · tanh(x / cap) = cap · (1 − 2u) with u = 1 / (1 + e^(2x/cap)), and 1 − tanh² = 4u(1 − u).
              const float u = tk::reciprocal(1.0f + tk::exp2_fast(x * p.scale_log2));
              x = tk::exp2_fast(fmaf(-2.0f * p.cap, u, p.cap) - log_sum);
              slope[e] = 4.0f * u * (1.0f - u);
              if (!all_seen && !seen(p, item, block, row + e / 2 * 8, i * 8 + 2 * t + e % 2)) x = 0.f;
            } else {
              x = tk::exp2_fast(fmaf(x, p.scale_log2, -log_sum));
            }
          }
          // Nothing but P goes into dV, and nothing but P times the slope into dS.
          if constexpr (CAPPED) {
            if constexpr (KEYS) w[2 * i] = tk::pack_bf16(s[4 * i], s[4 * i + 1]), w[2 * i + 1] = tk::pack_bf16(s[4 * i + 2], s[4 * i + 3]);
#pragma unroll
            for (int e = 0; e < 4; e++) s[4 * i + e] *= slope[e];
          }
        }
        if (!CAPPED && !all_seen) {
#pragma unroll
          for (int i = 0; i < 32; i++)
            if (!seen(p, item, block, row + i / 2 % 2 * 8, i / 4 * 8 + 2 * t + i % 2)) s[i] = 0.f;
        }
        if constexpr (KEYS) {
          if constexpr (!CAPPED) {
#pragma unroll
            for (int i = 0; i < 16; i++) w[i] = tk::pack_bf16(s[2 * i], s[2 * i + 1]);
          }
          tk::wgmma_fence();
          queue_sums(second, w, stage + kSide);
          tk::wgmma_commit();
          tk::wgmma_wait<1>();
        } else {
          tk::wgmma_wait<0>();
        }
        tk::wgmma_hold(d);
        uint32_t z[16];
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const float2 of = KEYS ? load2(stat + kBlock * 4 + i * 32) : make_float2(0.f, 0.f);
#pragma unroll
          for (int e = 0; e < 4; e++) {
            // Where P is 0 by the mask, dP may be no number.
            float& x = d[4 * i + e];
            x = s[4 * i + e] == 0.f ? 0.f : s[4 * i + e] * (x - (KEYS ? (e % 2 ? of.y : of.x) : delta[e / 2]));
          }
          z[2 * i] = tk::pack_bf16(d[4 * i], d[4 * i + 1]);
          z[2 * i + 1] = tk::pack_bf16(d[4 * i + 2], d[4 * i + 3]);
        }
        tk::wgmma_fence();
        queue_sums(first, z, stage);
        tk::wgmma_commit();
        tk::wgmma_wait<0>();
        tk::wgmma_hold(first);
        if constexpr (KEYS) tk::wgmma_hold(second);
        __syncwarp();  // the statistics are read by every lane
        if (lane == 0) tk::barrier_arrive(empty + 8 * at.slot);
        at.template advance<kStages>();
      }
    }
    const int pitch = KEYS ? p.heads / p.group : p.heads;
    store(p.first, first, p.scale, item, head, pitch, row);
    if constexpr (KEYS) store(p.second, second, 1.f, item, head, pitch, row);
  }

  __device__ __forceinline__ void store(__nv_bfloat16* out, const float (&o)[D / 2], float scale, const Item& item, int head, int heads, int row) const {
    const int t = threadIdx.x % 4;
    __nv_bfloat16* low = out + (static_cast<size_t>(item.row + row) * heads + head) * D;
#pragma unroll
    for (int i = 0; i < D / 8; i += 4) {
      const auto word = [&](int block, int r) { return tk::pack_bf16(o[4 * block + 2 * r] * scale, o[4 * block + 2 * r + 1] * scale); };
      const uint4 a = tk::gather_block(word(i, 0), word(i + 1, 0), word(i + 2, 0), word(i + 3, 0));
      const uint4 b = tk::gather_block(word(i, 1), word(i + 1, 1), word(i + 2, 1), word(i + 3, 1));
      if (row < item.rows) *reinterpret_cast<uint4*>(low + (i + t) * 8) = a;
      if (row + 8 < item.rows) *reinterpret_cast<uint4*>(low + static_cast<size_t>(8) * heads * D + (i + t) * 8) = b;
    }
  }

  __device__ __forceinline__ void run(const Maps& maps, const Problem& p) {
    extern __shared__ unsigned char unaligned[];
    __shared__ __align__(16) float stat_words[kStages * 2 * kBlock];
    __shared__ __align__(8) uint64_t barriers[2 * kStages + 1];
    own = (tk::smem_address(unaligned) + 1023) & ~1023u;
    ring = own + 2 * kOwn;
    stats = tk::smem_address(stat_words);
    full = tk::smem_address(barriers), empty = full + 8 * kStages, ready = empty + 8 * kStages;
    const int heads = KEYS ? p.heads / p.group : p.heads;
    const Item item = p.items[blockIdx.x / heads];
    const int head = blockIdx.x % heads;
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; i++) tk::barrier_init(full + 8 * i, 1), tk::barrier_init(empty + 8 * i, 8);
      tk::barrier_init(ready, 1);
      tk::barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
      tk::registers_lower<24>();
      if (threadIdx.x == 0) produce(maps, p, item, head);
    } else {
      tk::registers_raise<240>();
      consume(p, item, head, __shfl_sync(0xffffffffu, threadIdx.x / 128 - 1, 0));
    }
  }
};

// lse · log2(e) and Σ dO ∘ out of every query and head, where the kernels above read them; zeros in the rest of a tile of 128. D / 8 lanes a row.
template <int D>
__device__ __forceinline__ void statistics(float* lse_out, float* delta, const float* lse, const __nv_bfloat16* out, const __nv_bfloat16* gradient,
                                           const Item* items, int heads, int tokens, int stat_rows) {
  constexpr int kLanes = D / 8;
  const Item item = items[blockIdx.x / heads];
  const int head = blockIdx.x % heads, lane = threadIdx.x % kLanes;
#pragma unroll 4
  for (int row = threadIdx.x / kLanes; row < 128; row += 256 / kLanes) {
    const bool live = row < item.rows;
    const size_t at = (static_cast<size_t>(item.row + row) * heads + head) * D + lane * 8;
    const uint4 a = live ? tk::load_stream(out + at) : make_uint4(0, 0, 0, 0), b = live ? tk::load_stream(gradient + at) : make_uint4(0, 0, 0, 0);
    const uint32_t *x = reinterpret_cast<const uint32_t*>(&a), *y = reinterpret_cast<const uint32_t*>(&b);
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 u = tk::unpack_bf16(x[i]), v = tk::unpack_bf16(y[i]);
      sum = fmaf(u.x, v.x, fmaf(u.y, v.y, sum));
    }
#pragma unroll
    for (int step = kLanes / 2; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) {
      const size_t to = static_cast<size_t>(head) * stat_rows + item.stat + row;
      const float value = live ? lse[static_cast<size_t>(head) * tokens + item.row + row] * tk::kLog2e : 0.f;
      lse_out[to] = value == -INFINITY ? 0.f : value;  // a query without a key has no score that counts
      delta[to] = sum;
    }
  }
}

}  // namespace

#define GRADIENT(NAME, D, KEYS, CAPPED)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(384, 1)                                                                                  \
      NAME(const __grid_constant__ tk::TensorMap own1, const __grid_constant__ tk::TensorMap own2, const __grid_constant__ tk::TensorMap side1, \
           const __grid_constant__ tk::TensorMap side2, const __grid_constant__ Problem p) {                                            \
    Gradient<D, KEYS, CAPPED>().run({own1, own2, side1, side2}, p);                                                                     \
  }
GRADIENT(attention_gradient_keys_d64, 64, true, false)
GRADIENT(attention_gradient_keys_d128, 128, true, false)
GRADIENT(attention_gradient_queries_d64, 64, false, false)
GRADIENT(attention_gradient_queries_d128, 128, false, false)
GRADIENT(attention_gradient_keys_d64_cap, 64, true, true)
GRADIENT(attention_gradient_keys_d128_cap, 128, true, true)
GRADIENT(attention_gradient_queries_d64_cap, 64, false, true)
GRADIENT(attention_gradient_queries_d128_cap, 128, false, true)

extern "C" __global__ void __launch_bounds__(256)
    attention_statistics_d64(float* lse_out, float* delta, const float* lse, const __nv_bfloat16* out, const __nv_bfloat16* gradient, const Item* items,
                             int heads, int tokens, int stat_rows) {
  statistics<64>(lse_out, delta, lse, out, gradient, items, heads, tokens, stat_rows);
}
extern "C" __global__ void __launch_bounds__(256)
    attention_statistics_d128(float* lse_out, float* delta, const float* lse, const __nv_bfloat16* out, const __nv_bfloat16* gradient, const Item* items,
                              int heads, int tokens, int stat_rows) {
  statistics<128>(lse_out, delta, lse, out, gradient, items, heads, tokens, stat_rows);
}
