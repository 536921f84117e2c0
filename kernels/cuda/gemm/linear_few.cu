// y[M, N] = x[M, K] · w[N, K]ᵀ in bf16 with f32 sums, for few rows (few.cuh), stored as it comes.
#include "few.cuh"

namespace {

struct Problem {
  __nv_bfloat16* y;
  int m, n, k, features, stages;
};

// The sums, features along the lanes, become rows of y: transposed 8 x 8 by 8 x 8 into the board, then stored 16 bytes a thread.
template <int ROWS>
struct Plain {
  const Problem& p;
  __device__ __forceinline__ void begin(int) const {}
  __device__ __forceinline__ void store(const float (&d)[ROWS / 2], uint32_t board, int first) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t mine = board + (lane % 8) * tk::kBoardRow + (warp * 16 + lane / 8 % 2 * 8) * 2;
#pragma unroll
    for (int b = 0; b < ROWS / 8; b++)
      tk::store_matrices(mine + b * 8 * tk::kBoardRow, tk::pack_bf16(d[4 * b], d[4 * b + 1]), tk::pack_bf16(d[4 * b + 2], d[4 * b + 3]));
    tk::consumers_sync();
    tk::store_board(board, p.y, p.m, p.n, first, p.features);
    tk::consumers_sync();
  }
};

}  // namespace

#define FEW(ROWS)                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(160, 1) linear_few_##ROWS(                                                            \
      const __grid_constant__ tk::TensorMap x, const __grid_constant__ tk::TensorMap w, const __grid_constant__ Problem p) {         \
    tk::multiply_few<tk::Bf16Product, ROWS>(x, w, p.m, p.n, p.k, p.features, p.stages, Plain<ROWS>{p});                                    \
  }
FEW(8)
FEW(16)
FEW(32)
FEW(64)
