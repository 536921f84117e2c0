// SiLU·mul of a gated MLP: out[r][c] = silu(in[r][c]) * in[r][inner + c], in bf16 [rows, 2*inner].
//
// Memory-bound: 6 bytes an output. A thread takes the same eight columns of ROWS consecutive rows, so 2*ROWS independent 16-byte loads are
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
