// Paged decode attention: one query token a sequence, grouped heads, head dimension 128, bf16 cache, f32 softmax.
//
//   q      [sequences, kv_heads * GROUP, 128]
//   k, v   [pages, kv_heads, 16 * n, 128]       so that a page of one head is one contiguous block: a single bulk copy moves 4 KiB
//   out    [sequences, kv_heads * GROUP, 128]
//
// Memory-bound: every byte of K and V is read once. The unit of work is (sequence, kv head, chunk of its tokens), and a block's warps share it,
// every eighth tile each. Each warp fills a private ring of kStages tiles in shared memory, one lane ordering bulk copies that end on mbarriers,
// and runs on into the block's next unit while this one is summed over the warps: what is in flight, not the barriers, sets the pace.
// Units are drawn from a counter, well ahead: multiprocessors do not get equal shares of the memory's bandwidth, and a fixed split waits for
// the slowest (measured: a third of the time).
//   tile = 16 tokens: K 4 KiB and V 4 KiB
//   scores  S[head, token] = Q·Kᵀ   mma 16x8x16: A = Q (GROUP of 16 rows used), B = K rows as they lie in memory
//   output  O[head, d]    += P·V    mma 16x8x16: A = P, which is S's own register layout; B = two V rows interleaved by byte permutes
// Both products sum over a permuted index (d in the first, the columns of V in the second), so that every shared-memory read is 16 bytes.
//
// The chunk length depends on a sequence's own length only, and the chunks of a sequence are merged in order by whichever block finishes last:
// the bits of a sequence's output do not depend on the batch around it.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kBoardHeads = 4;
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
  float* partial;          // [sequences, kv_heads * GROUP, max_chunks, 128 + 2]
  unsigned int* arrived;   // [2 + sequences * kv_heads]: units drawn, blocks done, chunks arrived; zero before the first call, left zero
  int sequences, kv_heads, page_tokens, table_width, max_chunks, chunk_floor;
  float scale_log2;        // softmax scale * log2(e)
};

// At most 32 chunks, each a multiple of the tile, none shorter than the floor.
__device__ __forceinline__ int chunk_tokens(int length, int floor) {
  const int by_count = ((length + 31) / 32 + kTile - 1) / kTile * kTile;
  return max(by_count, floor);
}

struct Unit {
  int pair;    // sequence * kv_heads + head
  int chunk;   // of the pair
  int chunks;  // of the pair
  int first;   // token
  int tokens;  // 0 or fewer: nothing to read
};

// Units are numbered pair-fastest: blocks work side by side on the heads of one page.
__device__ __forceinline__ Unit unit_of(const Problem& p, int id) {
  const int pairs = p.sequences * p.kv_heads;
  Unit u;
  u.chunk = id / pairs;
  u.pair = id % pairs;
  const int length = __ldg(p.lengths + u.pair / p.kv_heads);
  const int size = chunk_tokens(length, p.chunk_floor);
  u.first = u.chunk * size;
  u.tokens = min(size, length - u.first);
  u.chunks = max(1, (length + size - 1) / size);
  return u;
}

// The most chunks any sequence has: the capacity of the table may be far more.
__device__ __forceinline__ int chunks_in_use(const Problem& p) {
  __shared__ int most;
  if (threadIdx.x == 0) most = 1;
  __syncthreads();
  int mine = 1;
  for (int i = threadIdx.x; i < p.sequences; i += kThreads) {
    const int length = __ldg(p.lengths + i), size = chunk_tokens(length, p.chunk_floor);
    mine = max(mine, (length + size - 1) / size);
  }
  atomicMax(&most, mine);
  __syncthreads();
  return most;
}

// A warp's producer: its next tile of unit number `unit` of the block. All lanes hold the same values but for `places`, a lane each of the
// warp's next 32 tiles.
struct Feed {
  int unit, tile, stage, flying;
  int tokens;
  int places;
};

// This lane's of the warp's 32 tiles from `tile` on: its place in the cache, in tiles.
__device__ __forceinline__ int tile_place(const Problem& p, const Unit& u, int tile) {
  const int at = (tile + threadIdx.x % 32 * kWarps) * kTile;
  if (at >= u.tokens) return 0;
  const int token = u.first + at, sequence = u.pair / p.kv_heads, head = u.pair % p.kv_heads;
  const int page = __ldg(p.block_table + static_cast<size_t>(sequence) * p.table_width + token / p.page_tokens);
  return (page * p.kv_heads + head) * (p.page_tokens / kTile) + token % p.page_tokens / kTile;
}

// A head's running softmax and its share of the output: thread (g, t) of a quad row holds head g, columns
// (half*8 + 2t)*8 + i in o[half][i][0] and (half*8 + 2t + 1)*8 + i in o[half][i][1].
struct State {
  float o[2][8][4];
  float peak, sum;
};

template <bool TAIL>
__device__ __forceinline__ void consume_tile(State& s, const uint32_t (&q)[4][4], uint32_t stage, int valid, float scale) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  // Four chains of dependent products: a product's result is some thirty cycles away.
  float score[2][2][4] = {};
  uint4 k[2][4];
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int j = 0; j < 4; j++) k[half][j] = tk::load_shared16(stage + (half * 8 + g) * 256 + (j * 4 + t) * 16);
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      tk::mma_bf16(score[half][0], q[j][0], 0, q[j][1], 0, k[half][j].x, k[half][j].y);
      tk::mma_bf16(score[half][1], q[j][2], 0, q[j][3], 0, k[half][j].z, k[half][j].w);
    }
  float x[4] = {(score[0][0][0] + score[0][1][0]) * scale, (score[0][0][1] + score[0][1][1]) * scale,
                (score[1][0][0] + score[1][1][0]) * scale, (score[1][0][1] + score[1][1][1]) * scale};
  const int token[4] = {2 * t, 2 * t + 1, 8 + 2 * t, 9 + 2 * t};
  if (TAIL) {
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
      if (TAIL && token[r] >= valid) v[r] = make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int w = 0; w < 4; w++) {
      const uint32_t r0 = (&v[0].x)[w], r1 = (&v[1].x)[w], r2 = (&v[2].x)[w], r3 = (&v[3].x)[w];
      tk::mma_bf16(s.o[half][2 * w], a0, 0, a2, 0, __byte_perm(r0, r1, 0x5410), __byte_perm(r2, r3, 0x5410));
      tk::mma_bf16(s.o[half][2 * w + 1], a0, 0, a2, 0, __byte_perm(r0, r1, 0x7632), __byte_perm(r2, r3, 0x7632));
    }
  }
}

// A warp's share of kBoardHeads heads, and what each of a unit's warps had.
struct Board {
  float o[kWarps][kBoardHeads][kDim];
  float2 stats[kWarps][kBoardHeads];  // (peak, sum)
};

template <int HEADS>
__device__ __forceinline__ void post(Board& board, const State& s, float sum, int first_head) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4 - first_head, t = lane % 4;
  if (g < 0 || g >= HEADS) return;
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int c = 0; c < 2; c++)
#pragma unroll
      for (int i = 0; i < 8; i += 4)
        *reinterpret_cast<float4*>(&board.o[warp][g][(half * 8 + 2 * t + c) * 8 + i]) =
            make_float4(s.o[half][i][c], s.o[half][i + 1][c], s.o[half][i + 2][c], s.o[half][i + 3][c]);
  if (t == 0) board.stats[warp][g] = make_float2(s.peak, sum);
}

// Sum the warps, in order, two columns a thread; hand on to the output, or to the partials of this chunk.
template <int GROUP, int HEADS>
__device__ __forceinline__ void settle(const Problem& p, const Unit& u, const Board& board, int first_head) {
  if (threadIdx.x >= HEADS * 64) return;
  const int head = threadIdx.x / 64, column = threadIdx.x % 64 * 2;
  float top = kMinusInfinity;
#pragma unroll
  for (int w = 0; w < kWarps; w++) top = fmaxf(top, board.stats[w][head].x);
  float x = 0.f, y = 0.f, sum = 0.f;
#pragma unroll
  for (int w = 0; w < kWarps; w++) {
    const float2 stats = board.stats[w][head];
    const float weight = stats.y > 0.f ? tk::exp2_fast(stats.x - top) : stats.y;
    const float2 o = *reinterpret_cast<const float2*>(&board.o[w][head][column]);
    x += weight * o.x;
    y += weight * o.y;
    sum += weight * stats.y;
  }
  const size_t row = static_cast<size_t>(u.pair) * GROUP + first_head + head;
  if (u.chunks == 1) {
    const float inverse = u.tokens > 0 ? 1.f / sum : 0.f;
    *reinterpret_cast<uint32_t*>(p.out + row * kDim + column) = tk::pack_bf16(x * inverse, y * inverse);
    return;
  }
  float* slot = p.partial + (row * p.max_chunks + u.chunk) * (kDim + 2);
  __stcg(reinterpret_cast<float2*>(slot + column), make_float2(x, y));
  if (column == 0) __stcg(reinterpret_cast<float2*>(slot + kDim), make_float2(top, sum));
}

// Merge the chunks of one (sequence, kv head), in order.
template <int GROUP>
__device__ __forceinline__ void merge(const Problem& p, const Unit& u) {
  for (int i = threadIdx.x; i < GROUP * 64; i += kThreads) {
    const int head = i / 64, column = i % 64 * 2;
    const size_t row = static_cast<size_t>(u.pair) * GROUP + head;
    const float* slots = p.partial + row * p.max_chunks * (kDim + 2);
    float top = kMinusInfinity, sum = 0.f, x = 0.f, y = 0.f;
    for (int c = 0; c < u.chunks; c++) top = fmaxf(top, __ldcg(slots + c * (kDim + 2) + kDim));
#pragma unroll 4
    for (int c = 0; c < u.chunks; c++) {
      const float2 stats = __ldcg(reinterpret_cast<const float2*>(slots + c * (kDim + 2) + kDim));
      const float2 o = __ldcg(reinterpret_cast<const float2*>(slots + c * (kDim + 2) + column));
      const float weight = tk::exp2_fast(stats.x - top);
      x += weight * o.x;
      y += weight * o.y;
      sum += weight * stats.y;
    }
    const float inverse = 1.f / sum;
    *reinterpret_cast<uint32_t*>(p.out + row * kDim + column) = tk::pack_bf16(x * inverse, y * inverse);
  }
}

template <int GROUP>
__device__ __forceinline__ void paged_decode(const Problem& p) {
  extern __shared__ __align__(128) unsigned char ring_bytes[];
  __shared__ __align__(8) uint64_t full[kWarps][kStages];
  __shared__ __align__(16) Board board;
  __shared__ int ids[4];  // of the block's units number n … n + 3, at n % 4
  __shared__ bool last;
  constexpr int kHeads = GROUP < kBoardHeads ? GROUP : kBoardHeads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t ring = tk::smem_address(ring_bytes) + warp * kStages * kStageBytes;
  const uint32_t barriers = tk::smem_address(&full[warp][0]);
  if (lane == 0) {
    for (int i = 0; i < kStages; i++) tk::barrier_init(barriers + 8 * i, 1);
    tk::barrier_init_fence();
  }
  if (threadIdx.x == 0) {
    ids[0] = blockIdx.x;
    ids[1] = gridDim.x + atomicAdd(p.arrived, 1u);
    ids[2] = gridDim.x + atomicAdd(p.arrived, 1u);
  }
  const int units = chunks_in_use(p) * p.sequences * p.kv_heads;

  Feed feed = {-1, 0, 0, 0, 0, 0};
  // Orders copies of this warp's tiles up to the end of unit number `horizon`, as far as stages are free.
  const auto fill = [&](int horizon) {
    while (feed.flying < kStages) {
      while (feed.tile * kTile >= feed.tokens) {
        if (feed.unit == horizon) return;
        feed.unit++;
        const int id = ids[feed.unit % 4];
        feed.tile = warp;
        feed.tokens = 0;
        if (id < units) {
          const Unit u = unit_of(p, id);
          feed.tokens = u.tokens;
          feed.places = tile_place(p, u, warp);
        }
      }
      const int turn = feed.tile / kWarps % 32;
      if (turn == 0 && feed.tile >= kWarps) feed.places = tile_place(p, unit_of(p, ids[feed.unit % 4]), feed.tile);
      const size_t row = static_cast<size_t>(__shfl_sync(0xffffffffu, feed.places, turn)) * kTile * kDim;
      if (lane == 0) {
        const uint32_t to = ring + feed.stage * kStageBytes, barrier = barriers + 8 * feed.stage;
        tk::barrier_expect(barrier, kStageBytes);
        tk::copy_bulk(to, p.k + row, kTileBytes, barrier);
        tk::copy_bulk(to + kTileBytes, p.v + row, kTileBytes, barrier);
      }
      if (++feed.stage == kStages) feed.stage = 0;
      feed.flying++;
      feed.tile += kWarps;
    }
  };

  int stage = 0;
  uint32_t parity = 0;
  for (int n = 0; ids[n % 4] < units; n++) {
    const Unit u = unit_of(p, ids[n % 4]);
    unsigned int drawn = 0;
    if (threadIdx.x == 0) drawn = gridDim.x + atomicAdd(p.arrived, 1u);
    // Query rows of the group, in the k order of the K reads; rows past the group are zero.
    uint32_t q[4][4];
    const __nv_bfloat16* row = p.q + (static_cast<size_t>(u.pair) * GROUP + g) * kDim;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const uint4 w = g < GROUP ? __ldg(reinterpret_cast<const uint4*>(row + (j * 4 + t) * 8)) : make_uint4(0, 0, 0, 0);
      q[j][0] = w.x, q[j][1] = w.y, q[j][2] = w.z, q[j][3] = w.w;
    }
    fill(n + 1);
    State s = {};
    s.peak = kMinusInfinity;
    for (int tile = warp; tile * kTile < u.tokens; tile += kWarps) {
      tk::barrier_wait(barriers + 8 * stage, parity);
      const int valid = u.tokens - tile * kTile;
      if (valid >= kTile)
        consume_tile<false>(s, q, ring + stage * kStageBytes, kTile, p.scale_log2);
      else
        consume_tile<true>(s, q, ring + stage * kStageBytes, valid, p.scale_log2);
      __syncwarp();
      feed.flying--;
      fill(n + 1);
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 1);
    s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 2);
    if (threadIdx.x == 0) ids[(n + 3) % 4] = drawn;
    if (u.tokens > 0 || (u.chunk == 0 && u.chunks == 1)) {
#pragma unroll
      for (int head = 0; head < GROUP; head += kHeads) {
        post<kHeads>(board, s, s.sum, head);
        __syncthreads();
        settle<GROUP, kHeads>(p, u, board, head);
        if (u.chunks > 1 && head + kHeads == GROUP) __threadfence();
        __syncthreads();
      }
      if (u.chunks > 1) {
        if (threadIdx.x == 0) last = atomicAdd(p.arrived + 2 + u.pair, 1u) + 1 == static_cast<unsigned int>(u.chunks);
        __syncthreads();
        if (last) {
          __threadfence();
          merge<GROUP>(p, u);
          if (threadIdx.x == 0) p.arrived[2 + u.pair] = 0;
        }
      }
    } else {
      __syncthreads();
    }
  }
  // The last block of the grid leaves the counters as it found them.
  if (threadIdx.x == 0 && atomicAdd(p.arrived + 1, 1u) + 1 == gridDim.x) p.arrived[0] = p.arrived[1] = 0;
}

}  // namespace

#define PAGED_DECODE(GROUP)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads, 1) paged_decode_g##GROUP(const __grid_constant__ Problem p) {    \
    paged_decode<GROUP>(p);                                                                                                  \
  }
PAGED_DECODE(1)
PAGED_DECODE(2)
PAGED_DECODE(4)
PAGED_DECODE(8)
