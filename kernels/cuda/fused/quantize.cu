// Rows of activations as 8-bit numbers with a scale each, or one for every 128 columns: bare, behind an RMS norm (with or without adding to the
// residual), behind the gate of a SwiGLU MLP. What a linear layer of 8-bit operands reads is made where the values are in registers anyway.
//
// Memory-bound. One block holds one row in registers, VECTORS vectors of eight columns a thread, as in norm.cu; nothing is rounded to bf16 on the
// way but the residual, which is the next layer's. A scale is the greatest magnitude over 448 (e4m3) or 127 (int8), 0 for a row of zeros.
// Sums and maxima are of the row alone: its bits do not depend on the batch.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

enum Source { kCopy, kNorm, kAddNorm, kSiluMul };

struct Problem {
  uint8_t* out;   // [rows, hidden]
  float* scales;  // [rows], or [hidden / 128, rows]
  const __nv_bfloat16* x;  // [rows, hidden]; twice as wide for the gate
  __nv_bfloat16* residual;
  const __nv_bfloat16* weight;
  int rows, hidden;
  int integers, blocks;
  float epsilon;
};

__device__ __forceinline__ uint32_t four_e4m3(const float* v, float inverse) {
  uint16_t low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(v[1] * inverse), "f"(v[0] * inverse));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(v[3] * inverse), "f"(v[2] * inverse));
  return low | static_cast<uint32_t>(high) << 16;
}
__device__ __forceinline__ uint32_t four_int8(const float* v, float inverse) {
  uint32_t w = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) w |= (static_cast<uint32_t>(max(-127, min(127, __float2int_rn(v[i] * inverse)))) & 0xffu) << (8 * i);
  return w;
}

template <Source SOURCE, int VECTORS>
__device__ __forceinline__ void quantize_row(const Problem& p) {
  __shared__ float sums[32], maxima[32];
  const int vectors = p.hidden / 8;
  const size_t row = static_cast<size_t>(blockIdx.x) * p.hidden;
  const __nv_bfloat16* x = p.x + row * (SOURCE == kSiluMul ? 2 : 1);
  tk::start_next_grid();
  if (SOURCE == kAddNorm && threadIdx.x == 0) tk::prefetch_to_l2(x, p.hidden * 2), tk::prefetch_to_l2(p.residual + row, p.hidden * 2);
  tk::wait_for_previous_grid();
  uint4 in[VECTORS], other[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int v = threadIdx.x + i * blockDim.x;
    in[i] = other[i] = make_uint4(0, 0, 0, 0);
    if (v >= vectors) continue;
    in[i] = tk::load_stream(x + v * 8);
    if (SOURCE == kAddNorm) other[i] = tk::load_once(p.residual + row + v * 8);
    if (SOURCE == kSiluMul) other[i] = tk::load_stream(x + p.hidden + v * 8);
  }
  float value[VECTORS][8], sum = 0.f;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    uint32_t* a = reinterpret_cast<uint32_t*>(&in[i]);
    const uint32_t* b = reinterpret_cast<const uint32_t*>(&other[i]);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      float2 s = tk::unpack_bf16(a[k]);
      const float2 q = tk::unpack_bf16(b[k]);
      if (SOURCE == kAddNorm) {
        a[k] = tk::pack_bf16(s.x + q.x, s.y + q.y);
        s = tk::unpack_bf16(a[k]);
      }
      if (SOURCE == kSiluMul) {
        s.x = __fdividef(s.x, 1.f + tk::exp2_fast(-tk::kLog2e * s.x)) * q.x;
        s.y = __fdividef(s.y, 1.f + tk::exp2_fast(-tk::kLog2e * s.y)) * q.y;
      }
      sum += s.x * s.x + s.y * s.y;
      value[i][2 * k] = s.x, value[i][2 * k + 1] = s.y;
    }
  }
  if (SOURCE == kAddNorm) {
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int v = threadIdx.x + i * blockDim.x;
      if (v < vectors) tk::store_stream(p.residual + row + v * 8, in[i]);
    }
  }
  if (SOURCE == kNorm || SOURCE == kAddNorm) {
    const float scale = rsqrtf(tk::block_sum(sum, sums) / static_cast<float>(p.hidden) + p.epsilon);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int v = threadIdx.x + i * blockDim.x;
      if (v >= vectors) continue;
      const uint4 w = __ldg(reinterpret_cast<const uint4*>(p.weight + v * 8));
      const uint32_t* b = reinterpret_cast<const uint32_t*>(&w);
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float2 g = tk::unpack_bf16(b[k]);
        value[i][2 * k] *= scale * g.x, value[i][2 * k + 1] *= scale * g.y;
      }
    }
  }
  float peak[VECTORS], most = 0.f;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    peak[i] = 0.f;
#pragma unroll
    for (int k = 0; k < 8; k++) peak[i] = fmaxf(peak[i], fabsf(value[i][k]));
    most = fmaxf(most, peak[i]);
  }
  const float top = p.integers ? 127.f : 448.f;
  if (p.blocks) {
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
#pragma unroll
      for (int step = 8; step > 0; step >>= 1) peak[i] = fmaxf(peak[i], __shfl_xor_sync(0xffffffffu, peak[i], step));
  } else {
    most = tk::block_max(most, maxima);
    if (threadIdx.x == 0) p.scales[blockIdx.x] = most / top;
  }
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v >= vectors) continue;
    const float greatest = p.blocks ? peak[i] : most;
    if (p.blocks && v % 16 == 0) p.scales[static_cast<size_t>(v / 16) * p.rows + blockIdx.x] = greatest / top;
    // Magnitudes below the least whose inverse is finite leave zeros.
    const float inverse = greatest > 1e-35f ? top / greatest : 0.f;
    const uint2 w = p.integers ? make_uint2(four_int8(value[i], inverse), four_int8(value[i] + 4, inverse))
                               : make_uint2(four_e4m3(value[i], inverse), four_e4m3(value[i] + 4, inverse));
    *reinterpret_cast<uint2*>(p.out + row + v * 8) = w;
  }
}

}  // namespace

#define QUANTIZE(NAME, SOURCE, VECTORS) \
  extern "C" __global__ void __launch_bounds__(1024) NAME##_##VECTORS(const __grid_constant__ Problem p) { quantize_row<SOURCE, VECTORS>(p); }
QUANTIZE(quantize_rows, kCopy, 1)
QUANTIZE(quantize_rows, kCopy, 2)
QUANTIZE(quantize_rows, kCopy, 4)
QUANTIZE(rms_norm_quantize, kNorm, 1)
QUANTIZE(rms_norm_quantize, kNorm, 2)
QUANTIZE(rms_norm_quantize, kNorm, 4)
QUANTIZE(add_rms_norm_quantize, kAddNorm, 1)
QUANTIZE(add_rms_norm_quantize, kAddNorm, 2)
QUANTIZE(add_rms_norm_quantize, kAddNorm, 4)
QUANTIZE(silu_mul_quantize, kSiluMul, 1)
QUANTIZE(silu_mul_quantize, kSiluMul, 2)
QUANTIZE(silu_mul_quantize, kSiluMul, 4)
