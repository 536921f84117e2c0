// Radix sort of 32-bit keys, alone or with a 32-bit value each: stable, ascending, four passes of eight bits, each key read and written once a
// pass (onesweep: Adinets and Merrill, 2022, arXiv 2206.01784).
//
// radix_histogram reads the keys once and counts all four digits; radix_starts turns the counts into the first place of every digit. A pass then
// takes tiles by a ticket, so that every earlier tile is already at work. Each warp ranks its keys, 32 neighbours at a time, among
// those of their digit by eight ballots; the tile's counts are published, and the counts of all earlier tiles gathered by walking back over what
// those published (decoupled look-back: Merrill and Garland, 2016), one thread a digit, kLook loads in flight. Keys go through shared memory in
// the tile's sorted order, so that what leaves is runs of neighbours.
//
// A status word is 30 bits of count under two of state, so one load reads both and no fence is needed; the caller zeroes the words.
#include "../ptx/math.cuh"

namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kDigits = 256, kPasses = 4;
constexpr int kLook = 4;
constexpr uint32_t kCounted = 1u << 30, kSummed = 2u << 30, kCount = kCounted - 1;

struct Pass {
  uint32_t* keys_out;
  const uint32_t* keys;
  uint32_t* values_out;
  const uint32_t* values;
  const uint32_t* starts;  // [kDigits]: keys of lower digits
  uint32_t* status;        // [tiles][kDigits]
  uint32_t* ticket;
  int n, shift;
};

__device__ __forceinline__ uint32_t load_status(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void store_status(uint32_t* p, uint32_t v) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

// Lanes of the warp with this lane's digit.
__device__ __forceinline__ uint32_t same_digit(uint32_t digit) {
  uint32_t same = 0xffffffffu;
#pragma unroll
  for (int bit = 0; bit < 8; bit++) {
    const uint32_t set = __ballot_sync(0xffffffffu, digit >> bit & 1);
    same &= digit >> bit & 1 ? set : ~set;
  }
  return same;
}

// Keys of this digit in all tiles before this one.
__device__ __forceinline__ uint32_t look_back(const uint32_t* status, int tile, int digit) {
  uint32_t sum = 0;
  for (int last = tile - 1;;) {
    uint32_t seen[kLook];
#pragma unroll
    for (int i = 0; i < kLook; i++) seen[i] = last - i < 0 ? kSummed : load_status(status + static_cast<size_t>(last - i) * kDigits + digit);
#pragma unroll
    for (int i = 0; i < kLook; i++) {
      if (seen[i] == 0) break;
      sum += seen[i] & kCount;
      if (seen[i] & kSummed) return sum;
      last--;
    }
  }
}

template <int kItems, bool VALUES>
__device__ __forceinline__ void radix_pass(const Pass& p) {
  constexpr int kTile = kThreads * kItems;
  extern __shared__ uint32_t sorted[];  // [kTile], and as many values
  __shared__ uint32_t counts[kWarps][kDigits], base[kDigits], warp_sums[kDigits / 32];
  __shared__ int ticket;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) ticket = atomicAdd(p.ticket, 1u);
  for (int d = lane; d < kDigits; d += 32) counts[warp][d] = 0;
  __syncthreads();
  const int tile = ticket, first = tile * kTile, valid = min(kTile, p.n - first);
  const int from = warp * kItems * 32 + lane;
  uint32_t keys[kItems];
  uint16_t places[kItems];
  // Past the end are keys of the last digit, which rank after every real one as ranks keep the order.
#pragma unroll
  for (int i = 0; i < kItems; i++) keys[i] = from + i * 32 < valid ? __ldcs(p.keys + first + from + i * 32) : 0xffffffffu;
#pragma unroll
  for (int i = 0; i < kItems; i++) {
    const uint32_t digit = keys[i] >> p.shift & 255, same = same_digit(digit), before = same & ((1u << lane) - 1);
    const uint32_t old = counts[warp][digit];
    __syncwarp();
    if (before == 0) counts[warp][digit] = old + __popc(same);
    __syncwarp();
    places[i] = old + __popc(before);
  }
  __syncthreads();
  uint32_t total = 0, inclusive = 0;
  if (threadIdx.x < kDigits) {
    const int digit = threadIdx.x;
#pragma unroll
    for (int w = 0; w < kWarps; w++) {
      const uint32_t mine = counts[w][digit];
      counts[w][digit] = total;
      total += mine;
    }
    store_status(p.status + static_cast<size_t>(tile) * kDigits + digit, (tile == 0 ? kSummed : kCounted) | total);
    inclusive = tk::warp_inclusive(total);
    if (lane == 31) warp_sums[warp] = inclusive;
  }
  __syncthreads();
  uint32_t local = 0;
  if (threadIdx.x < kDigits) {
    local = inclusive - total;
    for (int w = 0; w < warp; w++) local += warp_sums[w];
#pragma unroll
    for (int w = 0; w < kWarps; w++) counts[w][threadIdx.x] += local;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kItems; i++) {
    const uint32_t place = places[i] + counts[warp][keys[i] >> p.shift & 255];
    sorted[place] = keys[i];
    if (VALUES && from + i * 32 < valid) sorted[kTile + place] = __ldcs(p.values + first + from + i * 32);
  }
  if (threadIdx.x < kDigits) {
    const int digit = threadIdx.x;
    const uint32_t earlier = tile == 0 ? 0 : look_back(p.status, tile, digit);
    if (tile > 0) store_status(p.status + static_cast<size_t>(tile) * kDigits + digit, kSummed | (earlier + total));
    base[digit] = p.starts[digit] + earlier - local;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kItems; i++) {
    const int at = threadIdx.x + i * kThreads;
    if (at >= valid) break;
    const uint32_t key = sorted[at], to = base[key >> p.shift & 255] + at;
    p.keys_out[to] = key;
    if (VALUES) p.values_out[to] = sorted[kTile + at];
  }
}

}  // namespace

// counts [kPasses][kDigits], zero before.
extern "C" __global__ void __launch_bounds__(512) radix_histogram(uint32_t* counts, const uint32_t* keys, int n) {
  __shared__ uint32_t mine[kPasses][kDigits];
  for (int i = threadIdx.x; i < kPasses * kDigits; i += blockDim.x) mine[0][i] = 0;
  __syncthreads();
  const auto count = [&](uint32_t key) {
#pragma unroll
    for (int pass = 0; pass < kPasses; pass++) atomicAdd(&mine[pass][key >> (8 * pass) & 255], 1u);
  };
  const int vectors = n / 4, stride = gridDim.x * blockDim.x, at = blockIdx.x * blockDim.x + threadIdx.x;
#pragma unroll 4
  for (int v = at; v < vectors; v += stride) {
    const uint4 k = __ldcs(reinterpret_cast<const uint4*>(keys) + v);
    count(k.x), count(k.y), count(k.z), count(k.w);
  }
  if (at < n % 4) count(keys[vectors * 4 + at]);
  __syncthreads();
  for (int i = threadIdx.x; i < kPasses * kDigits; i += blockDim.x)
    if (mine[0][i]) atomicAdd(counts + i, mine[0][i]);
}

// Counts to sums of those before, each pass apart: one block of kPasses * kDigits threads.
extern "C" __global__ void __launch_bounds__(kPasses* kDigits) radix_starts(uint32_t* counts) {
  __shared__ uint32_t sums[kPasses * kDigits / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t mine = counts[threadIdx.x];
  uint32_t inclusive = tk::warp_inclusive(mine);
  if (lane == 31) sums[warp] = inclusive;
  __syncthreads();
  for (int w = warp / 8 * 8; w < warp; w++) inclusive += sums[w];
  counts[threadIdx.x] = inclusive - mine;
}

// Tiles of 8,192 keys, or of 6,144 pairs: what two blocks of 64 registers a thread hold without spilling.
extern "C" __global__ void __launch_bounds__(kThreads, 2) radix_pass_keys(const __grid_constant__ Pass p) { radix_pass<16, false>(p); }
extern "C" __global__ void __launch_bounds__(kThreads, 2) radix_pass_pairs(const __grid_constant__ Pass p) { radix_pass<12, true>(p); }
