// Counts of n u8 values, 256 bins, from naive to tuned; counts are zero before.
extern "C" __global__ void rung1_atomics_in_device_memory(unsigned* counts, const unsigned char* in, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(counts + in[i], 1u);
}

// Counts of a block in shared memory, put together at the end; 16 KB a block.
extern "C" __global__ void rung2_counts_in_shared_memory(unsigned* counts, const unsigned char* in, int n) {
  __shared__ unsigned mine[256];
  mine[threadIdx.x] = 0;
  __syncthreads();
  for (int k = 0; k < 64; k++) {
    const int i = blockIdx.x * 16384 + k * 256 + threadIdx.x;
    if (i < n) atomicAdd(mine + in[i], 1u);
  }
  __syncthreads();
  atomicAdd(counts + threadIdx.x, mine[threadIdx.x]);
}

__device__ __forceinline__ void count_word(unsigned* mine, unsigned w) {
  atomicAdd(mine + (w & 255), 1u), atomicAdd(mine + (w >> 8 & 255), 1u), atomicAdd(mine + (w >> 16 & 255), 1u), atomicAdd(mine + (w >> 24), 1u);
}

// Sixteen values a load, four loads in flight.
extern "C" __global__ void rung3_wide_loads(unsigned* counts, const unsigned char* in, int n) {
  __shared__ unsigned mine[256];
  mine[threadIdx.x] = 0;
  __syncthreads();
  uint4 x[4];
#pragma unroll
  for (int k = 0; k < 4; k++) x[k] = __ldcs(reinterpret_cast<const uint4*>(in) + blockIdx.x * 1024 + k * 256 + threadIdx.x);
#pragma unroll
  for (int k = 0; k < 4; k++) count_word(mine, x[k].x), count_word(mine, x[k].y), count_word(mine, x[k].z), count_word(mine, x[k].w);
  __syncthreads();
  atomicAdd(counts + threadIdx.x, mine[threadIdx.x]);
}

// A copy of the counts for each warp, and 64 KB a block: equal values of different warps do not meet, and a block's counts are put together seldom.
extern "C" __global__ void rung4_counts_of_each_warp(unsigned* counts, const unsigned char* in, int n) {
  __shared__ unsigned all[8][257];
  for (int i = threadIdx.x; i < 8 * 257; i += 256) all[0][i] = 0;
  __syncthreads();
  unsigned* mine = all[threadIdx.x / 32];
#pragma unroll 1
  for (int round = 0; round < 4; round++) {
    uint4 x[4];
#pragma unroll
    for (int k = 0; k < 4; k++) x[k] = __ldcs(reinterpret_cast<const uint4*>(in) + blockIdx.x * 4096 + round * 1024 + k * 256 + threadIdx.x);
#pragma unroll
    for (int k = 0; k < 4; k++) count_word(mine, x[k].x), count_word(mine, x[k].y), count_word(mine, x[k].z), count_word(mine, x[k].w);
  }
  __syncthreads();
  unsigned sum = 0;
  for (int w = 0; w < 8; w++) sum += all[w][threadIdx.x];
  atomicAdd(counts + threadIdx.x, sum);
}
