// y[M, N] = x[M, K] · w[N, K]ᵀ in bf16 with f32 sums, for few rows (M <= 64): the weights stream by once, at the memory's rate.
//
// The operands trade places: a tile of wgmma's 64 rows holds FEATURES weight rows (a multiple of 8 up to 64, the caller's choice, such that the
// last wave of tiles leaves few multiprocessors idle) and its columns are the rows of x, ROWS of them. What lies past FEATURES in shared memory
// is multiplied too and never stored: with few rows the tensor cores have the time, and every byte read from memory is used.
// One producer thread orders tensor copies of 128 columns of w and x a stage into a ring as deep as shared memory allows, so that up to 200 KB
// a multiprocessor are on their way; one warpgroup multiplies.
// A row's bits do not depend on M, nor on which kernel: K is summed in order in one accumulator, k16 by k16, as in linear_bf16.cu.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"
#include "../ptx/wgmma.cuh"

namespace {

constexpr int kMostStages = 24;
constexpr int kConsumers = 128;
// Bytes between rows of the board: 16 more than 64 features, so that eight rows fall on all banks.
constexpr int kBoardRow = 144;

struct Problem {
  __nv_bfloat16* y;
  int m, n, k, features, stages;
};

__device__ __forceinline__ void store_matrices(uint32_t address, uint32_t a, uint32_t b) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b) : "memory");
}
__device__ __forceinline__ void consumers_sync() { asm volatile("bar.sync 1, 128;" ::: "memory"); }

// The sums, features along the lanes, become rows of y: transposed 8 x 8 by 8 x 8 into the board, then stored 16 bytes a thread.
template <int ROWS>
__device__ __forceinline__ void store_tile(const Problem& p, const float (&d)[ROWS / 2], uint32_t board, int first) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t mine = board + (lane % 8) * kBoardRow + (warp * 16 + lane / 8 % 2 * 8) * 2;
#pragma unroll
  for (int b = 0; b < ROWS / 8; b++)
    store_matrices(mine + b * 8 * kBoardRow, tk::pack_bf16(d[4 * b], d[4 * b + 1]), tk::pack_bf16(d[4 * b + 2], d[4 * b + 3]));
  consumers_sync();
  const int chunks = p.features / 8;
  for (int i = threadIdx.x; i < chunks * p.m; i += kConsumers) {
    const int row = i / chunks, feature = i % chunks * 8;
    if (first + feature < p.n)
      *reinterpret_cast<uint4*>(p.y + static_cast<size_t>(row) * p.n + first + feature) = tk::load_shared16(board + row * kBoardRow + feature * 2);
  }
  consumers_sync();
}

template <int ROWS>
__device__ __forceinline__ void few(const tk::TensorMap& x, const tk::TensorMap& w, const Problem& p) {
  constexpr int kXBytes = ROWS * 128;
  extern __shared__ unsigned char unaligned[];
  __shared__ __align__(8) uint64_t full[kMostStages], empty[kMostStages];
  __shared__ __align__(16) unsigned char board[ROWS * kBoardRow];
  const uint32_t ring = (tk::smem_address(unaligned) + 1023) & ~1023u;
  const uint32_t full0 = tk::smem_address(full), empty0 = tk::smem_address(empty);
  const uint32_t half = p.features * 128 + kXBytes, stage_bytes = 2 * half;
  if (threadIdx.x == 0) {
    for (int s = 0; s < p.stages; s++) {
      tk::barrier_init(full0 + 8 * s, 1);
      tk::barrier_init(empty0 + 8 * s, 4);
    }
    tk::barrier_init_fence();
  }
  __syncthreads();
  const int halves = (p.k + 63) / 64, steps = (halves + 1) / 2;
  const int tiles = (p.n + p.features - 1) / p.features;
  int stage = 0;
  uint32_t parity = 0;
  if (threadIdx.x >= kConsumers) {
    if (threadIdx.x == kConsumers) {
      for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
        const int first = index * p.features;
        for (int step = 0; step < steps; step++) {
          const int count = min(2, halves - 2 * step);
          const uint32_t barrier = full0 + 8 * stage;
          tk::barrier_wait(empty0 + 8 * stage, parity ^ 1);
          tk::barrier_expect(barrier, count * half);
          for (int h = 0; h < count; h++) {
            const uint32_t to = ring + stage * stage_bytes + h * half;
            const int column = (2 * step + h) * 64;
            tk::copy_tensor(to, w, column, first, barrier);
            tk::copy_tensor(to + p.features * 128, x, column, 0, barrier);
          }
          if (++stage == p.stages) stage = 0, parity ^= 1;
        }
      }
    }
  } else {
    const int lane = threadIdx.x % 32;
    const uint32_t board0 = tk::smem_address(board);
    float d[ROWS / 2];
    const auto release = [&](int s) {
      if (lane == 0) tk::barrier_arrive(empty0 + 8 * s);
    };
    const auto multiply = [&](uint32_t from, int accumulate) {
      const uint64_t a = tk::matrix_descriptor(from), b = tk::matrix_descriptor(from + p.features * 128);
#pragma unroll
      for (int part = 0; part < 4; part++) tk::wgmma_k16(d, a + 2 * part, b + 2 * part, accumulate || part > 0);
    };
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      int previous = -1;
      for (int step = 0; step < halves / 2; step++) {
        tk::barrier_wait(full0 + 8 * stage, parity);
        const uint32_t from = ring + stage * stage_bytes;
        tk::wgmma_fence();
        multiply(from, step > 0);
        multiply(from + half, 1);
        tk::wgmma_commit();
        tk::wgmma_wait<1>();
        if (previous >= 0) release(previous);
        previous = stage;
        if (++stage == p.stages) stage = 0, parity ^= 1;
      }
      if (halves % 2) {
        tk::barrier_wait(full0 + 8 * stage, parity);
        tk::wgmma_fence();
        multiply(ring + stage * stage_bytes, halves > 1);
        tk::wgmma_commit();
      }
      tk::wgmma_wait<0>();
      if (previous >= 0) release(previous);
      if (halves % 2) {
        release(stage);
        if (++stage == p.stages) stage = 0, parity ^= 1;
      }
      store_tile<ROWS>(p, d, board0, index * p.features);
    }
  }
}

}  // namespace

#define FEW(ROWS)                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(160, 1) linear_few_##ROWS(                                                            \
      const __grid_constant__ tk::TensorMap x, const __grid_constant__ tk::TensorMap w, const __grid_constant__ Problem p) {         \
    few<ROWS>(x, w, p);                                                                                                              \
  }
FEW(8)
FEW(16)
FEW(32)
FEW(64)
