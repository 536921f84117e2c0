// The products of a linear layer for many rows: y[M, N] = x[M, K] · w[N, K]ᵀ, 128 bytes of a row of x and of w a step.
//
// One persistent block a multiprocessor walks the 128 x COLUMNS tiles of y; the caller picks the width, a multiple of 32 up to 256, whose last
// wave leaves the fewest multiprocessors idle. A producer warp orders tensor copies of 128 bytes of every row of x and w into a ring as deep as
// shared memory allows, both under the 128-byte swizzle that wgmma reads; two consumer warpgroups multiply 64 x COLUMNS each, four products a
// stage, waiting one stage behind so that the tensor cores always have the next products queued.
// full[s] counts the bytes of a stage, empty[s] its eight consuming warps; phases flip each time round the ring, across tiles: the producer runs
// on into the next tile while the consumers store this one.
// No box of x reaches past its end, which would cost the copy engine more than rows in memory: under 128 rows the boxes have as many, and the last
// tile of more begins 128 rows before the end. Rows that two tiles have get the same bits from both.
// Tiles go in groups of kGroup rows of tiles, so that the blocks at work share x and w in L2.
// A row's bits do not depend on M: K is summed in order in one accumulator, by the same steps for every width.
#pragma once
#include "../ptx/memory.cuh"
#include "../ptx/wgmma.cuh"

namespace tk {

constexpr int kRows = 128;
constexpr int kXBytes = kRows * 128;
constexpr int kGroup = 16;
constexpr int kMostShared = 232448 - 1024 - 256;  // of a block, less alignment and barriers

// SPARE: bytes of shared memory a column of the tile that the epilogue takes.
template <int COLUMNS, int SPARE>
struct Ring {
  static constexpr int kStageBytes = kXBytes + COLUMNS * 128, kStages = (kMostShared - COLUMNS * SPARE) / kStageBytes;
};

template <int COLUMNS>
struct Tiles {
  int rows, columns, last;  // where the last tile of rows begins
  __device__ __forceinline__ Tiles(int m, int n) : rows((m + kRows - 1) / kRows), columns((n + COLUMNS - 1) / COLUMNS), last(max(m - kRows, 0)) {}
  __device__ __forceinline__ int count() const { return rows * columns; }
  __device__ __forceinline__ void at(int index, int& row, int& column) const {
    const int group = index / (kGroup * columns), first = group * kGroup, within = index % (kGroup * columns);
    const int high = min(kGroup, rows - first);
    row = min((first + within % high) * kRows, last);
    column = within / high * COLUMNS;
  }
};

// The producer: one thread orders every stage of every tile, `depth` columns of x and w each.
template <int COLUMNS, int STAGES>
__device__ __forceinline__ void produce_many(const TensorMap& x, const TensorMap& w, const Tiles<COLUMNS>& tiles, int m, int steps, int depth, uint32_t ring,
                                             uint32_t full0, uint32_t empty0) {
  if (threadIdx.x != 0) return;
  const uint32_t copied = (min(m, kRows) + COLUMNS) * 128;
  Place at{0, 0};
  for (int index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
    int row, column;
    tiles.at(index, row, column);
    for (int step = 0; step < steps; step++) {
      const uint32_t to = ring + at.slot * (kXBytes + COLUMNS * 128), barrier = full0 + 8 * at.slot;
      barrier_wait(empty0 + 8 * at.slot, at.parity ^ 1);
      barrier_expect(barrier, copied);
      copy_tensor(to, x, step * depth, row, barrier);
      copy_tensor(to + kXBytes, w, step * depth, column, barrier);
      at.template advance<STAGES>();
    }
  }
}

// For every half tile, 64 rows from `row` and COLUMNS columns from `column`, a warpgroup calls epilogue.begin(row, column) before the products and
// epilogue.store(sums, row, column) behind them, with the sums as wgmma lays them out.
template <class PRODUCT, int COLUMNS, class Epilogue>
__device__ __forceinline__ void multiply_many(const TensorMap& x, const TensorMap& w, int m, int n, int k, Epilogue epilogue) {
  constexpr int kStageBytes = Ring<COLUMNS, Epilogue::kSpare>::kStageBytes, kStages = Ring<COLUMNS, Epilogue::kSpare>::kStages, kDepth = PRODUCT::kDepth;
  extern __shared__ unsigned char unaligned[];
  __shared__ __align__(8) uint64_t full[kStages], empty[kStages];
  const uint32_t ring = (smem_address(unaligned) + 1023) & ~1023u;
  const uint32_t full0 = smem_address(full), empty0 = smem_address(empty);
  const int group = threadIdx.x / 128;
  begin_ring(full0, empty0, kStages, 8, x, w);
  const Tiles<COLUMNS> tiles(m, n);
  const int steps = (k + kDepth - 1) / kDepth;
  int stage = 0;
  uint32_t parity = 0;
  if (group == 0) {
    registers_lower<40>();
    produce_many<COLUMNS, kStages>(x, w, tiles, m, steps, kDepth, ring, full0, empty0);
  } else {
    registers_raise<232>();
    const int half = group - 1, lane = threadIdx.x % 32;
    const auto release = [&](int s) {
      if (lane == 0) barrier_arrive(empty0 + 8 * s);
    };
    typename PRODUCT::Sum d[COLUMNS / 2];
    for (int index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
      int row, column;
      tiles.at(index, row, column);
      epilogue.begin(row + half * 64, column);
      int previous = -1;
      for (int step = 0; step < steps; step++) {
        barrier_wait(full0 + 8 * stage, parity);
        const uint32_t from = ring + stage * kStageBytes;
        const uint64_t a = matrix_descriptor(from + half * (kXBytes / 2)), b = matrix_descriptor(from + kXBytes);
        wgmma_fence();
#pragma unroll
        for (int part = 0; part < 4; part++) PRODUCT::multiply(d, a + 2 * part, b + 2 * part, step > 0 || part > 0);
        wgmma_commit();
        wgmma_wait<1>();
        if (previous >= 0) release(previous);
        previous = stage;
        if (++stage == kStages) stage = 0, parity ^= 1;
      }
      wgmma_wait<0>();
      release(previous);
      epilogue.store(d, row + half * 64, column);
    }
  }
}

}  // namespace tk
