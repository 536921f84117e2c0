// SiLU·mul of a gated MLP: out[r][c] = silu(in[r][c]) * in[r][inner + c], in bf16 [rows, 2*inner]; and GELU, in its erf and its tanh form, of a
// bf16 tensor, with its gradient.
//
// Memory-bound: 6 bytes an output (GELU: 4). A thread takes the same eight columns of ROWS consecutive rows, so 2*ROWS independent 16-byte loads are
// in flight and a grid row has no remainder when inner is a multiple of 2048.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

__device__ __forceinline__ float silu_mul(float gate, float up) {
  // gate / (1 + exp(-gate)): a NaN stays NaN, -inf gives -inf * 0 = NaN as in IEEE arithmetic.
  return __fdividef(gate, 1.f + tk::exp2_fast(-tk::kLog2e * gate)) * up;
}

template <int ROWS>
__device__ __forceinline__ void silu_mul_tile(__nv_bfloat16* out, const __nv_bfloat16* in, int rows, int inner) {
  const int column = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
  const int first = blockIdx.y * ROWS;
  if (column >= inner) return;
  uint4 gate[ROWS], up[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (first + r < rows) {
      const __nv_bfloat16* p = in + static_cast<size_t>(first + r) * 2 * inner + column;
      gate[r] = tk::load_stream(p);
      up[r] = tk::load_stream(p + inner);
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (first + r >= rows) return;
    const uint32_t* g = reinterpret_cast<const uint32_t*>(&gate[r]);
    const uint32_t* u = reinterpret_cast<const uint32_t*>(&up[r]);
    uint4 result;
    uint32_t* o = reinterpret_cast<uint32_t*>(&result);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float2 a = tk::unpack_bf16(g[k]), b = tk::unpack_bf16(u[k]);
      o[k] = tk::pack_bf16(silu_mul(a.x, b.x), silu_mul(a.y, b.y));
    }
    tk::store_stream(out + static_cast<size_t>(first + r) * inner + column, result);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) silu_mul_1(__nv_bfloat16* out, const __nv_bfloat16* in, int rows, int inner) {
  silu_mul_tile<1>(out, in, rows, inner);
}
extern "C" __global__ void __launch_bounds__(256) silu_mul_2(__nv_bfloat16* out, const __nv_bfloat16* in, int rows, int inner) {
  silu_mul_tile<2>(out, in, rows, inner);
}
extern "C" __global__ void __launch_bounds__(256) silu_mul_4(__nv_bfloat16* out, const __nv_bfloat16* in, int rows, int inner) {
  silu_mul_tile<4>(out, in, rows, inner);
}

namespace {

constexpr int kGeluVectors = 4;

__device__ __forceinline__ float gelu_by_tanh(float x) {
  const float at = x < -3.0e38f ? -3.0e38f : x;  // 0 times -inf is no number
  return __fdividef(at, 1.f + tk::exp2_fast(-tk::kLog2e * 1.5957691f * fmaf(0.044715f * at, at * at, at)));
}

// kGeluVectors loads in flight in a thread.
template <bool TANH>
__device__ __forceinline__ void gelu(__nv_bfloat16* out, const __nv_bfloat16* in, long long vectors) {
  const long long first = static_cast<long long>(blockIdx.x) * kGeluVectors * 256 + threadIdx.x;
  uint4 x[kGeluVectors];
#pragma unroll
  for (int i = 0; i < kGeluVectors; i++)
    if (first + i * 256 < vectors) x[i] = tk::load_stream(in + (first + i * 256) * 8);
#pragma unroll
  for (int i = 0; i < kGeluVectors; i++) {
    if (first + i * 256 >= vectors) return;
    uint32_t* words = reinterpret_cast<uint32_t*>(&x[i]);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float2 v = tk::unpack_bf16(words[k]);
      words[k] = TANH ? tk::pack_bf16(gelu_by_tanh(v.x), gelu_by_tanh(v.y)) : tk::pack_bf16(tk::gelu_erf(v.x), tk::gelu_erf(v.y));
    }
    tk::store_stream(out + (first + i * 256) * 8, x[i]);
  }
}

}  // namespace

namespace {

constexpr int kGradientVectors = 2;

// The derivative of x · Φ(x): Φ(x) + x · φ(x), of which the latter is below 2^-280 past ±20. Φ as tk::gelu_erf has it.
__device__ __forceinline__ float gelu_erf_slope(float x) {
  const float at = x > 20.f ? 20.f : x < -20.f ? -20.f : x;
  const float t = __fdividef(1.f, fmaf(0.35355339f, fabsf(at), 1.f)), square = -0.72134752f * at * at;
  float p = fmaf(0.33006545f, t, -1.02311947f);
  p = fmaf(p, t, 0.68451951f);
  p = fmaf(p, t, 0.36709931f);
  p = fmaf(p, t, 1.46867933f);
  p = fmaf(p, t, -1.82723317f);
  const float tail = 0.5f * t * tk::exp2_fast(square + p);
  return fmaf(0.39894228f * at, tk::exp2_fast(square), at > 0.f ? 1.f - tail : tail);
}

// Of x · s(u(x)) with the logistic s: s + x · s · (1 - s) · u'.
__device__ __forceinline__ float gelu_tanh_slope(float x) {
  const float at = x > 20.f ? 20.f : x < -20.f ? -20.f : x, square = at * at;
  const float share = __fdividef(1.f, 1.f + tk::exp2_fast(-tk::kLog2e * 1.5957691f * at * fmaf(0.044715f, square, 1.f)));
  return fmaf(share * (1.f - share), 1.5957691f * at * fmaf(0.134145f, square, 1.f), share);
}

template <bool TANH>
__device__ __forceinline__ void gelu_gradient(__nv_bfloat16* dx, const __nv_bfloat16* x, const __nv_bfloat16* dy, long long vectors) {
  const long long first = static_cast<long long>(blockIdx.x) * kGradientVectors * 256 + threadIdx.x;
  uint4 in[kGradientVectors], from[kGradientVectors];
#pragma unroll
  for (int i = 0; i < kGradientVectors; i++)
    if (first + i * 256 < vectors) in[i] = tk::load_stream(x + (first + i * 256) * 8), from[i] = tk::load_once(dy + (first + i * 256) * 8);
#pragma unroll
  for (int i = 0; i < kGradientVectors; i++) {
    if (first + i * 256 >= vectors) return;
    uint32_t* words = reinterpret_cast<uint32_t*>(&in[i]);
    const uint32_t* of = reinterpret_cast<const uint32_t*>(&from[i]);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float2 v = tk::unpack_bf16(words[k]), d = tk::unpack_bf16(of[k]);
      words[k] = TANH ? tk::pack_bf16(d.x * gelu_tanh_slope(v.x), d.y * gelu_tanh_slope(v.y)) : tk::pack_bf16(d.x * gelu_erf_slope(v.x), d.y * gelu_erf_slope(v.y));
    }
    tk::store_stream(dx + (first + i * 256) * 8, in[i]);
  }
}

}  // namespace

// dx may be dy.
extern "C" __global__ void __launch_bounds__(256) gelu_gradient_erf(__nv_bfloat16* dx, const __nv_bfloat16* x, const __nv_bfloat16* dy, long long vectors) {
  gelu_gradient<false>(dx, x, dy, vectors);
}
extern "C" __global__ void __launch_bounds__(256) gelu_gradient_tanh(__nv_bfloat16* dx, const __nv_bfloat16* x, const __nv_bfloat16* dy, long long vectors) {
  gelu_gradient<true>(dx, x, dy, vectors);
}

extern "C" __global__ void __launch_bounds__(256) gelu_erf(__nv_bfloat16* out, const __nv_bfloat16* in, long long vectors) {
  gelu<false>(out, in, vectors);
}
extern "C" __global__ void __launch_bounds__(256) gelu_tanh(__nv_bfloat16* out, const __nv_bfloat16* in, long long vectors) {
  gelu<true>(out, in, vectors);
}
