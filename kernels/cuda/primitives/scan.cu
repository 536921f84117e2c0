// Running sums of n u32, modulo 2^32, inclusive or exclusive, in one pass: every number is read once and written once.
//
// A tile is taken by a ticket, so that every earlier one is already at work; its threads keep their numbers in registers, its sum is published, and
// what lies before it gathered by a warp that looks back over 32 tiles at a time (decoupled look-back: Merrill and Garland, 2016). A status word holds
// a state above 32 bits of sum, so that one load reads both and no fence is needed. The caller zeroes the words.
#include "../ptx/math.cuh"

namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32, kVectors = 8, kTile = kThreads * kVectors * 4;
constexpr unsigned long long kCounted = 1ull << 32, kSummed = 2ull << 32;

__device__ __forceinline__ unsigned long long load_status(const unsigned long long* p) {
  unsigned long long v;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void store_status(unsigned long long* p, unsigned long long v) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}

// The sum of all tiles before this one, by one warp.
__device__ __forceinline__ uint32_t look_back(const unsigned long long* status, int tile) {
  const int lane = threadIdx.x % 32;
  uint32_t sum = 0;
  for (int last = tile - 1; last >= 0; last -= 32) {
    const int at = last - lane;
    unsigned long long seen;
    // Lanes before the first tile stand for a sum of zero.
    do seen = at < 0 ? kSummed : load_status(status + at);
    while (__any_sync(0xffffffffu, seen == 0));
    const uint32_t ends = __ballot_sync(0xffffffffu, seen >= kSummed);
    const bool counts = ends == 0 || lane < __ffs(ends);
    sum += __reduce_add_sync(0xffffffffu, counts ? static_cast<uint32_t>(seen) : 0u);
    if (ends) break;
  }
  return sum;
}

template <bool EXCLUSIVE>
__device__ __forceinline__ void scan(uint32_t* out, const uint32_t* in, unsigned long long* status, unsigned int* ticket, long long n) {
  __shared__ uint32_t sums[kWarps], before;
  __shared__ int taken;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) taken = atomicAdd(ticket, 1u);
  __syncthreads();
  const int tile = taken;
  // A warp has 32 · 4 · kVectors neighbours, a lane the same four columns of each row of 128.
  const long long first = static_cast<long long>(tile) * kTile + warp * (kTile / kWarps) + lane * 4;
  uint4 x[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; i++) {
    const long long at = first + i * 128;
    if (at + 4 <= n) {
      x[i] = __ldcs(reinterpret_cast<const uint4*>(in + at));
    } else {
      x[i] = make_uint4(at < n ? in[at] : 0, at + 1 < n ? in[at + 1] : 0, at + 2 < n ? in[at + 2] : 0, 0);
    }
  }
  uint32_t total = 0, place[kVectors];  // of the warp so far; and before a lane's vector in the warp
#pragma unroll
  for (int i = 0; i < kVectors; i++) {
    const uint32_t mine = x[i].x + x[i].y + x[i].z + x[i].w, up_to = tk::warp_inclusive(mine);
    place[i] = total + up_to - mine;
    total += __shfl_sync(0xffffffffu, up_to, 31);
  }
  if (lane == 0) sums[warp] = total;
  __syncthreads();
  uint32_t earlier = 0, all = 0;
#pragma unroll
  for (int w = 0; w < kWarps; w++) {
    earlier += w < warp ? sums[w] : 0;
    all += sums[w];
  }
  if (warp == 0) {
    if (lane == 0) store_status(status + tile, (tile == 0 ? kSummed : kCounted) | all);
    const uint32_t sum = tile == 0 ? 0 : look_back(status, tile);
    if (lane == 0) {
      if (tile > 0) store_status(status + tile, kSummed | static_cast<uint32_t>(sum + all));
      before = sum;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kVectors; i++) {
    const long long at = first + i * 128;
    const uint32_t start = before + earlier + place[i];
    uint4 y;
    y.x = start + (EXCLUSIVE ? 0 : x[i].x);
    y.y = y.x + (EXCLUSIVE ? x[i].x : x[i].y);
    y.z = y.y + (EXCLUSIVE ? x[i].y : x[i].z);
    y.w = y.z + (EXCLUSIVE ? x[i].z : x[i].w);
    if (at + 4 <= n) {
      __stcs(reinterpret_cast<uint4*>(out + at), y);
    } else {
      if (at < n) out[at] = y.x;
      if (at + 1 < n) out[at + 1] = y.y;
      if (at + 2 < n) out[at + 2] = y.z;
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) scan_inclusive(uint32_t* out, const uint32_t* in, unsigned long long* status, unsigned int* ticket, long long n) {
  scan<false>(out, in, status, ticket, n);
}
extern "C" __global__ void __launch_bounds__(kThreads) scan_exclusive(uint32_t* out, const uint32_t* in, unsigned long long* status, unsigned int* ticket, long long n) {
  scan<true>(out, in, status, ticket, n);
}
