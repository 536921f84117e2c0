// bf16 pairs, warp sums and the fast exponentials the kernels share.
#pragma once
#include <cuda_bf16.h>
#include <stdint.h>

namespace tk {

constexpr float kLog2e = 1.4426950408889634f;

// A 32-bit word of two bf16: low half first.
__device__ __forceinline__ float2 unpack_bf16(uint32_t w) {
  return {__uint_as_float(w << 16), __uint_as_float(w & 0xffff0000u)};
}
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
  uint32_t w;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(hi), "f"(lo));
  return w;
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}

// The sum of this lane's and all lower lanes' values.
template <typename T>
__device__ __forceinline__ T warp_inclusive(T v) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const T low = __shfl_up_sync(0xffffffffu, v, step);
    if (threadIdx.x % 32 >= step) v += low;
  }
  return v;
}

// The sum over a block, the same in every thread, in an order that the block's size fixes. `partial` holds 32 floats; calls one after the other need
// one each.
__device__ __forceinline__ float block_sum(float v, float* partial) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  return warp_sum(lane < warps ? partial[lane] : 0.f);
}
// The greatest of a block; a NaN is passed over.
__device__ __forceinline__ float block_max(float v, float* partial) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  v = lane < warps ? partial[lane] : -INFINITY;
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
  return v;
}

// x · Φ(x), the exact GELU, to 2^-17 of its value, without a cancellation in the tail; 0 at -inf. Φ(-|x|) = t/2 · 2^(p(t) - x² log2(e) / 2) with
// t = 1 / (1 + |x| / √8) and p a fit of erfc's logarithm to 7.6e-6 (the form is that of Press et al., Numerical Recipes, section 6.2). Every
// rounding is spelled out: the same bits in every kernel.
__device__ __forceinline__ float gelu_erf(float x) {
  const float t = __fdividef(1.f, fmaf(0.35355339f, fabsf(x), 1.f));
  float p = fmaf(0.33006545f, t, -1.02311947f);
  p = fmaf(p, t, 0.68451951f);
  p = fmaf(p, t, 0.36709931f);
  p = fmaf(p, t, 1.46867933f);
  p = fmaf(p, t, -1.82723317f);
  const float tail = __fmul_rn(__fmul_rn(__fmul_rn(0.5f, x), t), exp2_fast(fmaf(__fmul_rn(-0.72134752f, x), x, p)));
  const float inner = x > 0.f ? __fsub_rn(x, tail) : tail;
  return x > 20.f ? x : x < -20.f ? 0.f : inner;
}

// D = A·B + D, A 16x16 row-major, B 16x8 column-major, bf16 in and f32 accumulated.
__device__ __forceinline__ void mma_bf16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

}  // namespace tk
