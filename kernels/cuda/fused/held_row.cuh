// A row of bf16 that a block of threads holds in registers: VECTORS vectors of eight columns a thread, all loads in flight before the first use.
#pragma once
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace tk {

// Waits for the grid ahead in the stream and loads the block's row into `in`; with ADD, `residual` <- residual + x, rounded, and that in place of x.
// The grid is launched before the one ahead has ended: its blocks take the places of the last ones of that grid as they go, and no time passes
// between the two. Zeros past the end of the row.
template <bool ADD, int VECTORS>
__device__ __forceinline__ void load_row(uint4 (&in)[VECTORS], const __nv_bfloat16* x, __nv_bfloat16* residual, int hidden) {
  start_next_grid();
  wait_for_previous_grid();
  const int vectors = hidden / 8;
  uint4 old[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int v = threadIdx.x + i * blockDim.x;
    in[i] = old[i] = make_uint4(0, 0, 0, 0);
    if (v >= vectors) continue;
    in[i] = ADD ? load_once(x + v * 8) : load_stream(x + v * 8);
    if (ADD) old[i] = load_once(residual + v * 8);
  }
  if constexpr (ADD) {
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int v = threadIdx.x + i * blockDim.x;
      uint32_t* a = reinterpret_cast<uint32_t*>(&in[i]);
      const uint32_t* b = reinterpret_cast<const uint32_t*>(&old[i]);
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float2 p = unpack_bf16(a[k]), q = unpack_bf16(b[k]);
        a[k] = pack_bf16(p.x + q.x, p.y + q.y);
        asm volatile("" : "+r"(a[k]));  // packed until it is used: as f32 a row takes twice the registers
      }
      if (v < vectors) store_stream(residual + v * 8, in[i]);
    }
  }
}

}  // namespace tk
