// What happens to the sums of a linear layer before they are rounded, once: scales, bias, activation, gate, residual.
#pragma once
#include <cuda_fp16.h>

#include "../ptx/fragment.cuh"
#include "../ptx/math.cuh"
#include "few.cuh"
#include "many.cuh"

namespace tk {

struct Epilogue {
  void* y;                    // [m, n], or [m, n / 2] when gated
  const void* bias;           // [n], or null
  const void* residual;       // as y, or null
  const float* row_scale;     // of x: [m] or [1]; null where operands are 16 bits wide
  const float* column_scale;  // of w: [n] or [1]
  int m, n, k;
  int row_scales, column_scales;  // 1 where there is one a row and one a column, 0 where one serves all
  int active;                 // whether there is an activation: x / (1 + 2^(x · P(x²)))
  float curve[7];             // P, its constant first; its argument is at most 49
  int gated;                  // rows of w lie as eight of the gate, eight of the other factor, and so on
  int features, stages;       // of the kernel for few rows
};

struct Bf16Out {
  using Type = __nv_bfloat16;
  static __device__ __forceinline__ uint32_t pack(float lo, float hi) { return pack_bf16(lo, hi); }
  static __device__ __forceinline__ float2 unpack(uint32_t w) { return unpack_bf16(w); }
};
struct HalfOut {
  using Type = __half;
  static __device__ __forceinline__ uint32_t pack(float lo, float hi) {
    uint32_t w;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(hi), "f"(lo));
    return w;
  }
  static __device__ __forceinline__ float2 unpack(uint32_t w) {
    return __half22float2(*reinterpret_cast<const __half2*>(&w));
  }
};

__device__ __forceinline__ float as_float(float v) { return v; }
__device__ __forceinline__ float as_float(int v) { return __int2float_rn(v); }

// Of a column of y: one and zero where there are none.
struct Column {
  float scale, bias;
};
template <class OUT>
__device__ __forceinline__ float element(const void* p, size_t at) {
  return static_cast<float>(static_cast<const typename OUT::Type*>(p)[at]);
}
__device__ __forceinline__ float row_scale(const Epilogue& p, int row) {
  return p.row_scale && row < p.m ? __ldg(p.row_scale + row * p.row_scales) : 1.f;
}

// Steps with their rounding spelled out: the kernels for few and for many rows give the same bits.
__device__ __forceinline__ float scaled(float sum, float row_scale, Column c) { return fmaf(__fmul_rn(sum, row_scale), c.scale, c.bias); }
// x / (1 + 2^(x · P(x²))): SiLU, and GELU in its tanh form and by erf, each a P of its own (linear.rs): one path for all, and no branch in it. The least
// finite number stands for -inf, of which 0 times itself would make a NaN.
__device__ __forceinline__ float activate(float x, const Epilogue& p) {
  const float at = x < -3.0e38f ? -3.0e38f : x, square = fminf(__fmul_rn(at, at), 49.f);
  float sum = p.curve[6];
#pragma unroll
  for (int i = 5; i >= 0; i--) sum = fmaf(sum, square, p.curve[i]);
  return __fdividef(at, __fadd_rn(1.f, exp2_fast(__fmul_rn(at, sum))));
}
__device__ __forceinline__ float finished(float value, float other, const Epilogue& p) {
  const float active = p.active ? activate(value, p) : value;
  return p.gated ? __fmul_rn(active, other) : active;
}

template <class OUT>
__device__ __forceinline__ Column column_at(const Epilogue& p, int at) {
  Column c = {1.f, 0.f};
  if (at >= p.n) return c;
  if (p.column_scale) c.scale = __ldg(p.column_scale + at * p.column_scales);
  if (p.bias) c.bias = element<OUT>(p.bias, at);
  return c;
}

// The epilogue of the kernel for many rows. Scales and biases of a tile's columns are read before its products and shared behind them: read where
// they are used, element by element, they took longer than the products of K 4,096.
// What most layers ask for has a path of its own, with two instructions an element: code that a tile runs through once is fetched about as slowly as
// memory is read, and one path for everything took longer than the products of a tile too.
template <class OUT, int COLUMNS, typename SUM>
struct Many {
  static constexpr int kSpare = 2 * sizeof(Column);
  const Epilogue& p;
  static constexpr int kEach = (COLUMNS + 127) / 128;
  Column* table;        // [2 warpgroups, COLUMNS]
  float low, high;      // scales of this thread's two rows
  Column read[kEach];   // what it brings to the table

  __device__ __forceinline__ Many(const Epilogue& of, Column* columns) : p(of), table(columns), low(1.f), high(1.f), read{} {}
  __device__ __forceinline__ Column* mine() const { return table + (threadIdx.x / 128 - 1) * COLUMNS; }
  __device__ __forceinline__ void together() const { asm volatile("bar.sync %0, 128;" ::"r"(threadIdx.x / 128) : "memory"); }
  static __device__ __forceinline__ int first_row(int row) { return row + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4; }

  __device__ __forceinline__ void begin(int row, int column) {
    low = row_scale(p, first_row(row)), high = row_scale(p, first_row(row) + 8);
#pragma unroll
    for (int i = 0; i < kEach; i++) read[i] = column_at<OUT>(p, column + threadIdx.x % 128 + 128 * i);
  }

  // Scales and biases of this thread's two columns of a block of eight.
  __device__ __forceinline__ void columns_of(int block, Column& left, Column& right) const {
    const float4 c = *reinterpret_cast<const float4*>(mine() + block * 8 + 2 * (threadIdx.x % 4));
    left = {c.x, c.y}, right = {c.z, c.w};
  }

  __device__ __forceinline__ void plain(const SUM (&d)[COLUMNS / 2], int row, int column) const {
    const int first = first_row(row), at = column + threadIdx.x % 4 * 8;
    typename OUT::Type* y = static_cast<typename OUT::Type*>(p.y) + static_cast<size_t>(first) * p.n + at;
    const bool has_low = first < p.m, has_high = first + 8 < p.m;
#pragma unroll
    for (int block = 0; block < COLUMNS / 8; block += 4) {
      asm volatile("" ::: "memory");  // the table's entries of this turn and no other's: all of them at once do not fit in registers
      uint32_t a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        Column left, right;
        columns_of(block + i, left, right);
        const int j = 4 * (block + i);
        a[i] = OUT::pack(scaled(as_float(d[j]), low, left), scaled(as_float(d[j + 1]), low, right));
        b[i] = OUT::pack(scaled(as_float(d[j + 2]), high, left), scaled(as_float(d[j + 3]), high, right));
      }
      const uint4 u = gather_block(a[0], a[1], a[2], a[3]), v = gather_block(b[0], b[1], b[2], b[3]);
      if (at + block * 8 >= p.n) continue;
      if (has_low) *reinterpret_cast<uint4*>(y + block * 8) = u;
      if (has_high) *reinterpret_cast<uint4*>(y + static_cast<size_t>(8) * p.n + block * 8) = v;
    }
  }

  // A thread holds two neighbouring columns of every block of eight, of two rows: the words of four blocks, GATED of eight, of one of the rows.
  template <bool ACTIVE, bool GATED>
  __device__ __forceinline__ uint4 quad(const SUM (&d)[COLUMNS / 2], int block, bool high, int row, int column, float scale) const {
    constexpr int kStep = GATED ? 2 : 1;
    const int t = threadIdx.x % 4, width = p.n / kStep;
    uint32_t residual[4] = {}, word[4];
    if (p.residual && row < p.m) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int at = (column + block * 8) / kStep + i * 8 + 2 * t;
        if (at < width) residual[i] = *reinterpret_cast<const uint32_t*>(static_cast<const typename OUT::Type*>(p.residual) + static_cast<size_t>(row) * width + at);
      }
    }
    const auto pair = [&](int b) {
      Column left, right;
      columns_of(b, left, right);
      const int i = 4 * b + (high ? 2 : 0);
      return make_float2(scaled(as_float(d[i]), scale, left), scaled(as_float(d[i + 1]), scale, right));
    };
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float2 v = pair(block + i * kStep);
      if (ACTIVE) v = {activate(v.x, p), activate(v.y, p)};
      if (GATED) {
        const float2 other = pair(block + i * kStep + 1);
        v = {__fmul_rn(v.x, other.x), __fmul_rn(v.y, other.y)};
      }
      if (p.residual) {
        const float2 r = OUT::unpack(residual[i]);
        v = {__fadd_rn(v.x, r.x), __fadd_rn(v.y, r.y)};
      }
      word[i] = OUT::pack(v.x, v.y);
    }
    return gather_block(word[0], word[1], word[2], word[3]);
  }

  template <bool ACTIVE, bool GATED>
  __device__ __forceinline__ void all(const SUM (&d)[COLUMNS / 2], int row, int column) const {
    constexpr int kStep = GATED ? 2 : 1;
    const int lane = threadIdx.x % 32, first = first_row(row), width = p.n / kStep;
    typename OUT::Type* y = static_cast<typename OUT::Type*>(p.y);
#pragma unroll
    for (int block = 0; block < COLUMNS / 8; block += 4 * kStep) {
      asm volatile("" ::: "memory");  // the table's entries of this turn and no other's: all of them at once do not fit in registers
      const uint4 above = quad<ACTIVE, GATED>(d, block, false, first, column, low);
      const uint4 below = quad<ACTIVE, GATED>(d, block, true, first + 8, column, high);
      const int at = (column + block * 8) / kStep + lane % 4 * 8;
      if (at >= width) continue;
      if (first < p.m) *reinterpret_cast<uint4*>(y + static_cast<size_t>(first) * width + at) = above;
      if (first + 8 < p.m) *reinterpret_cast<uint4*>(y + static_cast<size_t>(first + 8) * width + at) = below;
    }
  }

  __device__ __forceinline__ void store(const SUM (&d)[COLUMNS / 2], int row, int column) const {
    together();  // nobody reads the last tile's
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const int at = threadIdx.x % 128 + 128 * i;
      if (at < COLUMNS) mine()[at] = read[i];
    }
    together();
    // Beside more columns there are no registers for a curve, nor for pairs, and pairs of blocks fill widths of sixty-fours: such layers take other tiles.
    if constexpr (COLUMNS == 64 || COLUMNS == 128) {
      if (p.gated) {
        all<true, true>(d, row, column);
        return;
      }
      if (p.active) {
        all<true, false>(d, row, column);
        return;
      }
    }
    if (p.residual)
      all<false, false>(d, row, column);
    else
      plain(d, row, column);
  }
};

// A tile of the kernel for few rows: a thread holds features g and g + 8 of its warp's sixteen, of two neighbouring rows in every eight. Scales are read
// before the products, and those of rows once.
template <class OUT, int ROWS, typename SUM>
struct Few {
  const Epilogue& p;
  float rows[ROWS / 4];  // scales of this thread's
  Column low, high;      // of its features

  __device__ __forceinline__ explicit Few(const Epilogue& of) : p(of), low{1.f, 0.f}, high{1.f, 0.f} {
#pragma unroll
    for (int i = 0; i < ROWS / 4; i++) rows[i] = row_scale(p, i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2);
  }
  __device__ __forceinline__ void begin(int first) {
    const int at = first + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    low = column_at<OUT>(p, at), high = column_at<OUT>(p, at + 8);
  }

  __device__ __forceinline__ void store(const SUM (&d)[ROWS / 2], uint32_t board, int first) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int step = p.gated ? 2 : 1, width = p.n / step;
    const uint32_t mine = board + (lane % 8) * kBoardRow + (p.gated ? warp * 8 : warp * 16 + lane / 8 % 2 * 8) * 2;
    if (p.gated || p.active || p.residual)
      special(d, mine, first, width);
    else
      plain(d, mine);
    consumers_sync();
    store_board(board, p.y, p.m, width, first / step, p.features / step);
    consumers_sync();
  }

  __device__ __forceinline__ void plain(const SUM (&d)[ROWS / 2], uint32_t mine) const {
#pragma unroll
    for (int b = 0; b < ROWS / 8; b++) {
      const float s = rows[2 * b], r = rows[2 * b + 1];
      store_matrices(mine + b * 8 * kBoardRow, OUT::pack(scaled(as_float(d[4 * b]), s, low), scaled(as_float(d[4 * b + 1]), r, low)),
                     OUT::pack(scaled(as_float(d[4 * b + 2]), s, high), scaled(as_float(d[4 * b + 3]), r, high)));
    }
  }

  __device__ __forceinline__ void special(const SUM (&d)[ROWS / 2], uint32_t mine, int first, int width) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, at = first + warp * 16 + g;
    const auto settled = [&](float v, float other, int row, int y_feature) {
      v = finished(v, other, p);
      if (p.residual && row < p.m && y_feature < width) v = __fadd_rn(v, element<OUT>(p.residual, static_cast<size_t>(row) * width + y_feature));
      return v;
    };
#pragma unroll
    for (int b = 0; b < ROWS / 8; b++) {
      const int row = b * 8 + 2 * t;
      const float s = rows[2 * b], r = rows[2 * b + 1];
      const float l0 = scaled(as_float(d[4 * b]), s, low), l1 = scaled(as_float(d[4 * b + 1]), r, low);
      const float h0 = scaled(as_float(d[4 * b + 2]), s, high), h1 = scaled(as_float(d[4 * b + 3]), r, high);
      if (p.gated) {
        const int pair = first / 2 + warp * 8 + g;
        store_matrix(mine + b * 8 * kBoardRow, OUT::pack(settled(l0, h0, row, pair), settled(l1, h1, row + 1, pair)));
      } else {
        store_matrices(mine + b * 8 * kBoardRow, OUT::pack(settled(l0, l0, row, at), settled(l1, l1, row + 1, at)),
                       OUT::pack(settled(h0, h0, row, at + 8), settled(h1, h1, row + 1, at + 8)));
      }
    }
  }
};

}  // namespace tk

#define TK_LINEAR_MANY(NAME, PRODUCT, OUT, COLUMNS)                                                                                  \
  extern "C" __global__ void __launch_bounds__(384, 1) NAME##_##COLUMNS(const __grid_constant__ tk::TensorMap x,                     \
                                                                        const __grid_constant__ tk::TensorMap w,                     \
                                                                        const __grid_constant__ tk::Epilogue p) {                    \
    __shared__ __align__(16) tk::Column table[2 * COLUMNS];                                                                          \
    tk::multiply_many<tk::PRODUCT, COLUMNS>(x, w, p.m, p.n, p.k, tk::Many<tk::OUT, COLUMNS, tk::PRODUCT::Sum>(p, table));            \
  }
#define TK_LINEAR_FEW(NAME, PRODUCT, OUT, ROWS)                                                                                      \
  extern "C" __global__ void __launch_bounds__(160, 1) NAME##_few_##ROWS(const __grid_constant__ tk::TensorMap x,                    \
                                                                         const __grid_constant__ tk::TensorMap w,                    \
                                                                         const __grid_constant__ tk::Epilogue p) {                   \
    tk::multiply_few<tk::PRODUCT, ROWS>(x, w, p.m, p.n, p.k, p.features, p.stages, tk::Few<tk::OUT, ROWS, tk::PRODUCT::Sum>(p));          \
  }
#define TK_LINEAR(NAME, PRODUCT, OUT)       \
  TK_LINEAR_MANY(NAME, PRODUCT, OUT, 64)    \
  TK_LINEAR_MANY(NAME, PRODUCT, OUT, 128)   \
  TK_LINEAR_MANY(NAME, PRODUCT, OUT, 192)   \
  TK_LINEAR_MANY(NAME, PRODUCT, OUT, 256)   \
  TK_LINEAR_FEW(NAME, PRODUCT, OUT, 8)      \
  TK_LINEAR_FEW(NAME, PRODUCT, OUT, 16)     \
  TK_LINEAR_FEW(NAME, PRODUCT, OUT, 32)     \
  TK_LINEAR_FEW(NAME, PRODUCT, OUT, 64)
