// add + RMSNorm: residual <- residual + x, y <- residual / rms(residual) * weight.
//
// Memory-bound: two rows in, two rows out, 8 bytes an element in bf16. One block holds one row in registers, so the row is read once.
// The sum is taken over the rounded residual, which is what the next layer will read, in an order that depends on the row length alone:
// a row's bits do not change with the batch it is in.
#include "held_row.cuh"

namespace {

template <int VECTORS, bool ADD>
__device__ __forceinline__ void rms_norm_row(__nv_bfloat16* y, const __nv_bfloat16* x, __nv_bfloat16* residual,
                                             const __nv_bfloat16* weight, int hidden, float epsilon) {
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
      sum += s.x * s.x + s.y * s.y;
    }
  }
  __shared__ float partial[32];
  const float total = tk::block_sum(sum, partial);
  const float scale = rsqrtf(total / static_cast<float>(hidden) + epsilon);
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v >= vectors) continue;
    const uint4 w = __ldg(reinterpret_cast<const uint4*>(weight + v * 8));
    const uint32_t* a = reinterpret_cast<const uint32_t*>(&in[i]);
    const uint32_t* b = reinterpret_cast<const uint32_t*>(&w);
    uint4 out;
    uint32_t* o = reinterpret_cast<uint32_t*>(&out);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float2 s = tk::unpack_bf16(a[k]), g = tk::unpack_bf16(b[k]);
      o[k] = tk::pack_bf16(s.x * scale * g.x, s.y * scale * g.y);
    }
    tk::store_stream(y + row + v * 8, out);
  }
}

}  // namespace

#define RMS_NORM(VECTORS)                                                                                                      \
  extern "C" __global__ void __launch_bounds__(1024) add_rms_norm_##VECTORS(                                                   \
      __nv_bfloat16* y, const __nv_bfloat16* x, __nv_bfloat16* residual, const __nv_bfloat16* weight, int hidden, float eps) { \
    rms_norm_row<VECTORS, true>(y, x, residual, weight, hidden, eps);                                                          \
  }                                                                                                                            \
  extern "C" __global__ void __launch_bounds__(1024) rms_norm_##VECTORS(                                                       \
      __nv_bfloat16* y, const __nv_bfloat16* x, const __nv_bfloat16* weight, int hidden, float eps) {                          \
    rms_norm_row<VECTORS, false>(y, x, nullptr, weight, hidden, eps);                                                          \
  }

RMS_NORM(1)
RMS_NORM(2)
RMS_NORM(4)
