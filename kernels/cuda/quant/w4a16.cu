// y[M, N] = x[M, K] · dequant(W)[N, K]ᵀ for few rows (M <= 16): 4-bit weights in groups of 128 along K, bf16 activations, f32 sums.
//
// Memory-bound: half a byte a weight, read once. The weights are the A operand (16 output features a tile) and the activations the B operand,
// so that eight rows of x cost one mma and the tensor cores are busy with features, of which there are many.
//
// Packed weights, [N / 16, K / 128] tiles of kTileBytes each, so that a warp's reads are contiguous:
//   bytes    0 … 1023   word w of lane l at (w / 4) * 512 + l * 16 + (w % 4) * 4: the A fragment of k-step w (16 of the tile's 128 columns).
//                       Nibble i and nibble 4 + i are the low and high element of fragment register i: one shift and one lop3 make a register.
//   bytes 1024 … 1087   16 pairs (scale, offset) in bf16: weight = scale * (nibble + offset), offset an integer in -15 … 0
// lop3 puts a nibble under the exponent of 128, which is 128 + nibble in bf16, exactly; 128 - offset is taken out once a group through the
// sum of the group's activations, so zero points are free.
//
// A persistent block a multiprocessor; its warps split K and each streams its own tiles through a private cp.async ring: every thread
// reads back what it copied, so no barrier is needed in the main loop. Sums over warps are taken in a fixed order, whatever M.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

constexpr int kWarps = 16;
constexpr int kGroup = 128;
constexpr int kTileBytes = 1088;
constexpr int kScaleOffset = 1024;

struct Problem {
  __nv_bfloat16* y;
  const __nv_bfloat16* x;
  const unsigned char* w;
  float* partial;         // [splits, M, N] when splits > 1
  unsigned int* arrived;  // [N / 16] zero before the first call, left zero
  int m, n, k, splits;
};

// 128 + nibble, two of them.
__device__ __forceinline__ uint32_t widen(uint32_t word, int i) {
  uint32_t r;
  asm("lop3.b32 %0, %1, 0x000f000f, 0x43004300, 0xea;" : "=r"(r) : "r"(word >> (4 * i)));
  return r;
}

// Shared memory: x fragments [groups][8 k-steps][BATCHES][32 lanes] of 8 bytes, group sums [groups][BATCHES * 8] of f32,
// rings [kWarps][stages] of kTileBytes, and a board [kWarps][16][BATCHES * 8 + 1] of f32 for the sum over warps.
// Sixteen lanes bring the 128 columns of a row's group, eight each, and sum them; rows past M are left as they are, since a garbage
// column of B reaches only its own column of the product.
template <int BATCHES>
__device__ __forceinline__ void load_activations(const Problem& p, int first_group, int groups, uint2* fragments, float* sums) {
  const int total = p.m * groups * 16;
  constexpr int kTogether = 8;
  for (int base = 0; base < total; base += kWarps * 32 * kTogether) {
    const int first = base + threadIdx.x;
    uint4 x[kTogether];
#pragma unroll
    for (int u = 0; u < kTogether; u++) {
      const int i = first + u * kWarps * 32, part = i % (groups * 16), row = i / (groups * 16);
      if (i < total) x[u] = __ldg(reinterpret_cast<const uint4*>(p.x + static_cast<size_t>(row) * p.k + first_group * kGroup + part * 8));
    }
#pragma unroll
    for (int u = 0; u < kTogether; u++) {
      const int i = first + u * kWarps * 32, part = i % (groups * 16), row = i / (groups * 16);
      // `total` is a multiple of 16, so the sixteen lanes of a group are all here or none is.
      float sum = 0.f;
      if (i < total) {
        const int group = part / 16, step = part % 16 / 2, half = part % 2;
        uint32_t* to = reinterpret_cast<uint32_t*>(fragments + ((group * 8 + step) * BATCHES + row / 8) * 32 + row % 8 * 4) + half;
        const uint32_t* words = &x[u].x;
#pragma unroll
        for (int t = 0; t < 4; t++) {
          to[2 * t] = words[t];
          const float2 v = tk::unpack_bf16(words[t]);
          sum += v.x + v.y;
        }
      }
#pragma unroll
      for (int step = 8; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
      if (i < total && part % 16 == 0) sums[part / 16 * BATCHES * 8 + row] = sum;
    }
  }
  __syncthreads();
}

template <int BATCHES>
__device__ __forceinline__ void tile_product(float (&out)[BATCHES][4], uint32_t tile, const uint2* fragments, const float* sums) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float acc[BATCHES][4] = {};
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const uint4 words = tk::load_shared16(tile + half * 512 + lane * 16);
#pragma unroll
    for (int s = 0; s < 4; s++) {
      const uint32_t w = (&words.x)[s];
      const uint32_t a0 = widen(w, 0), a1 = widen(w, 1), a2 = widen(w, 2), a3 = widen(w, 3);
#pragma unroll
      for (int b = 0; b < BATCHES; b++) {
        const uint2 f = fragments[((half * 4 + s) * BATCHES + b) * 32 + lane];
        tk::mma_bf16(acc[b], a0, a1, a2, a3, f.x, f.y);
      }
    }
  }
  uint32_t low, high;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(low) : "r"(tile + kScaleOffset + g * 4) : "memory");
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(high) : "r"(tile + kScaleOffset + (g + 8) * 4) : "memory");
  const float2 s0 = tk::unpack_bf16(low), s1 = tk::unpack_bf16(high);
  const float shift0 = s0.y - 128.f, shift1 = s1.y - 128.f;
#pragma unroll
  for (int b = 0; b < BATCHES; b++) {
    const float2 sum = *reinterpret_cast<const float2*>(sums + b * 8 + 2 * t);
    out[b][0] += s0.x * fmaf(shift0, sum.x, acc[b][0]);
    out[b][1] += s0.x * fmaf(shift0, sum.y, acc[b][1]);
    out[b][2] += s1.x * fmaf(shift1, sum.x, acc[b][2]);
    out[b][3] += s1.x * fmaf(shift1, sum.y, acc[b][3]);
  }
}

// Sum the warps' tiles, in warp order, and hand the 16 features x M rows on: to y, or to the partials of this split.
template <int BATCHES>
__device__ __forceinline__ void reduce_and_store(const Problem& p, float (&out)[BATCHES][4], float* board, int block, int split) {
  constexpr int kRow = BATCHES * 8 + 1;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float* mine = board + warp * 16 * kRow;
#pragma unroll
  for (int b = 0; b < BATCHES; b++) {
    mine[g * kRow + b * 8 + 2 * t] = out[b][0];
    mine[g * kRow + b * 8 + 2 * t + 1] = out[b][1];
    mine[(g + 8) * kRow + b * 8 + 2 * t] = out[b][2];
    mine[(g + 8) * kRow + b * 8 + 2 * t + 1] = out[b][3];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 16 * BATCHES * 8; i += kWarps * 32) {
    const int feature = i % 16, row = i / 16;
    if (row >= p.m) continue;
    float sum = 0.f;
#pragma unroll
    for (int w = 0; w < kWarps; w++) sum += board[(w * 16 + feature) * kRow + row];
    const size_t at = static_cast<size_t>(row) * p.n + block * 16 + feature;
    if (p.splits == 1)
      p.y[at] = __float2bfloat16_rn(sum);
    else
      __stcg(p.partial + static_cast<size_t>(split) * p.m * p.n + at, sum);
  }
  __syncthreads();
}

// The last split to finish a block of features sums the splits, in order.
__device__ __forceinline__ void join_splits(const Problem& p, int block) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(p.arrived + block, 1u) + 1 == static_cast<unsigned int>(p.splits);
  __syncthreads();
  if (!last) return;
  __threadfence();
  for (int i = threadIdx.x; i < 16 * p.m; i += kWarps * 32) {
    const size_t at = static_cast<size_t>(i / 16) * p.n + block * 16 + i % 16;
    float sum = 0.f;
    for (int s = 0; s < p.splits; s++) sum += __ldcg(p.partial + static_cast<size_t>(s) * p.m * p.n + at);
    p.y[at] = __float2bfloat16_rn(sum);
  }
  if (threadIdx.x == 0) p.arrived[block] = 0;
}

template <int BATCHES>
__device__ __forceinline__ void w4a16(const Problem& p) {
  constexpr int kStages = BATCHES == 1 ? 6 : 4;
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int all_groups = p.k / kGroup;
  const int split = blockIdx.y;
  const int first_group = split * all_groups / p.splits, groups = (split + 1) * all_groups / p.splits - first_group;
  const int most_groups = (all_groups + p.splits - 1) / p.splits;
  uint2* fragments = reinterpret_cast<uint2*>(shared);
  float* sums = reinterpret_cast<float*>(shared + static_cast<size_t>(most_groups) * 8 * BATCHES * 256);
  unsigned char* rings = reinterpret_cast<unsigned char*>(sums + most_groups * BATCHES * 8);
  float* board = reinterpret_cast<float*>(rings + kWarps * kStages * kTileBytes);
  const uint32_t ring = tk::smem_address(rings) + warp * kStages * kTileBytes;

  const int blocks = p.n / 16;
  // This warp's tiles: of every feature block of this thread block, groups warp, warp + kWarps, …
  int feed_block = blockIdx.x, feed_group = warp, feed_stage = 0;
  const auto feed = [&]() {
    if (feed_block < blocks && feed_group < groups) {
      const unsigned char* tile = p.w + (static_cast<size_t>(feed_block) * all_groups + first_group + feed_group) * kTileBytes;
      const uint32_t stage = ring + feed_stage * kTileBytes;
      tk::copy_async16(stage + lane * 16, tile + lane * 16);
      tk::copy_async16(stage + 512 + lane * 16, tile + 512 + lane * 16);
      if (lane < 4) tk::copy_async16(stage + kScaleOffset + lane * 16, tile + kScaleOffset + lane * 16);
      if (++feed_stage == kStages) feed_stage = 0;
      feed_group += kWarps;
      if (feed_group >= groups) feed_group = warp, feed_block += gridDim.x;
    }
    tk::copy_async_commit();
  };
  for (int i = 0; i < kStages; i++) feed();
  load_activations<BATCHES>(p, first_group, groups, fragments, sums);

  int stage = 0;
  for (int block = blockIdx.x; block < blocks; block += gridDim.x) {
    float out[BATCHES][4] = {};
    for (int group = warp; group < groups; group += kWarps) {
      tk::copy_async_wait<kStages - 1>();
      __syncwarp();
      tile_product<BATCHES>(out, ring + stage * kTileBytes, fragments + static_cast<size_t>(group) * 8 * BATCHES * 32,
                            sums + group * BATCHES * 8);
      __syncwarp();
      if (++stage == kStages) stage = 0;
      feed();
    }
    reduce_and_store<BATCHES>(p, out, board, block, split);
    if (p.splits > 1) join_splits(p, block);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kWarps * 32, 1) w4a16_m8(const __grid_constant__ Problem p) { w4a16<1>(p); }
extern "C" __global__ void __launch_bounds__(kWarps * 32, 1) w4a16_m16(const __grid_constant__ Problem p) { w4a16<2>(p); }
