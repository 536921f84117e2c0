// The k greatest of every row, falling, with their places; ties go to the lower place. f32, k up to 1,024.
//
// A cluster-free radix selection: a block has a row. Its 32-bit keys, ordered as the numbers are, are narrowed by three histograms (11, 11 and 10
// bits) to the k-th greatest; then everything above it, and of its equals those of the lowest places, are gathered and sorted in shared memory.
// Passes after the first mostly hit L2. NaN ranks above +inf, as torch.topk has it.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

constexpr int kThreads = 1024, kBins = 2048, kMost = 1024, kUnroll = 4;

// Greater numbers have greater keys; every NaN the greatest.
__device__ __forceinline__ uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x);
  if (x != x) return 0xffffffffu;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float number_of(uint32_t key) {
  if (key == 0xffffffffu) return __uint_as_float(0x7fc00000u);
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Calls use(key, place) for this thread's numbers, kUnroll vectors in flight.
template <typename Use>
__device__ __forceinline__ void each(const float* row, int columns, Use use) {
  const int vectors = columns / 4;
  for (int v = threadIdx.x; v < vectors; v += kUnroll * kThreads) {
    uint4 x[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; u++)
      if (v + u * kThreads < vectors) x[u] = tk::load_once(row + 4 * static_cast<size_t>(v + u * kThreads));
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      const int at = v + u * kThreads;
      if (at >= vectors) break;
      use(key_of(__uint_as_float(x[u].x)), 4 * at), use(key_of(__uint_as_float(x[u].y)), 4 * at + 1);
      use(key_of(__uint_as_float(x[u].z)), 4 * at + 2), use(key_of(__uint_as_float(x[u].w)), 4 * at + 3);
    }
  }
}

struct Shared {
  unsigned int counts[kBins];
  unsigned long long best[kMost];
  unsigned int warps[32];
  unsigned int bin, left, gathered;
};

// The bin that the `wanted`-th greatest counted key lies in, and how many of that bin are wanted: counts above it are scanned from the top.
__device__ __forceinline__ void find_bin(Shared& s, unsigned int wanted) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, top = kBins - 1 - 2 * threadIdx.x;
  const unsigned int a = s.counts[top], b = s.counts[top - 1];
  unsigned int up_to = tk::warp_inclusive(a + b);
  if (lane == 31) s.warps[warp] = up_to;
  __syncthreads();
  for (int w = 0; w < warp; w++) up_to += s.warps[w];
  const unsigned int before = up_to - a - b;
  if (before < wanted && wanted <= up_to) {
    const bool first = wanted <= before + a;
    s.bin = first ? top : top - 1;
    s.left = wanted - before - (first ? 0 : a);
  }
  __syncthreads();
}

__device__ __forceinline__ void sort_falling(Shared& s, int padded) {
  for (int size = 2; size <= padded; size *= 2)
    for (int step = size / 2; step > 0; step /= 2) {
      __syncthreads();
      const int i = threadIdx.x, other = i ^ step;
      if (i < padded && other > i) {
        const unsigned long long x = s.best[i], y = s.best[other];
        if ((x < y) == ((i & size) == 0)) s.best[i] = y, s.best[other] = x;
      }
    }
  __syncthreads();
}

}  // namespace

// values [rows, k], places [rows, k]; columns a multiple of 4, k at most columns.
extern "C" __global__ void __launch_bounds__(kThreads) topk_f32(float* values, int* places, const float* in, int columns, int k) {
  __shared__ Shared s;
  const float* row = in + static_cast<size_t>(blockIdx.x) * columns;
  uint32_t prefix = 0, known = 0;  // bits of the k-th greatest that are known, and which those are
  unsigned int wanted = k;
  constexpr int kShift[3] = {21, 10, 0};
#pragma unroll
  for (int pass = 0; pass < 3; pass++) {
    const uint32_t mask = pass == 2 ? 1023u : 2047u;
    for (int i = threadIdx.x; i < kBins; i += kThreads) s.counts[i] = 0;
    __syncthreads();
    each(row, columns, [&](uint32_t key, int) {
      if ((key & known) == prefix) atomicAdd(s.counts + (key >> kShift[pass] & mask), 1u);
    });
    __syncthreads();
    find_bin(s, wanted);
    prefix |= s.bin << kShift[pass], known |= mask << kShift[pass], wanted = s.left;
    __syncthreads();
  }
  // All above the k-th greatest, in any order; the sort orders them.
  int padded = 2;
  while (padded < k) padded *= 2;
  for (int i = threadIdx.x; i < padded; i += kThreads) s.best[i] = 0;
  if (threadIdx.x == 0) s.gathered = 0;
  __syncthreads();
  // Of its equals, `wanted` of the lowest places: the greatest of ~place. How many there are is what the last histogram counted.
  const bool all_equal = s.counts[prefix & 1023u] == wanted;
  const auto entry = [](uint32_t key, int place) { return static_cast<unsigned long long>(key) << 32 | static_cast<uint32_t>(~place); };
  each(row, columns, [&](uint32_t key, int place) {
    if (key > prefix || (all_equal && key == prefix)) s.best[atomicAdd(&s.gathered, 1u)] = entry(key, place);
  });
  if (!all_equal) {
    // In order of place: a round of the block's vectors at a time, until there are enough.
    __syncthreads();
    const int vectors = columns / 4;
    unsigned int have = 0;
    for (int start = 0; have < wanted; start += kThreads) {
      const int v = start + threadIdx.x;
      uint4 x = make_uint4(0, 0, 0, 0);
      unsigned int mine = 0;
      if (v < vectors) {
        x = tk::load_once(row + 4 * static_cast<size_t>(v));
        mine = (key_of(__uint_as_float(x.x)) == prefix) + (key_of(__uint_as_float(x.y)) == prefix) + (key_of(__uint_as_float(x.z)) == prefix) +
               (key_of(__uint_as_float(x.w)) == prefix);
      }
      const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
      const unsigned int up_to = tk::warp_inclusive(mine);
      if (lane == 31) s.warps[warp] = up_to;
      __syncthreads();
      unsigned int earlier = 0, all = 0;
      for (int w = 0; w < 32; w++) earlier += w < warp ? s.warps[w] : 0, all += s.warps[w];
      unsigned int at = have + earlier + up_to - mine;
      const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (v < vectors && key_of(__uint_as_float(words[e])) == prefix) {
          if (at < wanted) s.best[k - wanted + at] = entry(prefix, 4 * v + e);
          at++;
        }
      have += all;
      __syncthreads();
    }
  }
  sort_falling(s, padded);
  for (int i = threadIdx.x; i < k; i += kThreads) {
    const unsigned long long e = s.best[i];
    values[static_cast<size_t>(blockIdx.x) * k + i] = number_of(static_cast<uint32_t>(e >> 32));
    places[static_cast<size_t>(blockIdx.x) * k + i] = static_cast<int>(~static_cast<uint32_t>(e));
  }
}
