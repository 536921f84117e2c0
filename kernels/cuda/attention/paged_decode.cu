// Paged decode attention: one query token a sequence, grouped heads, head dimension 128, bf16 cache, f32 softmax.
//
//   q      [sequences, kv_heads * GROUP, 128]
//   k, v   [pages, kv_heads, 16 * n, 128]       so that a page of one head is one contiguous block: a single bulk copy moves 4 KiB
//   out    [sequences, kv_heads * GROUP, 128]
//
// Memory-bound: every byte of K and V is read once. The unit of work is (sequence, kv head, chunk of its tokens); a warp owns a unit from
// first byte to last, with a private ring of STAGES tiles in shared memory that one lane fills by bulk copies and mbarriers, running on into
// the warp's next unit: no block-wide barrier anywhere, so no warp waits for another.
//   tile = 16 tokens: K 4 KiB and V 4 KiB
//   scores  S[head, token] = Q·Kᵀ   mma 16x8x16: A = Q (GROUP of 16 rows used), B = K rows as they lie in memory
//   output  O[head, d]    += P·V    mma 16x8x16: A = P, which is S's own register layout; B = two V rows interleaved by byte permutes
// Both products sum over a permuted index (d in the first, the columns of V in the second), so that every shared-memory read is 16 bytes.
//
// The chunk length depends on a sequence's own length only, and the chunks of a sequence are merged in order by whichever warp finishes last:
// the bits of a sequence's output do not depend on the batch around it.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

constexpr int kWarps = 8;
constexpr int kStages = 3;
constexpr int kTile = 16;
constexpr int kDim = 128;
constexpr int kTileBytes = kTile * kDim * 2;
constexpr int kStageBytes = 2 * kTileBytes;
constexpr float kMinusInfinity = -INFINITY;

struct Problem {
  __nv_bfloat16* out;
  const __nv_bfloat16* q;
  const __nv_bfloat16* k;
  const __nv_bfloat16* v;
  const int* lengths;      // [sequences] tokens in the cache, 0 gives zeros
  const int* block_table;  // [sequences, table_width] page numbers
  float* partial;          // [sequences, kv_heads, max_chunks, GROUP, 128 + 2]
  unsigned int* arrived;   // [sequences, kv_heads], zero before the first call, left zero
  int sequences, kv_heads, page_tokens, table_width, max_chunks, chunk_floor;
  float scale_log2;        // softmax scale * log2(e)
};

// At most 32 chunks, each a multiple of the tile, none shorter than the floor.
__device__ __forceinline__ int chunk_tokens(int length, int floor) {
  const int by_count = ((length + 31) / 32 + kTile - 1) / kTile * kTile;
  return max(by_count, floor);
}

struct Unit {
  int sequence, head, chunk, first, tokens, chunks;
};

// Units are ordered chunk-fastest; empty ones (a shorter sequence) are skipped.
__device__ __forceinline__ bool next_unit(const Problem& p, long long& id, int step, Unit& u) {
  const long long total = static_cast<long long>(p.sequences) * p.kv_heads * p.max_chunks;
  while (id < total) {
    const int chunk = id % p.max_chunks;
    const int pair = id / p.max_chunks;
    id += step;
    const int sequence = pair / p.kv_heads;
    const int length = p.lengths[sequence];
    const int size = chunk_tokens(length, p.chunk_floor);
    const int first = chunk * size;
    if (first >= length && !(length == 0 && chunk == 0)) continue;
    u = {sequence, pair % p.kv_heads, chunk, first, min(size, length - first), max(1, (length + size - 1) / size)};
    return true;
  }
  return false;
}

// The producer's cursor: which tile of which unit the next bulk copy brings.
struct Feed {
  long long id;
  Unit unit;
  int tile, tiles;
  bool live;
};

__device__ __forceinline__ void feed_next(const Problem& p, Feed& f, int step) {
  do {
    f.live = next_unit(p, f.id, step, f.unit);
    f.tile = 0;
    f.tiles = f.live ? (f.unit.tokens + kTile - 1) / kTile : 0;
  } while (f.live && f.tiles == 0);
}

__device__ __forceinline__ void feed_issue(const Problem& p, Feed& f, int step, uint32_t stage, uint32_t barrier) {
  const int token = f.unit.first + f.tile * kTile;
  const int page = __ldg(p.block_table + static_cast<size_t>(f.unit.sequence) * p.table_width + token / p.page_tokens);
  const size_t row = (static_cast<size_t>(page) * p.kv_heads + f.unit.head) * p.page_tokens + token % p.page_tokens;
  tk::barrier_expect(barrier, kStageBytes);
  tk::copy_bulk(stage, p.k + row * kDim, kTileBytes, barrier);
  tk::copy_bulk(stage + kTileBytes, p.v + row * kDim, kTileBytes, barrier);
  if (++f.tile == f.tiles) feed_next(p, f, step);
}

// A head's running softmax and its share of the output: thread (g, t) of a quad row holds head g, columns
// (half*8 + 2t)*8 + i in o[half][i][0] and (half*8 + 2t + 1)*8 + i in o[half][i][1].
struct State {
  float o[2][8][4];
  float peak, sum;
};

__device__ __forceinline__ void consume_tile(State& s, const uint32_t (&q)[4][4], uint32_t stage, int valid, float scale) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float score[2][4] = {};
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const uint4 k = tk::load_shared16(stage + (half * 8 + g) * 256 + (j * 4 + t) * 16);
      tk::mma_bf16(score[half], q[j][0], 0, q[j][1], 0, k.x, k.y);
      tk::mma_bf16(score[half], q[j][2], 0, q[j][3], 0, k.z, k.w);
    }
  }
  float x[4] = {score[0][0] * scale, score[0][1] * scale, score[1][0] * scale, score[1][1] * scale};
  const int token[4] = {2 * t, 2 * t + 1, 8 + 2 * t, 9 + 2 * t};
  if (valid < kTile) {
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = token[i] < valid ? x[i] : kMinusInfinity;
  }
  float peak = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
  peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 1));
  peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 2));
  if (__any_sync(0xffffffffu, peak > s.peak)) {
    const float fresh = fmaxf(peak, s.peak);
    const float fade = tk::exp2_fast(s.peak - fresh);
    s.peak = fresh;
    s.sum *= fade;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int i = 0; i < 8; i++) {
        s.o[half][i][0] *= fade;
        s.o[half][i][1] *= fade;
      }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = tk::exp2_fast(x[i] - s.peak);
  s.sum += (x[0] + x[1]) + (x[2] + x[3]);
  const uint32_t a0 = tk::pack_bf16(x[0], x[1]), a2 = tk::pack_bf16(x[2], x[3]);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    uint4 v[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
      v[r] = tk::load_shared16(stage + kTileBytes + token[r] * 256 + (half * 8 + g) * 16);
      // What lies past the end of a sequence may be a NaN, and 0 * NaN is one.
      if (valid < kTile && token[r] >= valid) v[r] = make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int w = 0; w < 4; w++) {
      const uint32_t r0 = (&v[0].x)[w], r1 = (&v[1].x)[w], r2 = (&v[2].x)[w], r3 = (&v[3].x)[w];
      tk::mma_bf16(s.o[half][2 * w], a0, 0, a2, 0, __byte_perm(r0, r1, 0x5410), __byte_perm(r2, r3, 0x5410));
      tk::mma_bf16(s.o[half][2 * w + 1], a0, 0, a2, 0, __byte_perm(r0, r1, 0x7632), __byte_perm(r2, r3, 0x7632));
    }
  }
}

__device__ __forceinline__ void store_head(__nv_bfloat16* out, const State& s, float inverse) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int c = 0; c < 2; c++) {
      uint4 w;
      uint32_t* o = reinterpret_cast<uint32_t*>(&w);
#pragma unroll
      for (int i = 0; i < 4; i++) o[i] = tk::pack_bf16(s.o[half][2 * i][c] * inverse, s.o[half][2 * i + 1][c] * inverse);
      *reinterpret_cast<uint4*>(out + (half * 8 + 2 * t + c) * 8) = w;
    }
}

__device__ __forceinline__ void store_partial(float* slot, const State& s) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int c = 0; c < 2; c++)
#pragma unroll
      for (int i = 0; i < 8; i += 4) {
        const float4 w = {s.o[half][i][c], s.o[half][i + 1][c], s.o[half][i + 2][c], s.o[half][i + 3][c]};
        __stcg(reinterpret_cast<float4*>(slot + (half * 8 + 2 * t + c) * 8 + i), w);
      }
}

// Merge the chunks of one (sequence, kv head) in order. Lane l holds columns 4l … 4l+3 of one head at a time.
template <int GROUP>
__device__ __forceinline__ void merge(const Problem& p, const Unit& u, size_t pair) {
  const int lane = threadIdx.x % 32;
  const float* base = p.partial + pair * p.max_chunks * GROUP * (kDim + 2);
  const float* stats = base + static_cast<size_t>(p.max_chunks) * GROUP * kDim;
#pragma unroll 1
  for (int head = 0; head < GROUP; head++) {
    const float peak = lane < u.chunks ? __ldcg(stats + (lane * GROUP + head) * 2) : kMinusInfinity;
    const float sum = lane < u.chunks ? __ldcg(stats + (lane * GROUP + head) * 2 + 1) : 0.f;
    float top = peak;
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
    const float weight = lane < u.chunks ? tk::exp2_fast(peak - top) : 0.f;
    const float inverse = 1.f / tk::warp_sum(weight * sum);
    float4 o = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 8
    for (int chunk = 0; chunk < u.chunks; chunk++) {
      const float w = __shfl_sync(0xffffffffu, weight, chunk);
      const float4 x = __ldcg(reinterpret_cast<const float4*>(base + (static_cast<size_t>(chunk) * GROUP + head) * kDim) + lane);
      o.x += w * x.x;
      o.y += w * x.y;
      o.z += w * x.z;
      o.w += w * x.w;
    }
    const uint2 packed = {tk::pack_bf16(o.x * inverse, o.y * inverse), tk::pack_bf16(o.z * inverse, o.w * inverse)};
    *(reinterpret_cast<uint2*>(p.out + (pair * GROUP + head) * kDim) + lane) = packed;
  }
}

template <int GROUP>
__device__ __forceinline__ void finish_unit(const Problem& p, const Unit& u, State& s) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 1);
  s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 2);
  const size_t pair = static_cast<size_t>(u.sequence) * p.kv_heads + u.head;
  if (u.chunks == 1) {
    if (g < GROUP) store_head(p.out + (pair * GROUP + g) * kDim, s, s.sum > 0.f ? 1.f / s.sum : 0.f);
    return;
  }
  float* base = p.partial + pair * p.max_chunks * GROUP * (kDim + 2);
  if (g < GROUP) {
    store_partial(base + (static_cast<size_t>(u.chunk) * GROUP + g) * kDim, s);
    if (t == 0) {
      float* stats = base + static_cast<size_t>(p.max_chunks) * GROUP * kDim + (u.chunk * GROUP + g) * 2;
      __stcg(reinterpret_cast<float2*>(stats), make_float2(s.peak, s.sum));
    }
  }
  __threadfence();
  __syncwarp();
  unsigned int before = 0;
  if (lane == 0) before = atomicAdd(p.arrived + pair, 1u);
  before = __shfl_sync(0xffffffffu, before, 0);
  if (before + 1 == static_cast<unsigned int>(u.chunks)) {
    __threadfence();
    merge<GROUP>(p, u, pair);
    if (lane == 0) p.arrived[pair] = 0;
  }
}

template <int GROUP>
__device__ __forceinline__ void paged_decode(const Problem& p) {
  extern __shared__ __align__(128) unsigned char ring_bytes[];
  __shared__ __align__(8) uint64_t full[kWarps][kStages];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t ring = tk::smem_address(ring_bytes) + warp * kStages * kStageBytes;
  const uint32_t barriers = tk::smem_address(&full[warp][0]);
  if (lane == 0) {
    for (int i = 0; i < kStages; i++) tk::barrier_init(barriers + 8 * i, 1);
    tk::barrier_init_fence();
  }
  __syncwarp();
  const int step = gridDim.x * kWarps;
  // Neighbouring warps of one block take units far apart, neighbouring blocks units that are close.
  long long mine = static_cast<long long>(warp) * gridDim.x + blockIdx.x;
  Feed feed;
  feed.id = mine;
  feed_next(p, feed, step);
  int head_stage = 0;
  for (int i = 0; i < kStages; i++) {
    if (feed.live && lane == 0) feed_issue(p, feed, step, ring + i * kStageBytes, barriers + 8 * i);
  }
  uint32_t parity = 0;
  Unit unit;
  while (next_unit(p, mine, step, unit)) {
    // Query rows of the group, in the k order of the K reads; rows past the group are zero.
    uint32_t q[4][4];
    const __nv_bfloat16* row = p.q + ((static_cast<size_t>(unit.sequence) * p.kv_heads + unit.head) * GROUP + g) * kDim;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const uint4 w = g < GROUP ? __ldg(reinterpret_cast<const uint4*>(row + (j * 4 + t) * 8)) : make_uint4(0, 0, 0, 0);
      q[j][0] = w.x, q[j][1] = w.y, q[j][2] = w.z, q[j][3] = w.w;
    }
    State s = {};
    s.peak = kMinusInfinity;
    const int tiles = (unit.tokens + kTile - 1) / kTile;
    for (int tile = 0; tile < tiles; tile++) {
      tk::barrier_wait(barriers + 8 * head_stage, parity);
      consume_tile(s, q, ring + head_stage * kStageBytes, unit.tokens - tile * kTile, p.scale_log2);
      __syncwarp();
      if (lane == 0 && feed.live) feed_issue(p, feed, step, ring + head_stage * kStageBytes, barriers + 8 * head_stage);
      if (++head_stage == kStages) head_stage = 0, parity ^= 1;
    }
    finish_unit<GROUP>(p, unit, s);
  }
}

}  // namespace

#define PAGED_DECODE(GROUP)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(kWarps * 32, 1) paged_decode_g##GROUP(const __grid_constant__ Problem p) {    \
    paged_decode<GROUP>(p);                                                                                                  \
  }
PAGED_DECODE(1)
PAGED_DECODE(2)
PAGED_DECODE(4)
PAGED_DECODE(8)
