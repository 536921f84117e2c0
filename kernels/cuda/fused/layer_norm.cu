// LayerNorm, with an addition before it where there is a residual: residual <- residual + x, y <- (r - mean(r)) / sqrt(var(r) + e) * weight + bias.
//
// As the RMS norm beside it (norm.cu): one block holds one row in registers, so the row is read once. The variance is that of the centred row, in a second sum over the registers: a row far from
// zero loses nothing. Sums are taken in an order that the row's length alone fixes.
#include "held_row.cuh"

namespace {

template <int VECTORS, bool ADD>
__device__ __forceinline__ void layer_norm_row(__nv_bfloat16* y, const __nv_bfloat16* x, __nv_bfloat16* residual, const __nv_bfloat16* weight,
                                               const __nv_bfloat16* bias, int hidden, float epsilon) {
  __shared__ float partial[2][32];
  const size_t row = static_cast<size_t>(blockIdx.x) * hidden;
  const int vectors = hidden / 8;
  uint4 in[VECTORS];
  tk::load_row<ADD>(in, x + row, residual + row, hidden);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const uint32_t* a = reinterpret_cast<const uint32_t*>(&in[i]);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float2 s = tk::unpack_bf16(a[k]);
      sum += s.x + s.y;
    }
  }
  const float mean = tk::block_sum(sum, partial[0]) / static_cast<float>(hidden);
  float squares = 0.f;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const uint32_t* a = reinterpret_cast<const uint32_t*>(&in[i]);
    if (threadIdx.x + i * blockDim.x >= vectors) continue;
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float2 s = tk::unpack_bf16(a[k]);
      squares += (s.x - mean) * (s.x - mean) + (s.y - mean) * (s.y - mean);
    }
  }
  const float scale = rsqrtf(tk::block_sum(squares, partial[1]) / static_cast<float>(hidden) + epsilon);
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v >= vectors) continue;
    const uint4 w = __ldg(reinterpret_cast<const uint4*>(weight + v * 8));
    const uint4 c = bias ? __ldg(reinterpret_cast<const uint4*>(bias + v * 8)) : make_uint4(0, 0, 0, 0);
    const uint32_t *a = reinterpret_cast<const uint32_t*>(&in[i]), *g = reinterpret_cast<const uint32_t*>(&w), *h = reinterpret_cast<const uint32_t*>(&c);
    uint4 out;
    uint32_t* o = reinterpret_cast<uint32_t*>(&out);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float2 s = tk::unpack_bf16(a[k]), m = tk::unpack_bf16(g[k]), n = tk::unpack_bf16(h[k]);
      o[k] = tk::pack_bf16(fmaf((s.x - mean) * scale, m.x, n.x), fmaf((s.y - mean) * scale, m.y, n.y));
    }
    tk::store_stream(y + row + v * 8, out);
  }
}

}  // namespace

#define LAYER_NORM(VECTORS)                                                                                                              \
  extern "C" __global__ void __launch_bounds__(1024) add_layer_norm_##VECTORS(__nv_bfloat16* y, const __nv_bfloat16* x, __nv_bfloat16* r, \
                                                                              const __nv_bfloat16* w, const __nv_bfloat16* b, int hidden, \
                                                                              float e) {                                                  \
    layer_norm_row<VECTORS, true>(y, x, r, w, b, hidden, e);                                                                             \
  }                                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(1024) layer_norm_##VECTORS(__nv_bfloat16* y, const __nv_bfloat16* x, const __nv_bfloat16* w, \
                                                                          const __nv_bfloat16* b, int hidden, float e) {                 \
    layer_norm_row<VECTORS, false>(y, x, nullptr, w, b, hidden, e);                                                                      \
  }

LAYER_NORM(1)
LAYER_NORM(2)
LAYER_NORM(4)
