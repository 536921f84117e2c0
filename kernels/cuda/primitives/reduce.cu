// The sum, the greatest or the least of n f32, in one launch.
//
// A block takes a tile of kTile numbers, kUnroll 16-byte loads in flight in every thread, and leaves one number in the workspace; the block that
// finishes last joins those, in order. Tiles and the order within them depend on n alone: the same bits in every run, whatever block is last.
#include "../ptx/memory.cuh"

namespace {

constexpr int kThreads = 512, kUnroll = 8, kTile = kThreads * kUnroll * 4;
enum Operation { kSum = 0, kMax = 1, kMin = 2 };

template <int OP>
__device__ __forceinline__ float neutral() {
  return OP == kSum ? 0.f : OP == kMax ? -INFINITY : INFINITY;
}
// As IEEE 754's maximum and minimum: a NaN wins.
template <int OP>
__device__ __forceinline__ float join(float a, float b) {
  float r;
  if (OP == kSum) return a + b;
  if (OP == kMax)
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  else
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

template <int OP>
__device__ __forceinline__ float over_block(float v, float* partial) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) v = join<OP>(v, __shfl_xor_sync(0xffffffffu, v, step));
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  v = threadIdx.x % 32 < kThreads / 32 ? partial[threadIdx.x % 32] : neutral<OP>();
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) v = join<OP>(v, __shfl_xor_sync(0xffffffffu, v, step));
  return v;
}

// `partials` holds a number a tile; `done` is zero before and behind.
template <int OP>
__device__ __forceinline__ void reduce(float* out, const float* in, float* partials, unsigned int* done, long long n) {
  __shared__ float board[32];
  __shared__ bool last;
  const long long first = static_cast<long long>(blockIdx.x) * kTile;
  float4 x[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; i++) {
    const long long at = first + (i * kThreads + threadIdx.x) * 4;
    if (at + 4 <= n) {
      const uint4 v = tk::load_stream(in + at);
      x[i] = make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
    } else {
      x[i].x = at < n ? in[at] : neutral<OP>();
      x[i].y = at + 1 < n ? in[at + 1] : neutral<OP>();
      x[i].z = at + 2 < n ? in[at + 2] : neutral<OP>();
      x[i].w = neutral<OP>();
    }
  }
  float v = neutral<OP>();
#pragma unroll
  for (int i = 0; i < kUnroll; i++) v = join<OP>(v, join<OP>(join<OP>(x[i].x, x[i].y), join<OP>(x[i].z, x[i].w)));
  v = over_block<OP>(v, board);
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = v;
    __threadfence();
    last = atomicAdd(done, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  v = neutral<OP>();
  for (int i = threadIdx.x; i < gridDim.x; i += kThreads) v = join<OP>(v, __ldcg(partials + i));
  v = over_block<OP>(v, board);
  if (threadIdx.x == 0) *out = v, *done = 0;
}

}  // namespace

#define REDUCE(NAME, OP)                                                                                                        \
  extern "C" __global__ void __launch_bounds__(kThreads) NAME(float* out, const float* in, float* partials, unsigned int* done, \
                                                              long long n) {                                                    \
    reduce<OP>(out, in, partials, done, n);                                                                                     \
  }
REDUCE(reduce_sum, kSum)
REDUCE(reduce_max, kMax)
REDUCE(reduce_min, kMin)
