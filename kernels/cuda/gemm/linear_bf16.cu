// y[M, N] = x[M, K] · w[N, K]ᵀ in bf16 with f32 sums: the linear layer for many rows.
//
// One persistent block a multiprocessor walks the 128 x COLUMNS tiles of y; the caller picks the width, a multiple of 32 up to 256, whose last
// wave leaves the fewest multiprocessors idle. A producer warp orders tensor copies of 64 columns of x and w into a ring as deep as shared
// memory allows, both under the 128-byte swizzle that wgmma reads; two consumer warpgroups multiply 64 x COLUMNS each, four k16 steps a stage,
// waiting one stage behind so that the tensor cores always have the next products queued.
// full[s] counts the bytes of a stage, empty[s] its eight consuming warps; phases flip each time round the ring, across tiles: the producer runs
// on into the next tile while the consumers store this one.
// Tiles go in groups of kGroup rows of tiles, so that the blocks at work share x and w in L2.
// A row's bits do not depend on M: K is summed in order in one accumulator, by the same steps for every width.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"
#include "../ptx/fragment.cuh"
#include "../ptx/wgmma.cuh"

namespace {

constexpr int kRows = 128, kDepth = 64;
constexpr int kXBytes = kRows * kDepth * 2;
constexpr int kGroup = 16;
constexpr int kMostShared = 232448 - 1024 - 256;  // of a block, less alignment and barriers

template <int COLUMNS>
struct Ring {
  static constexpr int kStageBytes = kXBytes + COLUMNS * kDepth * 2, kStages = kMostShared / kStageBytes;
};

struct Problem {
  __nv_bfloat16* y;
  int m, n, k;
};

template <int COLUMNS>
struct Tiles {
  int rows, columns;
  __device__ __forceinline__ explicit Tiles(const Problem& p) : rows((p.m + kRows - 1) / kRows), columns((p.n + COLUMNS - 1) / COLUMNS) {}
  __device__ __forceinline__ int count() const { return rows * columns; }
  __device__ __forceinline__ void at(int index, int& row, int& column) const {
    const int group = index / (kGroup * columns), first = group * kGroup, within = index % (kGroup * columns);
    const int high = min(kGroup, rows - first);
    row = (first + within % high) * kRows;
    column = within / high * COLUMNS;
  }
};

template <int COLUMNS>
__device__ __forceinline__ void store_tile(const Problem& p, const float (&d)[COLUMNS / 2], int row, int column) {
  const int lane = threadIdx.x % 32, first = row + threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < COLUMNS / 8; i += 4) {
    const int at = column + (i + lane % 4) * 8;
    const uint4 low = tk::gather_block(tk::pack_bf16(d[4 * i], d[4 * i + 1]), tk::pack_bf16(d[4 * i + 4], d[4 * i + 5]),
                                   tk::pack_bf16(d[4 * i + 8], d[4 * i + 9]), tk::pack_bf16(d[4 * i + 12], d[4 * i + 13]));
    const uint4 high = tk::gather_block(tk::pack_bf16(d[4 * i + 2], d[4 * i + 3]), tk::pack_bf16(d[4 * i + 6], d[4 * i + 7]),
                                    tk::pack_bf16(d[4 * i + 10], d[4 * i + 11]), tk::pack_bf16(d[4 * i + 14], d[4 * i + 15]));
    if (at >= p.n) continue;
    if (first < p.m) *reinterpret_cast<uint4*>(p.y + static_cast<size_t>(first) * p.n + at) = low;
    if (first + 8 < p.m) *reinterpret_cast<uint4*>(p.y + static_cast<size_t>(first + 8) * p.n + at) = high;
  }
}

template <int COLUMNS>
__device__ __forceinline__ void linear(const tk::TensorMap& x, const tk::TensorMap& w, const Problem& p) {
  constexpr int kStageBytes = Ring<COLUMNS>::kStageBytes, kStages = Ring<COLUMNS>::kStages;
  extern __shared__ unsigned char unaligned[];
  __shared__ __align__(8) uint64_t full[kStages], empty[kStages];
  const uint32_t ring = (tk::smem_address(unaligned) + 1023) & ~1023u;
  const uint32_t full0 = tk::smem_address(full), empty0 = tk::smem_address(empty);
  const int group = threadIdx.x / 128;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; s++) {
      tk::barrier_init(full0 + 8 * s, 1);
      tk::barrier_init(empty0 + 8 * s, 8);
    }
    tk::barrier_init_fence();
    tk::prefetch_map(x);
    tk::prefetch_map(w);
  }
  __syncthreads();
  const Tiles<COLUMNS> tiles(p);
  const int steps = (p.k + kDepth - 1) / kDepth;
  int stage = 0;
  uint32_t parity = 0;
  if (group == 0) {
    tk::registers_lower<40>();
    if (threadIdx.x == 0) {
      for (int index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
        int row, column;
        tiles.at(index, row, column);
        for (int step = 0; step < steps; step++) {
          const uint32_t to = ring + stage * kStageBytes, barrier = full0 + 8 * stage;
          tk::barrier_wait(empty0 + 8 * stage, parity ^ 1);
          tk::barrier_expect(barrier, kStageBytes);
          tk::copy_tensor(to, x, step * kDepth, row, barrier);
          tk::copy_tensor(to + kXBytes, w, step * kDepth, column, barrier);
          if (++stage == kStages) stage = 0, parity ^= 1;
        }
      }
    }
  } else {
    tk::registers_raise<232>();
    const int half = group - 1, lane = threadIdx.x % 32;
    const auto release = [&](int s) {
      if (lane == 0) tk::barrier_arrive(empty0 + 8 * s);
    };
    float d[COLUMNS / 2];
    for (int index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
      int row, column;
      tiles.at(index, row, column);
      int previous = -1;
      for (int step = 0; step < steps; step++) {
        tk::barrier_wait(full0 + 8 * stage, parity);
        const uint32_t from = ring + stage * kStageBytes;
        const uint64_t a = tk::matrix_descriptor(from + half * (kXBytes / 2)), b = tk::matrix_descriptor(from + kXBytes);
        tk::wgmma_fence();
#pragma unroll
        for (int part = 0; part < kDepth / 16; part++) tk::wgmma_k16(d, a + 2 * part, b + 2 * part, step > 0 || part > 0);
        tk::wgmma_commit();
        tk::wgmma_wait<1>();
        if (previous >= 0) release(previous);
        previous = stage;
        if (++stage == kStages) stage = 0, parity ^= 1;
      }
      tk::wgmma_wait<0>();
      release(previous);
      store_tile<COLUMNS>(p, d, row + half * 64, column);
    }
  }
}

}  // namespace

#define LINEAR(COLUMNS)                                                                                                              \
  extern "C" __global__ void __launch_bounds__(384, 1) linear_bf16_##COLUMNS(                                                        \
      const __grid_constant__ tk::TensorMap x, const __grid_constant__ tk::TensorMap w, const __grid_constant__ Problem p) {         \
    linear<COLUMNS>(x, w, p);                                                                                                        \
  }
LINEAR(64)
LINEAR(96)
LINEAR(128)
LINEAR(160)
LINEAR(192)
LINEAR(224)
LINEAR(256)
