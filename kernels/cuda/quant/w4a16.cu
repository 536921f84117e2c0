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
// sum of the group's activations, taken beforehand by a product with ones: zero points are free.
//
// One block a multiprocessor. Its feature tiles are shared out so that every warp owns one slice of K of one of them and streams it through a
// private cp.async ring: every thread reads back what it copied, so the main loop has no barrier, and slices are summed once, in order. How K
// is sliced depends on N and K alone: a row's bits do not depend on M.
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
  unsigned int* arrived;  // [N / 16], zero before the first call, left zero
  int m, n, k, splits;
};

// 128 + nibble, two of them.
__device__ __forceinline__ uint32_t widen(uint32_t word, int i) {
  uint32_t r;
  asm("lop3.b32 %0, %1, 0x000f000f, 0x43004300, 0xea;" : "=r"(r) : "r"(word >> (4 * i)));
  return r;
}

// Shared memory: x as it lies, [BATCHES * 8] rows of this split's columns and 16 bytes more, so that eight rows fall on all banks; its group
// sums [groups][BATCHES * 8] of f32; rings [kWarps][kStages] of kTileBytes; and a board [kWarps][16][BATCHES * 8 + 1] of f32 for the sum over
// slices. Rows of x past M are left as they are: a garbage column of B reaches only its own column of the product.

__device__ __forceinline__ uint4 load_matrices(uint32_t address) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// Every row of ones · xᵀ is the sum of the group, so the first row's four lanes have what they need.
template <int BATCHES>
__device__ __forceinline__ void sum_groups(float* sums, uint32_t x, uint32_t stride, int groups) {
  constexpr uint32_t kOnes = 0x3f803f80u;
  const int lane = threadIdx.x % 32;
  for (int group = threadIdx.x / 32; group < groups; group += kWarps) {
#pragma unroll
    for (int b = 0; b < BATCHES; b++) {
      float sum[4] = {};
#pragma unroll
      for (int pair = 0; pair < 4; pair++) {
        const uint4 f = load_matrices(x + b * 8 * stride + group * 256 + pair * 64);
        tk::mma_bf16(sum, kOnes, kOnes, kOnes, kOnes, f.x, f.y);
        tk::mma_bf16(sum, kOnes, kOnes, kOnes, kOnes, f.z, f.w);
      }
      if (lane < 4) *reinterpret_cast<float2*>(sums + (group * BATCHES + b) * 8 + 2 * lane) = make_float2(sum[0], sum[1]);
    }
  }
}

// `x` is this lane's row and chunk of the first batch, `stride` the bytes of a row.
template <int BATCHES>
__device__ __forceinline__ void tile_product(float (&out)[BATCHES][4], uint32_t tile, uint32_t x, uint32_t stride, const float* sums) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  // Two chains of dependent products, so that one's latency hides under the other.
  float acc[2][BATCHES][4] = {};
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const uint4 words = tk::load_shared16(tile + half * 512 + lane * 16);
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
      uint4 f[BATCHES];
#pragma unroll
      for (int b = 0; b < BATCHES; b++) f[b] = load_matrices(x + b * 8 * stride + (half * 2 + pair) * 64);
#pragma unroll
      for (int odd = 0; odd < 2; odd++) {
        const uint32_t w = (&words.x)[pair * 2 + odd];
        const uint32_t a0 = widen(w, 0), a1 = widen(w, 1), a2 = widen(w, 2), a3 = widen(w, 3);
#pragma unroll
        for (int b = 0; b < BATCHES; b++) {
          const uint32_t b0 = odd ? f[b].z : f[b].x, b1 = odd ? f[b].w : f[b].y;
          tk::mma_bf16(acc[odd][b], a0, a1, a2, a3, b0, b1);
        }
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
    out[b][0] += s0.x * fmaf(shift0, sum.x, acc[0][b][0] + acc[1][b][0]);
    out[b][1] += s0.x * fmaf(shift0, sum.y, acc[0][b][1] + acc[1][b][1]);
    out[b][2] += s1.x * fmaf(shift1, sum.x, acc[0][b][2] + acc[1][b][2]);
    out[b][3] += s1.x * fmaf(shift1, sum.y, acc[0][b][3] + acc[1][b][3]);
  }
}

// Sum the slices of this block's feature tiles, in order, and hand them on: to y, or to the partials of this split.
template <int BATCHES>
__device__ __forceinline__ void reduce_and_store(const Problem& p, float (&out)[BATCHES][4], float* board, int first_tile, int tiles, int slices,
                                                 int split) {
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
  for (int i = threadIdx.x; i < tiles * 16 * p.m; i += kWarps * 32) {
    const int feature = i % 16, tile = i / 16 % tiles, row = i / 16 / tiles;
    float sum = 0.f;
    for (int s = 0; s < slices; s++) sum += board[((tile * slices + s) * 16 + feature) * kRow + row];
    const size_t at = static_cast<size_t>(row) * p.n + (first_tile + tile) * 16 + feature;
    if (p.splits == 1)
      p.y[at] = __float2bfloat16_rn(sum);
    else
      __stcg(p.partial + static_cast<size_t>(split) * p.m * p.n + at, sum);
  }
  __syncthreads();
}

// The last split to finish these feature tiles sums the splits, in order.
__device__ __forceinline__ void join_splits(const Problem& p, int first_tile, int tiles) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(p.arrived + first_tile, 1u) + 1 == static_cast<unsigned int>(p.splits);
  __syncthreads();
  if (!last) return;
  __threadfence();
  const int width = tiles * 16;
  for (int i = threadIdx.x; i < width * p.m; i += kWarps * 32) {
    const size_t at = static_cast<size_t>(i / width) * p.n + first_tile * 16 + i % width;
    float sum = 0.f;
    for (int s = 0; s < p.splits; s++) sum += __ldcg(p.partial + static_cast<size_t>(s) * p.m * p.n + at);
    p.y[at] = __float2bfloat16_rn(sum);
  }
  if (threadIdx.x == 0) p.arrived[first_tile] = 0;
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
  const uint32_t stride = most_groups * 256 + 16;
  float* sums = reinterpret_cast<float*>(shared + BATCHES * 8 * stride);
  unsigned char* rings = shared + BATCHES * 8 * stride + most_groups * BATCHES * 32;
  float* board = reinterpret_cast<float*>(rings + kWarps * kStages * kTileBytes);
  const uint32_t ring = tk::smem_address(rings) + warp * kStages * kTileBytes;

  // Feature tiles of this block, in rounds of at most one a warp; what warps are left over slice K.
  const int blocks = p.n / 16;
  const int begin = static_cast<int>(static_cast<long long>(blockIdx.x) * blocks / gridDim.x);
  const int end = static_cast<int>(static_cast<long long>(blockIdx.x + 1) * blocks / gridDim.x);
  const int most_tiles = min(kWarps, (blocks + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x));
  const int slices = max(1, min(kWarps / most_tiles, all_groups / p.splits));
  const int tile = warp / slices, slice = warp % slices;
  const int from = slice * groups / slices, to = (slice + 1) * groups / slices;

  // A slice's tiles lie one after the other; a further round skips to the next of this warp's feature tiles.
  int left = tile < most_tiles ? max(0, (end - begin - tile + most_tiles - 1) / most_tiles) * (to - from) : 0, left_in_slice = to - from;
  const unsigned char* source = p.w + (static_cast<size_t>(begin + tile) * all_groups + first_group + from) * kTileBytes + lane * 16;
  const size_t skip = (static_cast<size_t>(most_tiles) * all_groups - (to - from)) * kTileBytes;
  uint32_t target = ring + lane * 16;
  const auto feed = [&]() {
    if (left > 0) {
      tk::copy_async16(target, source);
      tk::copy_async16(target + 512, source + 512);
      if (lane < 4) tk::copy_async16(target + kScaleOffset, source + kScaleOffset);
      left--;
      target += kTileBytes;
      if (target >= ring + kStages * kTileBytes) target -= kStages * kTileBytes;
      source += kTileBytes;
      if (--left_in_slice == 0) source += skip, left_in_slice = to - from;
    }
    tk::copy_async_commit();
  };
  // A warp brings a row of x, before the first tiles.
  if (warp < p.m) {
    const unsigned char* row = reinterpret_cast<const unsigned char*>(p.x + static_cast<size_t>(warp) * p.k + first_group * kGroup);
    const uint32_t into = tk::smem_address(shared) + warp * stride;
    for (int chunk = lane; chunk < groups * 16; chunk += 32) tk::copy_async16(into + chunk * 16, row + chunk * 16);
  }
  tk::copy_async_commit();
  for (int i = 0; i < kStages; i++) feed();
  tk::copy_async_wait<kStages>();
  __syncthreads();
  const uint32_t x = tk::smem_address(shared) + lane % 8 * stride + lane / 8 * 16;
  sum_groups<BATCHES>(sums, x, stride, groups);
  __syncthreads();

  int stage = 0;
  for (int first_tile = begin; first_tile < end; first_tile += most_tiles) {
    float out[BATCHES][4] = {};
    if (tile < most_tiles && first_tile + tile < end) {
      for (int group = from; group < to; group++) {
        tk::copy_async_wait<kStages - 1>();
        __syncwarp();
        tile_product<BATCHES>(out, ring + stage * kTileBytes, x + group * 256, stride, sums + group * BATCHES * 8);
        __syncwarp();
        if (++stage == kStages) stage = 0;
        feed();
      }
    }
    const int tiles = min(most_tiles, end - first_tile);
    reduce_and_store<BATCHES>(p, out, board, first_tile, tiles, slices, split);
    if (p.splits > 1) join_splits(p, first_tile, tiles);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kWarps * 32, 1) w4a16_m8(const __grid_constant__ Problem p) { w4a16<1>(p); }
extern "C" __global__ void __launch_bounds__(kWarps * 32, 1) w4a16_m16(const __grid_constant__ Problem p) { w4a16<2>(p); }
