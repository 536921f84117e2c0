// The products of a linear layer for few rows (M <= 64): the weights stream by once, at the memory's rate.
//
// The operands trade places: a tile of wgmma's 64 rows holds FEATURES weight rows (a multiple of 8 up to 64, the caller's choice, such that the
// last wave of tiles leaves few multiprocessors idle) and its columns are the rows of x, ROWS of them. What lies past FEATURES in shared memory
// is multiplied too and never stored: with few rows the tensor cores have the time, and every byte read from memory is used.
// Boxes of x have m rows and no more: rows out of bounds, which the copy engine fills with zeros, cost it more than rows in memory (128 x 4,096 x 14,336 took
// 42 us, 64 rows of it in boxes of 128 81). What lies behind them is multiplied as it is, into sums that nobody reads.
// One producer thread orders two tensor copies of 128 bytes of every row of w and x a stage into a ring as deep as shared memory allows, so that
// up to 200 KB a multiprocessor are on their way; one warpgroup multiplies.
// A row's bits do not depend on M, nor on which kernel: K is summed in order in one accumulator, 32 bytes by 32 bytes, as in many.cuh.
#pragma once
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"
#include "../ptx/wgmma.cuh"

namespace tk {

constexpr int kMostStages = 24;
constexpr int kConsumers = 128;
// Bytes between rows of the board: 16 more than 64 features, so that eight rows fall on all banks.
constexpr int kBoardRow = 144;

__device__ __forceinline__ void consumers_sync() { asm volatile("bar.sync 1, 128;" ::: "memory"); }

// Matrices of 8 x 8 sums, features along the lanes, become rows of the board.
__device__ __forceinline__ void store_matrix(uint32_t address, uint32_t a) {
  asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(address), "r"(a) : "memory");
}
__device__ __forceinline__ void store_matrices(uint32_t address, uint32_t a, uint32_t b) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b) : "memory");
}

// The board's rows of `width` features to y, 16 bytes a thread; y has `n` features a row, the tile begins at `first`.
__device__ __forceinline__ void store_board(uint32_t board, void* y, int m, int n, int first, int width) {
  const int chunks = width / 8;
  for (int i = threadIdx.x; i < chunks * m; i += kConsumers) {
    const int row = i / chunks, feature = i % chunks * 8;
    if (first + feature < n)
      *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(y) + static_cast<size_t>(row) * n + first + feature) =
          load_shared16(board + row * kBoardRow + feature * 2);
  }
}

// Calls epilogue.begin(first) before the products of every tile and epilogue.store(sums, board, first) behind them: features from `first` down the 64
// rows of the sums, rows of x across.
template <class PRODUCT, int ROWS, class Epilogue>
__device__ __forceinline__ void multiply_few(const TensorMap& x, const TensorMap& w, int m, int n, int k, int features, int stages, Epilogue epilogue) {
  constexpr int kRowBytes = ROWS * 128;
  extern __shared__ unsigned char unaligned[];
  __shared__ __align__(8) uint64_t full[kMostStages], empty[kMostStages];
  __shared__ __align__(16) unsigned char board[ROWS * kBoardRow];
  const uint32_t ring = (smem_address(unaligned) + 1023) & ~1023u;
  const uint32_t full0 = smem_address(full), empty0 = smem_address(empty);
  const uint32_t half = features * 128 + kRowBytes, stage_bytes = 2 * half, copied = (features + m) * 128;
  begin_ring(full0, empty0, stages, 4, x, w);
  const int halves = (k + PRODUCT::kDepth - 1) / PRODUCT::kDepth, steps = (halves + 1) / 2;
  const int tiles = (n + features - 1) / features;
  int stage = 0;
  uint32_t parity = 0;
  if (threadIdx.x >= kConsumers) {
    if (threadIdx.x == kConsumers) {
      for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
        const int first = index * features;
        for (int step = 0; step < steps; step++) {
          const int count = min(2, halves - 2 * step);
          const uint32_t barrier = full0 + 8 * stage;
          barrier_wait(empty0 + 8 * stage, parity ^ 1);
          barrier_expect(barrier, count * copied);
          for (int h = 0; h < count; h++) {
            const uint32_t to = ring + stage * stage_bytes + h * half;
            const int column = (2 * step + h) * PRODUCT::kDepth;
            copy_tensor(to, w, column, first, barrier);
            copy_tensor(to + features * 128, x, column, 0, barrier);
          }
          if (++stage == stages) stage = 0, parity ^= 1;
        }
      }
    }
  } else {
    const int lane = threadIdx.x % 32;
    const uint32_t board0 = smem_address(board);
    typename PRODUCT::Sum d[ROWS / 2];
    const auto release = [&](int s) {
      if (lane == 0) barrier_arrive(empty0 + 8 * s);
    };
    const auto multiply = [&](uint32_t from, int accumulate) {
      const uint64_t a = matrix_descriptor(from), b = matrix_descriptor(from + features * 128);
#pragma unroll
      for (int part = 0; part < 4; part++) PRODUCT::multiply(d, a + 2 * part, b + 2 * part, accumulate || part > 0);
    };
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      int previous = -1;
      epilogue.begin(index * features);
      for (int step = 0; step < halves / 2; step++) {
        barrier_wait(full0 + 8 * stage, parity);
        const uint32_t from = ring + stage * stage_bytes;
        wgmma_fence();
        multiply(from, step > 0);
        multiply(from + half, 1);
        wgmma_commit();
        wgmma_wait<1>();
        if (previous >= 0) release(previous);
        previous = stage;
        if (++stage == stages) stage = 0, parity ^= 1;
      }
      if (halves % 2) {
        barrier_wait(full0 + 8 * stage, parity);
        wgmma_fence();
        multiply(ring + stage * stage_bytes, halves > 1);
        wgmma_commit();
      }
      wgmma_wait<0>();
      if (previous >= 0) release(previous);
      if (halves % 2) {
        release(stage);
        if (++stage == stages) stage = 0, parity ^= 1;
      }
      epilogue.store(d, board0, index * features);
    }
  }
}

}  // namespace tk
