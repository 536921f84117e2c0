// out[t] = table[id[t]], rows of bf16. An id that the table does not have gives NaN.
//
// Memory-bound: a row is read and written once; a thread has the same 16 bytes of kTokens tokens, their ids and then their rows in flight together.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {
constexpr int kTokens = 4;
}

extern "C" __global__ void __launch_bounds__(256)
    embedding(__nv_bfloat16* out, const __nv_bfloat16* table, const int* ids, int tokens, int entries, int vectors) {
  const int first = blockIdx.x * kTokens, v = blockIdx.y * blockDim.x + threadIdx.x;
  if (v >= vectors) return;
  int id[kTokens];
  uint4 row[kTokens];
#pragma unroll
  for (int i = 0; i < kTokens; i++) id[i] = first + i < tokens ? __ldg(ids + first + i) : -1;
#pragma unroll
  for (int i = 0; i < kTokens; i++) {
    row[i] = make_uint4(0x7fff7fffu, 0x7fff7fffu, 0x7fff7fffu, 0x7fff7fffu);
    if (id[i] >= 0 && id[i] < entries) row[i] = tk::load_stream(table + (static_cast<size_t>(id[i]) * vectors + v) * 8);
  }
#pragma unroll
  for (int i = 0; i < kTokens; i++)
    if (first + i < tokens) tk::store_stream(out + (static_cast<size_t>(first + i) * vectors + v) * 8, row[i]);
}
