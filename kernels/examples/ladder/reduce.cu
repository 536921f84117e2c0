// The sum of n f32 from naive to tuned; each rung writes *out, which is zero before.
extern "C" __global__ void rung1_one_atomic_a_number(float* out, const float* in, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(out, in[i]);
}

// Through shared memory, halves of the block in turn: one atomic a block.
extern "C" __global__ void rung2_tree_in_shared_memory(float* out, const float* in, int n) {
  __shared__ float sums[256];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  sums[threadIdx.x] = i < n ? in[i] : 0.f;
  for (int step = 128; step > 0; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
  }
  if (threadIdx.x == 0) atomicAdd(out, sums[0]);
}

__device__ __forceinline__ float block_sum(float v) {
  __shared__ float warps[8];
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
  __syncthreads();
  v = threadIdx.x < 8 ? warps[threadIdx.x] : 0.f;
  for (int step = 4; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}

// Registers and shuffles; sixteen numbers a thread, one after the other.
extern "C" __global__ void rung3_sixteen_numbers_a_thread(float* out, const float* in, int n) {
  float v = 0.f;
  const int first = blockIdx.x * 4096 + threadIdx.x;
#pragma unroll 1
  for (int k = 0; k < 16; k++)
    if (first + k * 256 < n) v += in[first + k * 256];
  v = block_sum(v);
  if (threadIdx.x == 0) atomicAdd(out, v);
}

// The same numbers in four loads of 16 bytes, all in flight before the first is used.
extern "C" __global__ void rung4_four_wide_loads_in_flight(float* out, const float* in, int n) {
  const int first = blockIdx.x * 4096 + threadIdx.x * 4;
  float4 x[4];
#pragma unroll
  for (int k = 0; k < 4; k++) x[k] = first + k * 1024 + 3 < n ? __ldcs(reinterpret_cast<const float4*>(in + first + k * 1024)) : make_float4(0, 0, 0, 0);
  float v = 0.f;
#pragma unroll
  for (int k = 0; k < 4; k++) v += x[k].x + x[k].y + x[k].z + x[k].w;
  v = block_sum(v);
  if (threadIdx.x == 0) atomicAdd(out, v);
}
