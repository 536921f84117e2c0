// add + RMSNorm: residual <- residual + x, y <- residual / rms(residual) * weight.
//
// Memory-bound: two rows in, two rows out, 8 bytes an element in bf16. One block holds one row in registers, so the row is read once;
// VECTORS 16-byte loads of each input are in flight in every thread before the first use.
// The grid is launched before the one ahead of it in the stream has ended, and waits there: its blocks take the places of the last ones of that grid
// as they go, and no time passes between the two.
// The sum is taken over the rounded residual, which is what the next layer will read, in an order that depends on the row length alone:
// a row's bits do not change with the batch it is in.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

template <int VECTORS, bool ADD>
__device__ __forceinline__ void rms_norm_row(__nv_bfloat16* y, const __nv_bfloat16* x, __nv_bfloat16* residual,
                                             const __nv_bfloat16* weight, int hidden, float epsilon) {
  tk::start_next_grid();
  tk::wait_for_previous_grid();
  const size_t row = static_cast<size_t>(blockIdx.x) * hidden;
  const int vectors = hidden / 8;
  uint4 in[VECTORS], old[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v < vectors) {
      in[i] = ADD ? tk::load_once(x + row + v * 8) : tk::load_stream(x + row + v * 8);
      if (ADD) old[i] = tk::load_once(residual + row + v * 8);
    } else {
      in[i] = old[i] = make_uint4(0, 0, 0, 0);
    }
  }
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    uint32_t* a = reinterpret_cast<uint32_t*>(&in[i]);
    const uint32_t* b = reinterpret_cast<const uint32_t*>(&old[i]);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      if (ADD) {
        const float2 p = tk::unpack_bf16(a[k]), q = tk::unpack_bf16(b[k]);
        a[k] = tk::pack_bf16(p.x + q.x, p.y + q.y);
      }
      const float2 s = tk::unpack_bf16(a[k]);
      sum += s.x * s.x + s.y * s.y;
    }
  }
  if (ADD) {
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int v = threadIdx.x + i * blockDim.x;
      if (v < vectors) tk::store_stream(residual + row + v * 8, in[i]);
    }
  }
  __shared__ float partial[32];
  sum = tk::warp_sum(sum);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  const float total = tk::warp_sum(lane < warps ? partial[lane] : 0.f);
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
