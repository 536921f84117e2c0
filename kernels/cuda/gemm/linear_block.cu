// Linear layers of e4m3 operands with a scale for every 128 columns of a row of x and for every 128 x 128 of w: y = Σ over blocks of K of
// (products of the block) · scale of x · scale of w. The sums of a block are the tensor cores' own, the sum of blocks is in f32 registers: a
// scale a block and the promotion every 128 columns are what DeepSeek-V3's training uses.
// The loops of many.cuh and few.cuh with a stage's products taken out, scaled and added before the next.
#include "epilogue.cuh"

namespace {

constexpr int kColumns = 128;

struct Scales {
  const float* x;  // [k blocks, m]
  const float* w;  // [n blocks, k blocks]
};

__device__ __forceinline__ void many(const tk::TensorMap& x, const tk::TensorMap& w, const tk::Epilogue& p, const Scales& scales) {
  using Epilogue = tk::Many<tk::Bf16Out, kColumns, float>;
  constexpr int kStageBytes = tk::Ring<kColumns, Epilogue::kSpare>::kStageBytes, kStages = tk::Ring<kColumns, Epilogue::kSpare>::kStages;
  extern __shared__ unsigned char unaligned[];
  __shared__ __align__(16) tk::Column table[2 * kColumns];
  __shared__ __align__(8) uint64_t full[kStages], empty[kStages];
  const uint32_t ring = (tk::smem_address(unaligned) + 1023) & ~1023u;
  const uint32_t full0 = tk::smem_address(full), empty0 = tk::smem_address(empty);
  const int group = threadIdx.x / 128;
  tk::begin_ring(full0, empty0, kStages, 8, x, w);
  const tk::Tiles<kColumns> tiles(p.m, p.n);
  const int steps = (p.k + 127) / 128;
  int stage = 0;
  uint32_t parity = 0;
  if (group == 0) {
    tk::registers_lower<40>();
    tk::produce_many<kColumns, kStages>(x, w, tiles, p.m, steps, 128, ring, full0, empty0);
  } else {
    tk::registers_raise<232>();
    const int half = group - 1, lane = threadIdx.x % 32;
    // Two sets of sums: one is scaled and added while the tensor cores fill the other.
    float a[2][kColumns / 2], total[kColumns / 2];
    float scale_low[2], scale_high[2];
    for (int index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
      int row, column;
      tiles.at(index, row, column);
      row += half * 64;
      Epilogue epilogue(p, table);
      epilogue.begin(row, column);
      const int first = row + threadIdx.x / 32 % 4 * 16 + lane / 4;
      const float* w_scale = scales.w + static_cast<size_t>(column / 128) * steps;
#pragma unroll
      for (int i = 0; i < kColumns / 2; i++) total[i] = 0.f;
      const auto start = [&](float(&d)[kColumns / 2], float& low, float& high, int step) {
        const float of_w = __ldg(w_scale + step);
        const float* of_x = scales.x + static_cast<size_t>(step) * p.m;
        low = first < p.m ? __fmul_rn(__ldg(of_x + first), of_w) : 0.f;
        high = first + 8 < p.m ? __fmul_rn(__ldg(of_x + first + 8), of_w) : 0.f;
        tk::barrier_wait(full0 + 8 * stage, parity);
        const uint32_t from = ring + stage * kStageBytes;
        const uint64_t da = tk::matrix_descriptor(from + half * (tk::kXBytes / 2)), db = tk::matrix_descriptor(from + tk::kXBytes);
        tk::wgmma_fence();
#pragma unroll
        for (int part = 0; part < 4; part++) tk::wgmma_e4m3(d, da + 2 * part, db + 2 * part, part > 0);
        tk::wgmma_commit();
      };
      int previous = 0;
      const auto add = [&](float(&d)[kColumns / 2], float low, float high) {
        if (lane == 0) tk::barrier_arrive(empty0 + 8 * previous);
#pragma unroll
        for (int i = 0; i < kColumns / 8; i++) {
          total[4 * i] = fmaf(d[4 * i], low, total[4 * i]);
          total[4 * i + 1] = fmaf(d[4 * i + 1], low, total[4 * i + 1]);
          total[4 * i + 2] = fmaf(d[4 * i + 2], high, total[4 * i + 2]);
          total[4 * i + 3] = fmaf(d[4 * i + 3], high, total[4 * i + 3]);
        }
      };
      const auto next_stage = [&] {
        previous = stage;
        if (++stage == kStages) stage = 0, parity ^= 1;
      };
      start(a[0], scale_low[0], scale_high[0], 0);
      next_stage();
      int step = 1;
      for (; step + 1 < steps; step += 2) {
        start(a[1], scale_low[1], scale_high[1], step);
        tk::wgmma_wait<1>();
        tk::wgmma_hold(a[0]);
        add(a[0], scale_low[0], scale_high[0]);
        next_stage();
        start(a[0], scale_low[0], scale_high[0], step + 1);
        tk::wgmma_wait<1>();
        tk::wgmma_hold(a[1]);
        add(a[1], scale_low[1], scale_high[1]);
        next_stage();
      }
      if (step < steps) {
        start(a[1], scale_low[1], scale_high[1], step);
        tk::wgmma_wait<1>();
        tk::wgmma_hold(a[0]);
        add(a[0], scale_low[0], scale_high[0]);
        next_stage();
        tk::wgmma_wait<0>();
        tk::wgmma_hold(a[1]);
        add(a[1], scale_low[1], scale_high[1]);
      } else {
        tk::wgmma_wait<0>();
        tk::wgmma_hold(a[0]);
        add(a[0], scale_low[0], scale_high[0]);
      }
      epilogue.store(total, row, column);
    }
  }
}

template <int ROWS>
__device__ __forceinline__ void few(const tk::TensorMap& x, const tk::TensorMap& w, const tk::Epilogue& p, const Scales& scales) {
  constexpr int kRowBytes = ROWS * 128;
  extern __shared__ unsigned char unaligned[];
  __shared__ __align__(8) uint64_t full[tk::kMostStages], empty[tk::kMostStages];
  __shared__ __align__(16) unsigned char board[ROWS * tk::kBoardRow];
  const uint32_t ring = (tk::smem_address(unaligned) + 1023) & ~1023u;
  const uint32_t full0 = tk::smem_address(full), empty0 = tk::smem_address(empty);
  const uint32_t stage_bytes = p.features * 128 + kRowBytes;
  tk::begin_ring(full0, empty0, p.stages, 4, x, w);
  const int steps = (p.k + 127) / 128, tiles = (p.n + p.features - 1) / p.features;
  int stage = 0;
  uint32_t parity = 0;
  if (threadIdx.x >= tk::kConsumers) {
    if (threadIdx.x == tk::kConsumers) {
      for (int index = blockIdx.x; index < tiles; index += gridDim.x)
        for (int step = 0; step < steps; step++) {
          const uint32_t barrier = full0 + 8 * stage, to = ring + stage * stage_bytes;
          tk::barrier_wait(empty0 + 8 * stage, parity ^ 1);
          tk::barrier_expect(barrier, (p.features + p.m) * 128);
          tk::copy_tensor(to, w, step * 128, index * p.features, barrier);
          tk::copy_tensor(to + p.features * 128, x, step * 128, 0, barrier);
          if (++stage == p.stages) stage = 0, parity ^= 1;
        }
    }
  } else {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t board0 = tk::smem_address(board);
    tk::Few<tk::Bf16Out, ROWS, float> epilogue(p);
    float d[ROWS / 2], total[ROWS / 2];
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      const int first = index * p.features, low = min(first + warp * 16 + g, p.n - 1), high = min(first + warp * 16 + g + 8, p.n - 1);
#pragma unroll
      for (int i = 0; i < ROWS / 2; i++) total[i] = 0.f;
      epilogue.begin(first);
      for (int step = 0; step < steps; step++) {
        const float of_low = __ldg(scales.w + static_cast<size_t>(low / 128) * steps + step);
        const float of_high = __ldg(scales.w + static_cast<size_t>(high / 128) * steps + step);
        const float* of_x = scales.x + static_cast<size_t>(step) * p.m;
        float rows[ROWS / 4];
#pragma unroll
        for (int b = 0; b < ROWS / 8; b++) {
          rows[2 * b] = __ldg(of_x + min(b * 8 + 2 * t, p.m - 1));
          rows[2 * b + 1] = __ldg(of_x + min(b * 8 + 2 * t + 1, p.m - 1));
        }
        tk::barrier_wait(full0 + 8 * stage, parity);
        const uint32_t from = ring + stage * stage_bytes;
        const uint64_t da = tk::matrix_descriptor(from), db = tk::matrix_descriptor(from + p.features * 128);
        tk::wgmma_fence();
#pragma unroll
        for (int part = 0; part < 4; part++) tk::wgmma_e4m3(d, da + 2 * part, db + 2 * part, part > 0);
        tk::wgmma_commit();
        tk::wgmma_wait<0>();
        tk::wgmma_hold(d);
        if (lane == 0) tk::barrier_arrive(empty0 + 8 * stage);
        if (++stage == p.stages) stage = 0, parity ^= 1;
#pragma unroll
        for (int b = 0; b < ROWS / 8; b++) {
          total[4 * b] = fmaf(d[4 * b], __fmul_rn(rows[2 * b], of_low), total[4 * b]);
          total[4 * b + 1] = fmaf(d[4 * b + 1], __fmul_rn(rows[2 * b + 1], of_low), total[4 * b + 1]);
          total[4 * b + 2] = fmaf(d[4 * b + 2], __fmul_rn(rows[2 * b], of_high), total[4 * b + 2]);
          total[4 * b + 3] = fmaf(d[4 * b + 3], __fmul_rn(rows[2 * b + 1], of_high), total[4 * b + 3]);
        }
      }
      epilogue.store(total, board0, first);
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(384, 1) linear_block_128(const __grid_constant__ tk::TensorMap x, const __grid_constant__ tk::TensorMap w,
                                                                      const __grid_constant__ tk::Epilogue p, const __grid_constant__ Scales scales) {
  many(x, w, p, scales);
}
#define FEW(ROWS)                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(160, 1)                                                                               \
      linear_block_few_##ROWS(const __grid_constant__ tk::TensorMap x, const __grid_constant__ tk::TensorMap w,                      \
                              const __grid_constant__ tk::Epilogue p, const __grid_constant__ Scales scales) {                       \
    few<ROWS>(x, w, p, scales);                                                                                                      \
  }
FEW(8)
FEW(16)
FEW(32)
FEW(64)
