// Accumulator fragments on their way out: a thread of a quad holds two neighbouring columns of every block of eight.
#pragma once
#include <stdint.h>

namespace tk {

// Four words a lane, of four neighbouring 8-column blocks, become the four words of one block (the one numbered lane % 4): a transposition
// within each quad of lanes, so that a row leaves in 16-byte stores.
__device__ __forceinline__ uint4 gather_block(uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3) {
  const int t = threadIdx.x % 4;
  const uint32_t p = __shfl_xor_sync(0xffffffffu, t & 1 ? a0 : a1, 1), q = __shfl_xor_sync(0xffffffffu, t & 1 ? a2 : a3, 1);
  if (t & 1)
    a0 = p, a2 = q;
  else
    a1 = p, a3 = q;
  const uint32_t r = __shfl_xor_sync(0xffffffffu, t & 2 ? a0 : a2, 2), s = __shfl_xor_sync(0xffffffffu, t & 2 ? a1 : a3, 2);
  return t & 2 ? make_uint4(r, s, a2, a3) : make_uint4(a0, a1, r, s);
}

}  // namespace tk
