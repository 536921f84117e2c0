// Paged decode attention: one query token a sequence, grouped heads, head dimension 128, bf16 cache, f32 softmax.
//
//   q      [sequences, kv_heads * GROUP, 128]
//   k, v   [pages, kv_heads, 16 * n, 128]       so that a page of one head is one contiguous block of 4 KiB or more
//   out    [sequences, kv_heads * GROUP, 128]
//
// Memory-bound: every byte of K and V is read once. The unit of work is (sequence, kv head, chunk of its tokens), and a block's warps share it,
// every fourth tile each. Each warp fills a private ring of kStages tiles in shared memory by asynchronous copies that only it waits for, and runs
// on into the block's next unit while this one is summed over the warps: two blocks a multiprocessor, so that one
// streams while the other sums.
// A fifth warp, the clerk, draws units and announces chunks, since a fence waits for all its thread's copies in flight.
// Units are drawn from a counter, well ahead: multiprocessors do not get equal shares of the memory's bandwidth, and a fixed split waits for
// the slowest (measured: a third of the time).
//   tile = 16 tokens: K 4 KiB and V 4 KiB
//   scores  S[head, token] = Q·Kᵀ   mma 16x8x16: A = Q (GROUP of 16 rows used), B = K rows as they lie in memory
//   output  O[head, d]    += P·V    mma 16x8x16: A = P, which is S's own register layout; B = two V rows interleaved by byte permutes
// The copies swizzle 16-byte chunks (K: bit 2 by the row's parity; V: bits 1 and 2 by the row's pair), so that no read meets a bank conflict;
// bulk copies, which cannot, cost a quarter of the rate (four-way conflicts on V, two-way on K).
// Both products sum over a permuted index (d in the first, the columns of V in the second), so that every shared-memory read is 16 bytes.
//
// The chunk length depends on a sequence's own length only, and the chunks of a sequence are merged in order by whichever block finishes last:
// the bits of a sequence's output do not depend on the batch around it.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;  // and one more warp, the clerk
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
  int sequences, kv_heads, page_tokens, table_width, max_chunks;
  float scale_log2;        // softmax scale * log2(e), above zero
};

// Half the sequence, but 256 to 1,024 tokens, and at most 32 chunks: a multiple of the tile, by the length alone.
__device__ __forceinline__ int chunk_tokens(int length) {
  const int by_count = (length + 31) / 32, by_share = min(max((length + 1) / 2, 256), 1024);
  return (max(by_count, by_share) + kTile - 1) / kTile * kTile;
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
  const int size = chunk_tokens(length);
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
    const int length = __ldg(p.lengths + i), size = chunk_tokens(length);
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

// Where a lane reads in its warp's tiles, as byte offsets in a stage; every other read is at a constant distance.
struct Lanes {
  uint32_t even, odd;  // K: row g, chunk t of the even and of the odd groups of four chunks
  uint32_t values;     // V: row 2t, chunk g
};
__device__ __forceinline__ Lanes lanes_of() {
  const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t key = g * 256 + t * 16, parity = g & 1;
  return {key + parity * 64, key + (1 - parity) * 64, kTileBytes + 2 * t * 256 + (g ^ 2 * t) * 16};
}

// Rows 8 to 15 of A are not used, so whatever is at hand fills their registers.
template <bool TAIL>
__device__ __forceinline__ void consume_tile(State& s, const uint32_t (&q)[4][4], uint32_t stage, const Lanes& at, int valid, float scale) {
  const int t = threadIdx.x % 4;
  uint4 k[2][4];
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int j = 0; j < 4; j++) k[half][j] = tk::load_shared16(stage + (j % 2 ? at.odd : at.even) + half * 2048 + j / 2 * 128);
  // Four chains of dependent products: a product's result is some thirty cycles away.
  float score[2][2][4] = {};
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      tk::mma_bf16(score[half][0], q[j][0], q[j][2], q[j][1], q[j][3], k[half][j].x, k[half][j].y);
      tk::mma_bf16(score[half][1], q[j][2], q[j][0], q[j][3], q[j][1], k[half][j].z, k[half][j].w);
    }
  uint4 v[2][4];
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int r = 0; r < 4; r++) v[half][r] = tk::load_shared16(stage + at.values + (r / 2 * 8 + r % 2) * 256 + half * 128);
  float x[4] = {score[0][0][0] + score[0][1][0], score[0][0][1] + score[0][1][1], score[1][0][0] + score[1][1][0],
                score[1][0][1] + score[1][1][1]};
  if (TAIL) {
    const int token[4] = {2 * t, 2 * t + 1, 8 + 2 * t, 9 + 2 * t};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (token[i] < valid) continue;
      x[i] = kMinusInfinity;
      // What lies past the end of a sequence may be a NaN, and 0 * NaN is one.
      v[0][i] = v[1][i] = make_uint4(0, 0, 0, 0);
    }
  }
  float peak = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
  peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 1));
  peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 2)) * scale;
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
  for (int i = 0; i < 4; i++) x[i] = tk::exp2_fast(fmaf(x[i], scale, -s.peak));
  s.sum += (x[0] + x[1]) + (x[2] + x[3]);
  const uint32_t a0 = tk::pack_bf16(x[0], x[1]), a2 = tk::pack_bf16(x[2], x[3]);
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int w = 0; w < 4; w++) {
      const uint32_t r0 = (&v[half][0].x)[w], r1 = (&v[half][1].x)[w], r2 = (&v[half][2].x)[w], r3 = (&v[half][3].x)[w];
      tk::mma_bf16(s.o[half][2 * w], a0, a0, a2, a2, __byte_perm(r0, r1, 0x5410), __byte_perm(r2, r3, 0x5410));
      tk::mma_bf16(s.o[half][2 * w + 1], a0, a0, a2, a2, __byte_perm(r0, r1, 0x7632), __byte_perm(r2, r3, 0x7632));
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

// Two columns of a head: sum the warps, in order; hand on to the output, or to the partials of this chunk.
template <int GROUP>
__device__ __forceinline__ void settle_pair(const Problem& p, const Unit& u, const Board& board, int first_head, int head, int column) {
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

template <int GROUP, int HEADS>
__device__ __forceinline__ void settle(const Problem& p, const Unit& u, const Board& board, int first_head) {
  for (int i = threadIdx.x; i < HEADS * 64; i += kThreads) settle_pair<GROUP>(p, u, board, first_head, i / 64, i % 64 * 2);
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
  __shared__ __align__(16) Board board;
  __shared__ int ids[4];  // of the block's units number n … n + 3, at n % 4
  __shared__ uint4 queries[2][GROUP * 16];
  __shared__ bool last;
  constexpr int kHeads = GROUP < kBoardHeads ? GROUP : kBoardHeads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t ring = tk::smem_address(ring_bytes) + warp * kStages * kStageBytes;
  const bool worker = warp < kWarps, clerk = threadIdx.x == kThreads;
  if (clerk) {
    ids[0] = blockIdx.x;
    ids[1] = gridDim.x + atomicAdd(p.arrived, 1u);
    ids[2] = gridDim.x + atomicAdd(p.arrived, 1u);
    ids[3] = 0x7fffffff;
  }
  int units = p.max_chunks * p.sequences * p.kv_heads;

  Feed feed = {-1, 0, 0, 0, 0, 0};
  Unit next = {};
  int next_places = 0;  // of unit number feed.unit + 1, asked for one unit ahead
  const auto look_ahead = [&](int number) {
    const int id = ids[number % 4];
    next.tokens = 0;
    if (id >= units) return;
    next = unit_of(p, id);
    next_places = tile_place(p, next, warp);
  };
  // Orders copies of this warp's tiles up to the end of unit number `horizon`, as far as stages are free.
  Unit fed = {};
  const auto fill = [&](int horizon) {
    while (feed.flying < kStages) {
      if (feed.tile * kTile >= feed.tokens) {
        if (feed.unit == horizon) return;
        feed.unit++;
        fed = next;
        feed.tile = warp;
        feed.tokens = fed.tokens;
        feed.places = next_places;
        continue;
      }
      const int turn = feed.tile / kWarps % 32;
      if (turn == 0 && feed.tile >= kWarps) feed.places = tile_place(p, fed, feed.tile);
      const size_t from = static_cast<size_t>(__shfl_sync(0xffffffffu, feed.places, turn)) * kTileBytes + lane * 16;
      const uint32_t to = ring + feed.stage * kStageBytes + lane / 16 * 256;
      const unsigned char *k = reinterpret_cast<const unsigned char*>(p.k) + from, *v = reinterpret_cast<const unsigned char*>(p.v) + from;
      const uint32_t chunk = lane % 16;
#pragma unroll
      for (int i = 0; i < 8; i++) tk::copy_async16(to + i * 512 + (chunk ^ lane / 16 * 4) * 16, k + i * 512);
#pragma unroll
      for (int i = 0; i < 8; i++) tk::copy_async16(to + kTileBytes + i * 512 + (chunk ^ i % 4 * 2) * 16, v + i * 512);
      tk::copy_async_commit();
      if (++feed.stage == kStages) feed.stage = 0;
      feed.flying++;
      feed.tile += kWarps;
    }
  };
  const auto query_part = [&](int id) {
    const bool mine = threadIdx.x < GROUP * 16 && id < units;
    const size_t pair = id % (p.sequences * p.kv_heads);
    return mine ? __ldg(reinterpret_cast<const uint4*>(p.q + pair * GROUP * kDim) + threadIdx.x) : make_uint4(0, 0, 0, 0);
  };

  // A unit that is one chunk of several is stored at its own end, announced at the end of the next, and known to be the last or not at the end
  // of the one after: fence and counter are then long done, and nobody waits for them.
  Unit stored = {}, announced = {};
  unsigned int before = 0;
  __syncthreads();
  if (threadIdx.x < GROUP * 16) queries[0][threadIdx.x] = query_part(ids[0]);
  if (worker) {
    look_ahead(0);
    fill(0);
  }
  units = chunks_in_use(p) * p.sequences * p.kv_heads;
  const Lanes at = lanes_of();
  int stage = 0;
  for (int n = 0; ids[n % 4] < units || stored.chunks > 1 || announced.chunks > 1; n++) {
    const bool live = ids[n % 4] < units;
    Unit u = {};
    unsigned int drawn = 0x7fffffff;
    uint4 query = {};
    State s = {};
    s.peak = kMinusInfinity;
    if (live) {
      u = unit_of(p, ids[n % 4]);
      if (clerk) drawn = gridDim.x + atomicAdd(p.arrived, 1u);
    }
    if (live && worker) {
      query = query_part(ids[(n + 1) % 4]);
      look_ahead(n + 1);
      // In the k order of the K reads; rows past the group are whatever lies there, and reach only their own rows of the product.
      uint32_t q[4][4];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const uint4 w = queries[n % 2][(g % GROUP) * 16 + j * 4 + t];
        q[j][0] = w.x, q[j][1] = w.y, q[j][2] = w.z, q[j][3] = w.w;
      }
      fill(n + 1);
      for (int tile = warp; tile * kTile < u.tokens; tile += kWarps) {
        if (feed.flying == kStages)
          tk::copy_async_wait<kStages - 1>();
        else if (feed.flying == kStages - 1)
          tk::copy_async_wait<kStages - 2>();
        else
          tk::copy_async_wait<0>();
        __syncwarp();
        const int valid = u.tokens - tile * kTile;
        if (valid >= kTile)
          consume_tile<false>(s, q, ring + stage * kStageBytes, at, kTile, p.scale_log2);
        else
          consume_tile<true>(s, q, ring + stage * kStageBytes, at, valid, p.scale_log2);
        __syncwarp();
        feed.flying--;
        fill(n + 1);
        if (++stage == kStages) stage = 0;
      }
      s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 1);
      s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 2);
    }
    const bool whole = live && (u.tokens > 0 || (u.chunk == 0 && u.chunks == 1));
    if (threadIdx.x < GROUP * 16) queries[(n + 1) % 2][threadIdx.x] = query;
    if (clerk) {
      ids[(n + 3) % 4] = drawn;
      last = announced.chunks > 1 && before + 1 == static_cast<unsigned int>(announced.chunks);
    }
    if (whole && worker) post<kHeads>(board, s, s.sum, 0);
    __syncthreads();
    if (clerk && stored.chunks > 1) {
      // The barriers put the block's stores before this fence, and the fence puts them before the count.
      __threadfence();
      before = atomicAdd(p.arrived + 2 + stored.pair, 1u);
      __threadfence();
    }
    if (last && worker) merge<GROUP>(p, announced);
    if (last && clerk) p.arrived[2 + announced.pair] = 0;
    announced = stored;
    stored = {};
    if (whole) {
      if (worker) settle<GROUP, kHeads>(p, u, board, 0);
#pragma unroll
      for (int head = kHeads; head < GROUP; head += kHeads) {
        __syncthreads();
        if (worker) post<kHeads>(board, s, s.sum, head);
        __syncthreads();
        if (worker) settle<GROUP, kHeads>(p, u, board, head);
      }
      if (u.chunks > 1) stored = u;
    }
    __syncthreads();
  }
  // The last block of the grid leaves the counters as it found them.
  if (clerk && atomicAdd(p.arrived + 1, 1u) + 1 == gridDim.x) p.arrived[0] = p.arrived[1] = 0;
}

}  // namespace

#define PAGED_DECODE(GROUP)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads + 32, 2) paged_decode_g##GROUP(const __grid_constant__ Problem p) {    \
    paged_decode<GROUP>(p);                                                                                                  \
  }
PAGED_DECODE(1)
PAGED_DECODE(2)
PAGED_DECODE(4)
PAGED_DECODE(8)
