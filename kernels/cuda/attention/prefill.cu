// out = softmax(scale · q · Kᵀ) · V for many query tokens a sequence, causal or not, after FlashAttention-3 (Shah et al., 2024).
//
// A persistent block walks tiles of kRows = 64 · WARPGROUPS query rows of one head. A producer warp orders tensor copies: q into one of two
// buffers, then K and V tiles of kColumns keys into one ring in the order the consumers use them: K, (K, V)…, V. Each consumer warpgroup owns
// 64 rows and runs one step ahead: it queues the next S = q · Kᵀ and then O += P · V, and does the softmax of the next S while the tensor cores
// are on with its O and with the other warpgroups' products. The warpgroups queue their products in turn (named barriers), so that one has its
// softmax while another has the tensor cores.
//
// Keys are walked from the last block down, blocks lie at multiples of kColumns of the sequence, and a block that a row may not see adds exact
// zeros: a row's bits depend neither on the batch nor on where its prompt was cut into chunks.
// V rows past the sequence's end are zeroed in shared memory, K columns past it are masked: nothing there reaches a result.
#include "../ptx/fragment.cuh"
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"
#include "../ptx/wgmma.cuh"

namespace {

// A tile of queries: what the host planned for it.
struct alignas(32) Item {
  int q_row, q_rows;    // first row in q, and how many of the tile's rows there are
  int k_base;           // first row of the sequence's dense keys
  int k_length;         // keys of the sequence
  int position;         // place of the first query row among the keys
  int first, last;      // blocks of keys to walk: last down to first
  int sequence;         // row of the block table
};

struct Problem {
  __nv_bfloat16* out;
  float* lse;  // [heads, queries]: the natural logarithm of the sum of a row's exponentials; or null
  const Item* items;
  const int* block_table;  // null: dense keys
  int tiles, heads, group, table_width, page_tokens, box, pages;
  int causal, window;      // window: keys a row sees, itself included
  int queries;             // of all sequences
  float scale;             // log2(e) · scale; under a cap 2 · log2(e) · scale / cap
  float cap;               // log2(e) · cap
};

// Weights are 2^(score − reference). See softmax.
constexpr float kNone = -3.4028235e38f, kHeadroom = 32.0f, kLimit = 16.0f, kAccepted = 32768.0f;
constexpr int kMarks = 2048;

__device__ __forceinline__ void order_wait(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ __forceinline__ void order_pass(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

template <int D, int WARPGROUPS, int COLUMNS, int SLOTS, bool ORDERED, bool PAGED, bool CAPPED>
struct Prefill {
  static constexpr int kRows = 64 * WARPGROUPS, kColumns = COLUMNS, kPanels = D / 64;
  static constexpr int kTileBytes = kColumns * D * 2, kQBytes = kRows * D * 2;
  static constexpr int kKeyPanel = kColumns * 128, kQPanel = kRows * 128;

  static constexpr int kMarksBarrier = 15;  // the named barrier between the two walks; 1… are the turns and what is within a warpgroup
  // One producer warp copies q, keys and values; two for pages, whose boxes are small and many: the second has the values.
  static constexpr int kProducers = PAGED ? 2 : 1, kAll = 32 * kProducers + 128 * WARPGROUPS;
  static constexpr int kTurns = 256;  // threads of a hand-over from one warpgroup to the next

  uint32_t q, ring, full, empty, q_full, q_empty;
  uint32_t* marks;  // bits: groups of rounds that are walked once more, checked; the last word says whether there are any

  __device__ __forceinline__ bool tile(const Problem& p, int round, Item& item, int& head) const {
    // Volatile: the consumers ask again for the store, so as not to hold all of it in registers meanwhile.
    int block;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
    // Tiles are sorted by their work; odd rounds are dealt backwards, so that every block gets as much.
    const int at = round * gridDim.x + (round & 1 ? gridDim.x - 1 - block : block);
    if (at >= p.tiles) return false;
    const Item* from = p.items + at / p.heads;
    asm volatile("ld.global.v4.s32 {%0,%1,%2,%3}, [%4];" : "=r"(item.q_row), "=r"(item.q_rows), "=r"(item.k_base), "=r"(item.k_length) : "l"(from));
    asm volatile("ld.global.v4.s32 {%0,%1,%2,%3}, [%4+16];" : "=r"(item.position), "=r"(item.first), "=r"(item.last), "=r"(item.sequence) : "l"(from));
    head = at % p.heads;
    return true;
  }

  // Row of the pages where this lane's box of a block of keys begins; dense keys: 0. Of an entry that is no page a row before all others: what lies
  // outside is read as NaN.
  __device__ __forceinline__ int look_up(const Problem& p, const Item& item, int kv_head, int block) const {
    const int token = block * kColumns + threadIdx.x % 32 * p.box;
    if (!PAGED || token >= min(item.k_length, (block + 1) * kColumns) || block < item.first) return 0;
    const int page = __ldg(p.block_table + static_cast<size_t>(item.sequence) * p.table_width + token / p.page_tokens);
    if (static_cast<unsigned int>(page) >= static_cast<unsigned int>(p.pages)) return -kColumns;
    return (page * (p.heads / p.group) + kv_head) * p.page_tokens + token % p.page_tokens;
  }

  // A block of keys or values into the next slot; `row` is what look_up gave for it.
  __device__ __forceinline__ void load_keys(const tk::TensorMap& map, const Problem& p, const Item& item, int kv_head, int block, int row, tk::Place& at) const {
    const int lane = threadIdx.x % 32;
    const uint32_t to = ring + at.slot * kTileBytes, barrier = full + 8 * at.slot;
    tk::barrier_wait(empty + 8 * at.slot, at.parity ^ 1);
    if constexpr (PAGED) {
      const int boxes = (min(kColumns, item.k_length - block * kColumns) + p.box - 1) / p.box;
      if (lane == 0) tk::barrier_expect(barrier, boxes * p.box * D * 2);
      __syncwarp();
      if (lane < boxes) {
#pragma unroll
        for (int panel = 0; panel < kPanels; panel++)
          tk::copy_tensor(to + panel * kKeyPanel + lane * p.box * 128, map, panel * 64, row, barrier);
      }
    } else if (lane == 0) {
      tk::barrier_expect(barrier, kTileBytes);
#pragma unroll
      for (int panel = 0; panel < kPanels; panel++)
        tk::copy_tensor(to + panel * kKeyPanel, map, kv_head * D + panel * 64, item.k_base + block * kColumns, barrier);
    }
    at.template advance<SLOTS>();
  }

  // Between the two walks: whether there is anything to walk again.
  __device__ __forceinline__ bool any_marked() const {
    __syncwarp();
    order_wait(kMarksBarrier, kAll);
    return marks[kMarks / 32];
  }
  __device__ __forceinline__ int rounds_a_mark(const Problem& p) const { return p.tiles / gridDim.x / kMarks + 1; }
  __device__ __forceinline__ bool marked(const Problem& p, int round) const {
    const int mark = round / rounds_a_mark(p);
    return marks[mark / 32] >> mark % 32 & 1;
  }

  __device__ __forceinline__ void load_queries(const tk::TensorMap& map, const Item& item, int head, int& served) const {
    const uint32_t buffer = served % 2, barrier = q_full + 8 * buffer;
    tk::barrier_wait(q_empty + 8 * buffer, served / 2 % 2 ^ 1);
    served++;
    if (threadIdx.x % 32 != 0) return;
    tk::barrier_expect(barrier, kQBytes);
#pragma unroll
    for (int panel = 0; panel < kPanels; panel++)
      tk::copy_tensor(q + buffer * kQBytes + panel * kQPanel, map, head * D + panel * 64, item.q_row, barrier);
  }

  template <bool CHECKED>
  __device__ __forceinline__ void produce(const tk::TensorMap& q_map, const tk::TensorMap& k_map, const tk::TensorMap& v_map, const Problem& p, tk::Place& at, int& served) const {
    const bool has_keys = !PAGED || threadIdx.x < 32, has_values = !PAGED || threadIdx.x >= 32;
    Item item;
    int head;
#pragma unroll 1
    for (int round = 0; tile(p, round, item, head); round++) {
      if (CHECKED && !marked(p, round)) continue;
      if (has_keys) load_queries(q_map, item, head, served);
      const int kv_head = head / p.group;
      int row = look_up(p, item, kv_head, item.last), before = 0;
#pragma unroll 1
      for (int block = item.last; block >= item.first; block--) {
        const int next = look_up(p, item, kv_head, block - 1);
        if (has_keys)
          load_keys(k_map, p, item, kv_head, block, row, at);
        else
          at.template advance<SLOTS>();
        if (CHECKED || block < item.last) {  // the values of the block before, or when checked of this one
          if (has_values)
            load_keys(v_map, p, item, kv_head, CHECKED ? block : block + 1, CHECKED ? row : before, at);
          else
            at.template advance<SLOTS>();
        }
        before = row, row = next;
      }
      if (!CHECKED && item.last >= item.first) {
        if (has_values)
          load_keys(v_map, p, item, kv_head, item.first, before, at);
        else
          at.template advance<SLOTS>();
      }
    }
  }

  __device__ __forceinline__ void queue_scores(float (&s)[kColumns / 2], uint32_t q_tile, uint32_t k_tile) const {
    const uint64_t a = tk::matrix_descriptor(q_tile), b = tk::matrix_descriptor(k_tile);
#pragma unroll
    for (int k = 0; k < D / 16; k++)
      tk::wgmma_k16(s, a + k / 4 * (kQPanel >> 4) + k % 4 * 2, b + k / 4 * (kKeyPanel >> 4) + k % 4 * 2, k > 0);
  }

  __device__ __forceinline__ void queue_values(float (&o)[D / 2], const uint32_t (&weights)[kColumns / 4], uint32_t v_tile) const {
    const uint64_t b = tk::transposed_descriptor(v_tile, kKeyPanel);
#pragma unroll
    for (int k = 0; k < kColumns / 16; k++)
      tk::wgmma_k16_registers(o, weights[4 * k], weights[4 * k + 1], weights[4 * k + 2], weights[4 * k + 3], b + k * 128);
  }

  // The scores of one block become weights, added into sum.
  //
  // A row's reference lies kHeadroom above the greatest score of the first block in which the row sees a key, and stays there: weights of 2^-32 and
  // of 2^15 are as exact as weights near one, so no maximum is taken and nothing is rescaled. A row whose sum passes kAccepted in the end (its
  // later scores exceed its first ones by 33 nats, or it is not a number) has its tile walked once more with CHECKED, which moves a reference
  // when a score passes it by kLimit. A row that was accepted has no such score, so CHECKED gives it the same bits: what a row becomes
  // depends on that row alone.
  template <bool CHECKED>
  __device__ __forceinline__ void softmax(const Problem& p, const Item& item, int row, int block, float (&s)[kColumns / 2], bool& fresh, float (&reference)[2],
                                          float (&sum)[2], float (&o)[D / 2]) const {
    const int lane = threadIdx.x % 32, start = block * kColumns;
    if constexpr (CAPPED) {
      // cap · tanh(x / cap) = cap · (1 − 2 / (1 + e^(2x/cap))): exact to f32 in absolute terms, unlike tanh.approx.
#pragma unroll
      for (int i = 0; i < kColumns / 2; i++) s[i] = fmaf(-2.0f * p.cap, tk::reciprocal(1.0f + tk::exp2_fast(s[i] * p.scale)), p.cap);
    }
    const int above = p.causal ? item.position + row : item.k_length - 1;  // the last key that the warpgroup's first row may see
    if (start + kColumns > min(item.k_length, above + 1) || (p.causal && start < item.position + row + 64 - p.window)) {
      int mine = item.position + row + threadIdx.x / 32 % 4 * 16 + lane / 4;
      asm volatile("" : "+r"(mine));  // computed here, where it is seldom needed, and not held across the loop
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int origin = start + lane % 4 * 2;
        const int high = (p.causal ? min(item.k_length, mine + 8 * r + 1) : item.k_length) - origin;
        const int low = p.causal ? mine + 8 * r + 1 - p.window - origin : 0;
#pragma unroll
        for (int i = 0; i < kColumns / 8; i++) {
#pragma unroll
          for (int e = 0; e < 2; e++)
            if (8 * i + e >= high || 8 * i + e < low) s[4 * i + 2 * r + e] = -INFINITY;
        }
      }
    }
    const float scale = CAPPED ? 1.0f : p.scale;
    if (fresh) {
      fresh = false;
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const float most = greatest(s, r, -1.0f) * scale;
        if (reference[r] == kNone && most > kNone) reference[r] = most + kHeadroom;
        fresh |= reference[r] == kNone;
      }
      fresh = __any_sync(0xffffffffu, fresh);
    }
#pragma unroll
    for (int i = 0; i < kColumns / 2; i++) s[i] = fmaf(s[i], -scale, reference[i / 2 % 2]);
    if constexpr (CHECKED) {
#pragma unroll
      for (int r = 0; r < 2; r++) {  // without a branch: adding 0 and multiplying with 1 change nothing
        const float past = greatest(s, r, 1.0f), move = past > kLimit ? past + kHeadroom : 0.0f, factor = tk::exp2_fast(-move);
        reference[r] += move;
        sum[r] *= factor;
#pragma unroll
        for (int i = 0; i < kColumns / 8; i++) s[4 * i + 2 * r] += move, s[4 * i + 2 * r + 1] += move;
#pragma unroll
        for (int i = 0; i < D / 8; i++) o[4 * i + 2 * r] *= factor, o[4 * i + 2 * r + 1] *= factor;
      }
    }
    float part[2][2] = {};
#pragma unroll
    for (int i = 0; i < kColumns / 8; i++) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        float& x = s[4 * i + 2 * r];
        float& y = s[4 * i + 2 * r + 1];
        x = tk::exp2_fast(-x);
        y = tk::exp2_fast(-y);
        part[r][0] += x;
        part[r][1] += y;
      }
    }
    sum[0] += part[0][0] + part[0][1], sum[1] += part[1][0] + part[1][1];
  }

  // The greatest of -sign · s in row r of the four lanes that share it.
  __device__ __forceinline__ float greatest(const float (&s)[kColumns / 2], int r, float sign) const {
    float most = -INFINITY;
#pragma unroll
    for (int i = 0; i < kColumns / 8; i++) most = fmaxf(most, fmaxf(-sign * s[4 * i + 2 * r], -sign * s[4 * i + 2 * r + 1]));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    return fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
  }

  __device__ __forceinline__ void pack(uint32_t (&weights)[kColumns / 4], const float (&s)[kColumns / 2]) const {
#pragma unroll
    for (int i = 0; i < kColumns / 4; i++) weights[i] = tk::pack_bf16(s[2 * i], s[2 * i + 1]);
  }

  // Writes a tile's rows; true when one of them is to be walked again.
  __device__ __forceinline__ bool store(const Problem& p, int round, int row, const float (&o)[D / 2], const float (&sum)[2], const float (&reference)[2]) const {
    const int lane = threadIdx.x % 32, first = row + threadIdx.x / 32 % 4 * 16 + lane / 4;
    float scale[2], total[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      total[r] = sum[r] + __shfl_xor_sync(0xffffffffu, sum[r], 1);
      total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
      scale[r] = total[r] == 0.0f ? 0.0f : tk::reciprocal(total[r]);
    }
    Item item;
    int head;
    tile(p, round, item, head);
    const bool again = (first < item.q_rows && !(total[0] <= kAccepted)) || (first + 8 < item.q_rows && !(total[1] <= kAccepted));
    if (p.lse && lane % 4 == 0) {
      float* to = p.lse + static_cast<size_t>(head) * p.queries + item.q_row + first;
#pragma unroll
      for (int r = 0; r < 2; r++)
        if (first + 8 * r < item.q_rows) to[8 * r] = total[r] == 0.0f ? -INFINITY : (reference[r] + __log2f(total[r])) * 0.6931471805599453f;
    }
    const size_t pitch = static_cast<size_t>(p.heads) * D;
    __nv_bfloat16* low_row = p.out + (item.q_row + first) * pitch + static_cast<size_t>(head) * D;
#pragma unroll
    for (int i = 0; i < D / 8; i += 4) {
      const int column = (i + lane % 4) * 8;
      const auto word = [&](int block, int r) { return tk::pack_bf16(o[4 * block + 2 * r] * scale[r], o[4 * block + 2 * r + 1] * scale[r]); };
      const uint4 low = tk::gather_block(word(i, 0), word(i + 1, 0), word(i + 2, 0), word(i + 3, 0));
      const uint4 high = tk::gather_block(word(i, 1), word(i + 1, 1), word(i + 2, 1), word(i + 3, 1));
      if (first < item.q_rows) *reinterpret_cast<uint4*>(low_row + column) = low;
      if (first + 8 < item.q_rows) *reinterpret_cast<uint4*>(low_row + 8 * pitch + column) = high;
    }
    return again;
  }

  // Rows of a V tile from `from` on become zeros: 0 · what lies there is not always 0.
  __device__ __forceinline__ void zero_rows(uint32_t v_tile, int from, int group) const {
    for (int row = from + threadIdx.x / 32 % 4; row < kColumns; row += 4) {
#pragma unroll
      for (int panel = 0; panel < kPanels; panel++)
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(v_tile + panel * kKeyPanel + row * 128 + threadIdx.x % 32 * 4), "r"(0) : "memory");
    }
    tk::fence_async_shared();
    order_wait(1 + WARPGROUPS + group, 128);
  }

  __device__ __forceinline__ void release(uint32_t barrier) const {
    if (threadIdx.x % 32 == 0) tk::barrier_arrive(barrier);
  }

  __device__ __forceinline__ void consume(const Problem& p, int group, tk::Place& at, int& served) const {
    const int row = 64 * group, turn = 1 + group, next = 1 + (group + 1) % WARPGROUPS;
    Item item;
    int head;
    for (int round = 0; tile(p, round, item, head); round++) {
      const uint32_t q_tile = q + served % 2 * kQBytes + row * 128;
      float o[D / 2], reference[2] = {kNone, kNone}, sum[2] = {0.0f, 0.0f};
#pragma unroll
      for (int i = 0; i < D / 2; i++) o[i] = 0.0f;
      tk::barrier_wait(q_full + served % 2 * 8, served / 2 % 2);
      if (item.last >= item.first) {
        float s[kColumns / 2];
        uint32_t weights[kColumns / 4];
        bool fresh = true;                                // some row has seen no key yet
        int past = item.k_length - item.last * kColumns;  // rows of the last V tile that are the sequence's
        tk::barrier_wait(full + 8 * at.slot, at.parity);
        if (ORDERED) order_wait(turn, kTurns);
        tk::wgmma_fence();
        queue_scores(s, q_tile, ring + at.slot * kTileBytes);
        tk::wgmma_commit();
        if (ORDERED) order_pass(next, kTurns);
        tk::wgmma_wait<0>();
        tk::wgmma_hold(s);
        release(empty + 8 * at.slot);
        at.template advance<SLOTS>();
        softmax<false>(p, item, row, item.last, s, fresh, reference, sum, o);
        pack(weights, s);
        tk::barrier_wait(full + 8 * at.slot, at.parity);
#pragma unroll 1
        for (int block = item.last - 1; block >= item.first; block--) {
          const tk::Place k_at = at;
          at.template advance<SLOTS>();
          const tk::Place v_at = at;
          at.template advance<SLOTS>();
          if (past < kColumns) {
            tk::barrier_wait(full + 8 * v_at.slot, v_at.parity);
            zero_rows(ring + v_at.slot * kTileBytes, past, group);
            past = kColumns;
          }
          if (ORDERED) order_wait(turn, kTurns);
          tk::wgmma_fence();
          queue_scores(s, q_tile, ring + k_at.slot * kTileBytes);
          tk::wgmma_commit();
          tk::barrier_wait(full + 8 * v_at.slot, v_at.parity);
          tk::wgmma_fence();
          queue_values(o, weights, ring + v_at.slot * kTileBytes);
          tk::wgmma_commit();
          if (ORDERED) order_pass(next, kTurns);
          tk::wgmma_wait<1>();
          tk::wgmma_hold(s);
          release(empty + 8 * k_at.slot);
          softmax<false>(p, item, row, block, s, fresh, reference, sum, o);
          tk::wgmma_hold(s);
          tk::wgmma_hold(sum);
          // The next tile is waited for here, where the branch keeps the assembler from moving the exponentials behind the wait for O.
          tk::barrier_wait(full + 8 * at.slot, at.parity);
          tk::wgmma_wait<0>();
          tk::wgmma_hold(o);
          release(empty + 8 * v_at.slot);
          pack(weights, s);
        }
        if (past < kColumns) zero_rows(ring + at.slot * kTileBytes, past, group);
        tk::wgmma_fence();
        queue_values(o, weights, ring + at.slot * kTileBytes);
        tk::wgmma_commit();
        tk::wgmma_wait<0>();
        tk::wgmma_hold(o);
        release(empty + 8 * at.slot);
        at.template advance<SLOTS>();
      }
      release(q_empty + served % 2 * 8);
      served++;
      if (store(p, round, row, o, sum, reference)) {
        const int mark = round / rounds_a_mark(p);
        atomicOr(marks + mark / 32, 1u << mark % 32);
        marks[kMarks / 32] = 1;
      }
    }
  }

  // The marked tiles again, one product after the other: seldom needed, so kept short. The same sums in the same order.
  __device__ __forceinline__ void consume_checked(const Problem& p, int group, tk::Place& at, int& served) const {
    const int row = 64 * group;
    Item item;
    int head;
#pragma unroll 1
    for (int round = 0; tile(p, round, item, head); round++) {
      if (!marked(p, round)) continue;
      float o[D / 2], reference[2] = {kNone, kNone}, sum[2] = {0.0f, 0.0f};
#pragma unroll
      for (int i = 0; i < D / 2; i++) o[i] = 0.0f;
      tk::barrier_wait(q_full + served % 2 * 8, served / 2 % 2);
      bool fresh = true;
#pragma unroll 1
      for (int block = item.last; block >= item.first; block--) {
        float s[kColumns / 2];
        uint32_t weights[kColumns / 4];
        tk::barrier_wait(full + 8 * at.slot, at.parity);
        tk::wgmma_fence();
        queue_scores(s, q + served % 2 * kQBytes + row * 128, ring + at.slot * kTileBytes);
        tk::wgmma_commit();
        tk::wgmma_wait<0>();
        tk::wgmma_hold(s);
        release(empty + 8 * at.slot);
        at.template advance<SLOTS>();
        softmax<true>(p, item, row, block, s, fresh, reference, sum, o);
        pack(weights, s);
        tk::barrier_wait(full + 8 * at.slot, at.parity);
        const int past = item.k_length - block * kColumns;
        if (past < kColumns) zero_rows(ring + at.slot * kTileBytes, past, group);
        tk::wgmma_fence();
        queue_values(o, weights, ring + at.slot * kTileBytes);
        tk::wgmma_commit();
        tk::wgmma_wait<0>();
        tk::wgmma_hold(o);
        release(empty + 8 * at.slot);
        at.template advance<SLOTS>();
      }
      release(q_empty + served % 2 * 8);
      served++;
      store(p, round, row, o, sum, reference);
    }
  }

  __device__ __forceinline__ void run(const tk::TensorMap& q_map, const tk::TensorMap& k_map, const tk::TensorMap& v_map, const Problem& p) {
    extern __shared__ unsigned char unaligned[];
    __shared__ __align__(8) uint64_t barriers[2 * SLOTS + 4];
    __shared__ uint32_t mark_words[kMarks / 32 + 1];
    marks = mark_words;
    for (int i = threadIdx.x; i <= kMarks / 32; i += blockDim.x) mark_words[i] = 0;
    q = (tk::smem_address(unaligned) + 1023) & ~1023u;
    ring = q + 2 * kQBytes;
    full = tk::smem_address(barriers), empty = full + 8 * SLOTS, q_full = empty + 8 * SLOTS, q_empty = q_full + 16;
    if (threadIdx.x == 0) {
      for (int i = 0; i < SLOTS; i++) tk::barrier_init(full + 8 * i, 1), tk::barrier_init(empty + 8 * i, 4 * WARPGROUPS);
      for (int i = 0; i < 2; i++) tk::barrier_init(q_full + 8 * i, 1), tk::barrier_init(q_empty + 8 * i, 4 * WARPGROUPS);
      tk::barrier_init_fence();
      tk::prefetch_map(q_map), tk::prefetch_map(k_map), tk::prefetch_map(v_map);
    }
    __syncthreads();
    if (threadIdx.x < 128) {
      tk::registers_lower<WARPGROUPS == 2 ? 40 : 32>();
      if (threadIdx.x >= 32 * kProducers) return;
      tk::Place at{0, 0};
      int served = 0;
      produce<false>(q_map, k_map, v_map, p, at, served);
      if (any_marked()) produce<true>(q_map, k_map, v_map, p, at, served);
    } else {
      tk::registers_raise<WARPGROUPS == 2 ? 232 : 160>();
      const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128 - 1, 0);  // the same in every lane, and the compiler sees it
      tk::Place at{0, 0};
      int served = 0;
      if (ORDERED && group == WARPGROUPS - 1) order_pass(1, kTurns);
      consume(p, group, at, served);
      if (ORDERED && group == 0) order_wait(1, kTurns);
      if (any_marked()) consume_checked(p, group, at, served);
    }
  }
};

}  // namespace

#define PREFILL(NAME, D, WARPGROUPS, COLUMNS, SLOTS, ORDERED, PAGED, CAPPED)                                                              \
  extern "C" __global__ void __launch_bounds__(128 + 128 * WARPGROUPS, 1)                                                                 \
      NAME(const __grid_constant__ tk::TensorMap q, const __grid_constant__ tk::TensorMap k, const __grid_constant__ tk::TensorMap v,     \
           const __grid_constant__ Problem p) {                                                                                           \
    Prefill<D, WARPGROUPS, COLUMNS, SLOTS, ORDERED, PAGED, CAPPED>().run(q, k, v, p);                                                     \
  }
PREFILL(prefill_d128, 128, 2, 128, 5, true, false, false)
PREFILL(prefill_d128_cap, 128, 2, 128, 5, true, false, true)
PREFILL(prefill_paged_d128, 128, 2, 128, 5, true, true, false)
PREFILL(prefill_paged_d128_cap, 128, 2, 128, 5, true, true, true)
PREFILL(prefill_d64, 64, 3, 128, 8, true, false, false)
PREFILL(prefill_d64_cap, 64, 2, 128, 8, true, false, true)
PREFILL(prefill_paged_d64, 64, 3, 128, 8, true, true, false)
PREFILL(prefill_paged_d64_cap, 64, 2, 128, 8, true, true, true)
