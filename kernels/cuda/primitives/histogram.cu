// How often each number under `bins` occurs among n u32; others are passed over.
//
// Counts are kept in shared memory, in as many copies as fit (a warp uses one of them): neighbours of one value in different warps do not meet. Sums of
// whole numbers have no order, so the counts are the same in every run. The caller zeroes them.
#include <stdint.h>

namespace {
constexpr int kThreads = 512, kUnroll = 4;
}

// Dynamic shared memory: copies · (bins + 1) words; a copy's row is one word longer, so that copies of one bin lie in different banks.
extern "C" __global__ void __launch_bounds__(kThreads) histogram(unsigned int* counts, const uint32_t* keys, long long n, int bins, int copies) {
  extern __shared__ unsigned int shared[];
  const int pitch = bins + 1;
  for (int i = threadIdx.x; i < copies * pitch; i += kThreads) shared[i] = 0;
  __syncthreads();
  unsigned int* mine = shared + threadIdx.x / 32 % copies * pitch;
  const auto count = [&](uint32_t key) {
    if (key < bins) atomicAdd(mine + key, 1u);
  };
  const long long vectors = n / 4, stride = static_cast<long long>(gridDim.x) * kThreads, at = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  for (long long v = at; v < vectors; v += kUnroll * stride) {
    uint4 k[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; u++)
      if (v + u * stride < vectors) k[u] = __ldcs(reinterpret_cast<const uint4*>(keys) + v + u * stride);
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      if (v + u * stride >= vectors) break;
      count(k[u].x), count(k[u].y), count(k[u].z), count(k[u].w);
    }
  }
  if (at < n % 4) count(keys[vectors * 4 + at]);
  __syncthreads();
  for (int bin = threadIdx.x; bin < bins; bin += kThreads) {
    unsigned int sum = 0;
    for (int c = 0; c < copies; c++) sum += shared[c * pitch + bin];
    if (sum) atomicAdd(counts + bin, sum);
  }
}
