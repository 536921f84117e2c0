// y[M, N] = x[M, K] · w[N, K]ᵀ in bf16 with f32 sums: the linear layer for many rows (many.cuh), stored as it comes.
#include "../ptx/fragment.cuh"
#include "../ptx/math.cuh"
#include "many.cuh"

namespace {

struct Problem {
  __nv_bfloat16* y;
  int m, n, k;
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
struct Plain {
  static constexpr int kSpare = 0;
  const Problem& p;
  __device__ __forceinline__ void begin(int, int) const {}
  __device__ __forceinline__ void store(const float (&d)[COLUMNS / 2], int row, int column) const { store_tile<COLUMNS>(p, d, row, column); }
};

}  // namespace

#define LINEAR(COLUMNS)                                                                                                              \
  extern "C" __global__ void __launch_bounds__(384, 1) linear_bf16_##COLUMNS(                                                        \
      const __grid_constant__ tk::TensorMap x, const __grid_constant__ tk::TensorMap w, const __grid_constant__ Problem p) {         \
    tk::multiply_many<tk::Bf16Product, COLUMNS>(x, w, p.m, p.n, p.k, Plain<COLUMNS>{p});                                             \
  }
LINEAR(32)
LINEAR(64)
LINEAR(96)
LINEAR(128)
LINEAR(160)
LINEAR(192)
LINEAR(224)
LINEAR(256)
