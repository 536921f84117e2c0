// Paged decode attention: one query token a sequence, grouped heads, head dimension 64 or 128, bf16 or e4m3 cache; f32 softmax, with a
// sliding window and a soft cap of scores where the model has them.
//
//   q      [sequences, kv_heads * group, d]
//   k, v   [pages, kv_heads, 16 * n, d]         so that a page of one head is one contiguous block of 2 KiB or more
//   out    [sequences, kv_heads * group, d]
//
// Memory-bound: every byte of K and V is read once. The unit of work is (sequence, kv head, chunk of its tokens), and a block's warps share it,
// every fourth tile each. Each warp fills a private ring of kStages tiles in shared memory by asynchronous copies that only it waits for, and runs
// on into the block's next unit while this one is summed over the warps: two blocks a multiprocessor, so that one
// streams while the other sums.
// A fifth warp, the clerk, draws units and announces chunks, since a fence waits for all its thread's copies in flight.
// Units are drawn from a counter, well ahead: multiprocessors do not get equal shares of the memory's bandwidth, and a fixed split waits for
// the slowest (measured: a third of the time).
//   tile = 16 tokens: K 4 KiB and V 4 KiB (d 64 or e4m3: 2 and 2, both: 1 and 1)
//   scores  S[head, token] = Q·Kᵀ   mma 16x8x16: A = Q (GROUP of 16 rows used), B = K rows as they lie in memory
//   output  O[head, d]    += P·V    mma 16x8x16: A = P, which is S's own register layout; B = two V rows interleaved by byte permutes
// The copies swizzle 16-byte chunks (K: bit 2 by the row's parity; V: bits 1 and 2 by the row's pair), so that no read meets a bank conflict;
// rows of 64 bytes: K as it lies, V bit 2 of a pair of rows by the pair's parity;
// bulk copies, which cannot, cost a quarter of the rate (four-way conflicts on V, two-way on K).
// e4m3 becomes fp16 in registers, two numbers an instruction, exactly; queries and weights are fp16 then.
// Both products sum over a permuted index (d in the first, the columns of V in the second), so that every shared-memory read is 16 bytes.
//
// The chunk length depends on a sequence's own length and the window only, and the chunks of a sequence are merged in order by whichever block finishes last:
// the bits of a sequence's output do not depend on the batch around it.
#include "decode_tile.cuh"

namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;  // and one more warp, the clerk
constexpr int kBoardHeads = 4;

struct Problem {
  __nv_bfloat16* out;
  const __nv_bfloat16* q;
  const __nv_bfloat16* k;
  const __nv_bfloat16* v;
  const int* lengths;      // [sequences] tokens in the cache, 0 gives zeros; below zero or past what the table has room for, NaN
  const int* block_table;  // [sequences, table_width] page numbers; one that is no page makes its sequence NaN
  const float* k_scale;    // [kv_heads] each, of an e4m3 cache
  const float* v_scale;
  float* partial;          // [sequences, kv_heads * group, max_chunks, d + 2]
  unsigned int* arrived;   // [2 + sequences * kv_heads]: units drawn, blocks done, chunks arrived; zero before the first call, left zero
  int sequences, kv_heads, page_tokens, table_width, max_chunks, pages;
  int group;               // query heads a key head
  int window;              // tokens seen, the last ones
  float scale_log2;        // softmax scale * log2(e), above zero; with a cap, the cap * log2(e)
  float inner;             // softmax scale / cap; 0 without a cap
};

// Half the sequence, but 256 to 1,024 tokens, and at most 32 chunks: a multiple of the tile, by the length alone.
__device__ __forceinline__ int chunk_tokens(int length) {
  const int by_count = (length + 31) / 32, by_share = min(max((length + 1) / 2, 256), 1024);
  return (max(by_count, by_share) + kTile - 1) / kTile * kTile;
}

// Tokens of a sequence. Where the number given is none that the table has room for: a few, and tile_place() says so.
__device__ __forceinline__ bool has_length(const Problem& p, int sequence) {
  return static_cast<unsigned int>(__ldg(p.lengths + sequence)) <= static_cast<unsigned int>(p.table_width * p.page_tokens);
}
__device__ __forceinline__ int length_of(const Problem& p, int sequence) {
  return has_length(p, sequence) ? __ldg(p.lengths + sequence) : kTile;
}

__device__ __forceinline__ void workers_sync() { asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory"); }

struct Unit {
  int pair;    // sequence * kv_heads + head
  int chunk;   // of the pair
  int chunks;  // of the pair
  int first;   // token
  int tokens;  // 0 or fewer: nothing to read
  int skip;    // of its first tile, tokens before the window
};

// The tile that the window begins in.
__device__ __forceinline__ int first_token(const Problem& p, int length) { return max(0, length - p.window) / kTile * kTile; }

// Units are numbered pair-fastest: blocks work side by side on the heads of one page.
__device__ __forceinline__ Unit unit_of(const Problem& p, int id) {
  const int pairs = p.sequences * p.kv_heads;
  Unit u;
  u.chunk = id / pairs;
  u.pair = id % pairs;
  const int length = length_of(p, u.pair / p.kv_heads);
  const int start = first_token(p, length), seen = length - start, size = chunk_tokens(seen);
  u.first = start + u.chunk * size;
  u.tokens = min(size, length - u.first);
  u.chunks = max(1, (seen + size - 1) / size);
  u.skip = u.chunk == 0 ? max(0, length - p.window) - start : 0;
  return u;
}

// The most chunks any sequence has: the capacity of the table may be far more.
__device__ __forceinline__ int chunks_in_use(const Problem& p) {
  __shared__ int most;
  if (threadIdx.x == 0) most = 1;
  __syncthreads();
  int mine = 1;
  for (int i = threadIdx.x; i < p.sequences; i += kThreads) {
    const int length = length_of(p, i), seen = length - first_token(p, length), size = chunk_tokens(seen);
    mine = max(mine, (seen + size - 1) / size);
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

// This lane's of the warp's 32 tiles from `tile` on: its place in the cache, in tiles; the first where it has none, and then it is `wild`.
__device__ __forceinline__ int tile_place(const Problem& p, const Unit& u, int tile, bool& wild) {
  const int at = (tile + threadIdx.x % 32 * kWarps) * kTile;
  wild = false;
  if (at >= u.tokens) return 0;
  const int token = u.first + at, sequence = u.pair / p.kv_heads, head = u.pair % p.kv_heads;
  const int page = __ldg(p.block_table + static_cast<size_t>(sequence) * p.table_width + token / p.page_tokens);
  wild = static_cast<unsigned int>(page) >= static_cast<unsigned int>(p.pages) || !has_length(p, sequence);
  return wild ? 0 : (page * p.kv_heads + head) * (p.page_tokens / kTile) + token % p.page_tokens / kTile;
}

// Orders a tile's keys and values, swizzled, into a stage; the whole warp.
template <class C>
__device__ __forceinline__ void copy_tile(const Problem& p, int place, uint32_t slot) {
  constexpr int kParts = C::kRowBytes / 16, kRows = 32 / kParts;  // of a row, and rows an instruction
  const uint32_t lane = threadIdx.x % 32, chunk = lane % kParts, row = lane / kParts, to = slot + row * C::kRowBytes;
  const size_t from = static_cast<size_t>(place) * C::kTileBytes + lane * 16;
  const unsigned char *k = reinterpret_cast<const unsigned char*>(p.k) + from, *v = reinterpret_cast<const unsigned char*>(p.v) + from;
#pragma unroll
  for (int i = 0; i < kTile / kRows; i++) tk::copy_async16(to + i * 512 + (C::kNarrow ? chunk : chunk ^ row % 2 * 4) * 16, k + i * 512);
#pragma unroll
  for (int i = 0; i < kTile / kRows; i++) {
    const uint32_t value = to + C::kTileBytes + i * 512;
    tk::copy_async16(C::kNarrow ? (value + chunk * 16) ^ row / 2 % 2 * 64 : value + (chunk ^ (i * kRows + row) / 2 % 4 * 2) * 16, v + i * 512);
  }
}

// A warp's share of kBoardHeads heads, and what each of a unit's warps had.
template <class C>
struct Board {
  float o[kWarps][kBoardHeads][C::kDim];
  float2 stats[kWarps][kBoardHeads];  // (peak, sum)
};

template <class C, int HEADS>
__device__ __forceinline__ void post(Board<C>& board, const State<C>& s, float sum, int first_head) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4 - first_head, t = lane % 4;
  if (g < 0 || g >= HEADS) return;
#pragma unroll
  for (int half = 0; half < State<C>::kHalves; half++)
#pragma unroll
    for (int c = 0; c < 2; c++)
#pragma unroll
      for (int i = 0; i < 8; i += 4)
        *reinterpret_cast<float4*>(&board.o[warp][g][column_of<C>(half, c, i)]) =
            make_float4(s.o[half][i][c], s.o[half][i + 1][c], s.o[half][i + 2][c], s.o[half][i + 3][c]);
  if (t == 0) board.stats[warp][g] = make_float2(s.peak, sum);
}

template <class C>
__device__ __forceinline__ float value_scale(const Problem& p, const Unit& u) {
  return C::kE4m3 ? __ldg(p.v_scale + u.pair % p.kv_heads) : 1.f;
}

// Two columns of a head: sum the warps, in order; hand on to the output, or to the partials of this chunk.
template <class C>
__device__ __forceinline__ void settle_pair(const Problem& p, const Unit& u, const Board<C>& board, int first_head, int head, int column) {
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
  const size_t row = static_cast<size_t>(u.pair) * p.group + first_head + head;
  if (u.chunks == 1) {
    const float inverse = u.tokens > 0 ? value_scale<C>(p, u) / sum : 0.f;
    *reinterpret_cast<uint32_t*>(p.out + row * C::kDim + column) = tk::pack_bf16(x * inverse, y * inverse);
    return;
  }
  float* slot = p.partial + (row * p.max_chunks + u.chunk) * (C::kDim + 2);
  __stcg(reinterpret_cast<float2*>(slot + column), make_float2(x, y));
  if (column == 0) __stcg(reinterpret_cast<float2*>(slot + C::kDim), make_float2(top, sum));
}

template <class C, int HEADS>
__device__ __forceinline__ void settle(const Problem& p, const Unit& u, const Board<C>& board, int first_head) {
  constexpr int kPairs = C::kDim / 2;
  const int heads = min(HEADS, p.group - first_head);
  for (int i = threadIdx.x; i < heads * kPairs; i += kThreads) settle_pair<C>(p, u, board, first_head, i / kPairs, i % kPairs * 2);
}

// Merge the chunks of one (sequence, kv head), in order.
template <class C>
__device__ __forceinline__ void merge(const Problem& p, const Unit& u) {
  constexpr int kPairs = C::kDim / 2;
  for (int i = threadIdx.x; i < p.group * kPairs; i += kThreads) {
    const int head = i / kPairs, column = i % kPairs * 2;
    const size_t row = static_cast<size_t>(u.pair) * p.group + head;
    const float* slots = p.partial + row * p.max_chunks * (C::kDim + 2);
    float top = kMinusInfinity, sum = 0.f, x = 0.f, y = 0.f;
    for (int c = 0; c < u.chunks; c++) top = fmaxf(top, __ldcg(slots + c * (C::kDim + 2) + C::kDim));
#pragma unroll 4
    for (int c = 0; c < u.chunks; c++) {
      const float2 stats = __ldcg(reinterpret_cast<const float2*>(slots + c * (C::kDim + 2) + C::kDim));
      const float2 o = __ldcg(reinterpret_cast<const float2*>(slots + c * (C::kDim + 2) + column));
      const float weight = tk::exp2_fast(stats.x - top);
      x += weight * o.x;
      y += weight * o.y;
      sum += weight * stats.y;
    }
    const float inverse = value_scale<C>(p, u) / sum;
    *reinterpret_cast<uint32_t*>(p.out + row * C::kDim + column) = tk::pack_bf16(x * inverse, y * inverse);
  }
}

template <class C, int GROUP>
__device__ __forceinline__ void paged_decode(const Problem& p) {
  constexpr int kStages = C::kStages, kStageBytes = C::kStageBytes;
  constexpr int kQueryParts = C::kDim / 8;  // of 16 bytes, of a head
  extern __shared__ __align__(128) unsigned char ring_bytes[];
  __shared__ __align__(16) Board<C> board;
  __shared__ int ids[4];  // of the block's units number n … n + 3, at n % 4
  __shared__ uint4 queries[2][GROUP * kQueryParts];
  __shared__ bool last[2];  // whether the chunk announced before unit number n was its sequence's last, at n % 2
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
  unsigned int lost = 0;  // at bit n % 2, whether this warp's share of unit number n has a tile without a place: it becomes NaN
  const auto look_ahead = [&](int id, int number) {
    next.tokens = 0;
    lost &= ~(1u << number % 2);
    if (id >= units) return;
    next = unit_of(p, id);
    bool wild;
    next_places = tile_place(p, next, warp, wild);
    if (__any_sync(0xffffffffu, wild)) lost |= 1u << number % 2;
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
      if (turn == 0 && feed.tile >= kWarps) {
        bool wild;
        feed.places = tile_place(p, fed, feed.tile, wild);
        if (__any_sync(0xffffffffu, wild)) lost |= 1u << feed.unit % 2;
      }
      copy_tile<C>(p, __shfl_sync(0xffffffffu, feed.places, turn), ring + feed.stage * kStageBytes);
      tk::copy_async_commit();
      if (++feed.stage == kStages) feed.stage = 0;
      feed.flying++;
      feed.tile += kWarps;
    }
  };
  const auto query_part = [&](int id) {
    const bool mine = threadIdx.x < p.group * kQueryParts && id < units;
    const size_t pair = id % (p.sequences * p.kv_heads);
    uint4 q = mine ? __ldg(reinterpret_cast<const uint4*>(p.q + pair * p.group * C::kDim) + threadIdx.x) : make_uint4(0, 0, 0, 0);
    if (C::kE4m3) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 two = tk::unpack_bf16((&q.x)[i]);
        (&q.x)[i] = pack_f16(two.x, two.y);
      }
    }
    return q;
  };

  // A unit that is one chunk of several is stored at its own end, announced at the end of the next, and known to be the last or not at the end
  // of the one after: fence and counter are then long done, and nobody waits for them.
  Unit stored = {}, announced = {};
  unsigned int before = 0;
  __syncthreads();
  if (threadIdx.x < p.group * kQueryParts) queries[0][threadIdx.x] = query_part(ids[0]);
  if (worker) {
    look_ahead(ids[0], 0);
    fill(0);
  }
  units = chunks_in_use(p) * p.sequences * p.kv_heads;
  const Lanes at = lanes_of<C>();
  int stage = 0;
  int id = ids[0];
  for (int n = 0; id < units || stored.chunks > 1 || announced.chunks > 1; n++) {
    const bool live = id < units;
    const int upcoming = ids[(n + 1) % 4];
    Unit u = {};
    unsigned int drawn = 0x7fffffff;
    uint4 query = {};
    State<C> s = {};
    s.peak = kMinusInfinity;
    if (live) {
      u = unit_of(p, id);
      if (clerk) drawn = gridDim.x + atomicAdd(p.arrived, 1u);
    }
    if (live && worker) {
      query = query_part(upcoming);
      look_ahead(upcoming, n + 1);
      // In the k order of the K reads; rows past the group are whatever lies there, and reach only their own rows of the product.
      Query<C> q;
      const uint4* head = queries[n % 2] + g % p.group * kQueryParts;
      if constexpr (C::kE4m3) {
        q.shared = tk::smem_address(head + 2 * t);
      } else {
#pragma unroll
        for (int j = 0; j < C::kDim / 32; j++) {
          const uint4 w = head[j * 4 + t];
          q.held[j][0] = w.x, q.held[j][1] = w.y, q.held[j][2] = w.z, q.held[j][3] = w.w;
        }
      }
      float scale = p.scale_log2, inner = p.inner;
      if (C::kE4m3) {
        const float of_keys = __ldg(p.k_scale + u.pair % p.kv_heads);
        scale *= inner != 0.f ? 1.f : of_keys;
        inner *= of_keys;
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
        const int skip = tile == 0 ? u.skip : 0;
        if (valid >= kTile && skip == 0)
          consume_tile<C, false>(s, q, ring + stage * kStageBytes, at, 0, kTile, scale, inner);
        else
          consume_tile<C, true>(s, q, ring + stage * kStageBytes, at, skip, valid, scale, inner);
        __syncwarp();
        feed.flying--;
        fill(n + 1);
        if (++stage == kStages) stage = 0;
      }
      s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 1);
      s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 2);
      if (lost >> n % 2 & 1) s.sum = NAN;
    }
    const bool whole = live && (u.tokens > 0 || (u.chunk == 0 && u.chunks == 1));
    if (threadIdx.x < p.group * kQueryParts) queries[(n + 1) % 2][threadIdx.x] = query;
    if (clerk) {
      ids[(n + 3) % 4] = drawn;
      last[n % 2] = announced.chunks > 1 && before + 1 == static_cast<unsigned int>(announced.chunks);
    }
    if (whole && worker) post<C, kHeads>(board, s, s.sum, 0);
    __syncthreads();
    if (clerk && stored.chunks > 1) {
      // The barriers put the block's stores before this fence, and the fence puts them before the count.
      __threadfence();
      before = atomicAdd(p.arrived + 2 + stored.pair, 1u);
      __threadfence();
    }
    if (last[n % 2] && worker) merge<C>(p, announced);
    if (last[n % 2] && clerk) p.arrived[2 + announced.pair] = 0;
    announced = stored;
    stored = {};
    if (whole) {
      if (worker) settle<C, kHeads>(p, u, board, 0);
#pragma unroll
      for (int head = kHeads; head < GROUP; head += kHeads) {
        if (!worker) break;
        workers_sync();
        post<C, kHeads>(board, s, s.sum, head);
        workers_sync();
        settle<C, kHeads>(p, u, board, head);
      }
      if (u.chunks > 1) stored = u;
    }
    // The clerk's fences and counter take longer than all of this: the next unit begins without it, and meets it at its own end.
    if (worker) workers_sync();
    id = upcoming;
  }
  // The last block of the grid leaves the counters as it found them.
  if (clerk && atomicAdd(p.arrived + 1, 1u) + 1 == gridDim.x) p.arrived[0] = p.arrived[1] = 0;
}

}  // namespace

#define PAGED_DECODE(NAME, DIM, E4M3, GROUP)                                                                                \
  extern "C" __global__ void __launch_bounds__(kThreads + 32, 2) NAME##_g##GROUP(const __grid_constant__ Problem p) {       \
    paged_decode<Cache<DIM, E4M3>, GROUP>(p);                                                                               \
  }
PAGED_DECODE(paged_decode, 128, false, 1)
PAGED_DECODE(paged_decode, 128, false, 2)
PAGED_DECODE(paged_decode, 128, false, 4)
PAGED_DECODE(paged_decode, 128, false, 8)
PAGED_DECODE(paged_decode_d64, 64, false, 1)
PAGED_DECODE(paged_decode_d64, 64, false, 2)
PAGED_DECODE(paged_decode_d64, 64, false, 4)
PAGED_DECODE(paged_decode_d64, 64, false, 8)
PAGED_DECODE(paged_decode_e4m3, 128, true, 1)
PAGED_DECODE(paged_decode_e4m3, 128, true, 2)
PAGED_DECODE(paged_decode_e4m3, 128, true, 4)
PAGED_DECODE(paged_decode_e4m3, 128, true, 8)
PAGED_DECODE(paged_decode_e4m3_d64, 64, true, 1)
PAGED_DECODE(paged_decode_e4m3_d64, 64, true, 2)
PAGED_DECODE(paged_decode_e4m3_d64, 64, true, 4)
PAGED_DECODE(paged_decode_e4m3_d64, 64, true, 8)
