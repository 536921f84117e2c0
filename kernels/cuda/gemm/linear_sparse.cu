// y[M, N] = x[M, K] · w[N, K]ᵀ in bf16 with f32 sums, of every four neighbours in a row of w at most two not zero: the tensor cores' 2:4 sparsity.
//
// The weights are the sparse operand, so they take wgmma's 64 rows and x the columns: a tile is 128 features x COLUMNS rows of x, its sums lie features
// along the lanes and leave through shared memory, transposed. A stage is 64 columns of K: of w its 32 kept numbers a feature (64 bytes, under the 64-byte
// swizzle) and a word a thread that says which of four they were; of x 128 bytes a row. One producer thread orders them into a ring as deep as
// shared memory allows; two consumer warpgroups multiply 64 features each, one stage of products always queued.
// Packed words, [N / 64][K / 64][128]: thread 4g + t of a warp has, for t = 0 and 1 of the stage's first 32 columns and for t = 2 and 3 of the second, rows
// g (low half) and g + 8 of the warp's sixteen, four groups of four columns each: two places of two bits a group.
// A row's bits do not depend on M: K is summed in order in one accumulator, and the width of the tile changes no sum.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"
#include "../ptx/wgmma.cuh"

namespace {

constexpr int kFeatures = 128, kDepth = 64, kMostShared = 232448 - 1024 - 1024;
constexpr int kValueBytes = kFeatures * kDepth, kWordBytes = 2 * 128 * 4;
constexpr int kChunk = 32;  // rows of x that leave at a time
constexpr int kBoardRow = 144, kBoard = kChunk * kBoardRow;

struct Problem {
  __nv_bfloat16* y;
  const uint32_t* words;
  int m, n, k;
};

template <int COLUMNS>
struct Stages {
  static constexpr int kXBytes = COLUMNS * 128, kBytes = kXBytes + kValueBytes + kWordBytes;
  static constexpr int kFit = (kMostShared - 2 * kBoard) / kBytes, kCount = kFit < 12 ? kFit : 12;
};

// As matrix_descriptor, for rows of 64 bytes under the 64-byte swizzle: eight rows are 512 bytes apart from the next eight.
__device__ __forceinline__ uint64_t narrow_descriptor(uint32_t shared) {
  return (static_cast<uint64_t>(2) << 62) | (static_cast<uint64_t>(32) << 32) | (static_cast<uint64_t>(1) << 16) | ((shared & 0x3ffff) >> 4);
}

// D[64, N] += A[64, 32] · B[N, 32]ᵀ, A sparse: 16 kept numbers a row. SELECT says which two threads of a quad have the words.
#define SPARSE_PRODUCT(N, COUNT, A, B, WORD, ADD)                                                                                    \
  template <int SELECT>                                                                                                              \
  __device__ __forceinline__ void multiply(float (&d)[COUNT], uint64_t a, uint64_t b, uint32_t word, int accumulate) {               \
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %" #ADD ", 0;\n\t"                                                        \
                 "wgmma.mma_async.sp.sync.aligned.m64n" #N "k32.f32.bf16.bf16 {" TK_NAMES##COUNT "}, %" #A ", %" #B ", %" #WORD       \
                 ", %" TK_NEXT_##ADD ", add, 1, 1, 0, 0;\n\t}"                                                                       \
                 : TK_SUMS##COUNT(0)                                                                                                 \
                 : "l"(a), "l"(b), "r"(word), "r"(accumulate), "n"(SELECT));                                                         \
  }
#define TK_NEXT_11 "12"
#define TK_NEXT_35 "36"
#define TK_NEXT_67 "68"
#define TK_NEXT_131 "132"
SPARSE_PRODUCT(16, 8, 8, 9, 10, 11)
SPARSE_PRODUCT(64, 32, 32, 33, 34, 35)
SPARSE_PRODUCT(128, 64, 64, 65, 66, 67)
SPARSE_PRODUCT(256, 128, 128, 129, 130, 131)

__device__ __forceinline__ void store_matrices(uint32_t address, uint32_t a, uint32_t b) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b) : "memory");
}
__device__ __forceinline__ void together() { asm volatile("bar.sync %0, 128;" ::"r"(threadIdx.x / 128) : "memory"); }

// A warpgroup's 64 features x COLUMNS rows.
template <int COLUMNS>
__device__ __forceinline__ void store(const Problem& p, const float (&d)[COLUMNS / 2], uint32_t board, int feature, int row) {
  constexpr int kRows = COLUMNS < kChunk ? COLUMNS : kChunk;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const uint32_t mine = board + (lane % 8) * kBoardRow + (warp * 16 + lane / 8 % 2 * 8) * 2;
#pragma unroll
  for (int first = 0; first < COLUMNS; first += kRows) {
#pragma unroll
    for (int b = 0; b < kRows / 8; b++) {
      const int i = (first / 8 + b) * 4;
      store_matrices(mine + b * 8 * kBoardRow, tk::pack_bf16(d[i], d[i + 1]), tk::pack_bf16(d[i + 2], d[i + 3]));
    }
    together();
#pragma unroll
    for (int i = threadIdx.x % 128; i < kRows * 8; i += 128) {
      const int r = row + first + i / 8, f = feature + i % 8 * 8;
      if (r < p.m && f < p.n) *reinterpret_cast<uint4*>(p.y + static_cast<size_t>(r) * p.n + f) = tk::load_shared16(board + i / 8 * kBoardRow + i % 8 * 16);
    }
    together();
  }
}

template <int COLUMNS>
__device__ __forceinline__ void linear_sparse(const tk::TensorMap& x, const tk::TensorMap& w, const Problem& p) {
  using S = Stages<COLUMNS>;
  constexpr int kStages = S::kCount;
  extern __shared__ unsigned char unaligned[];
  __shared__ __align__(8) uint64_t full[kStages], empty[kStages];
  const uint32_t ring = (tk::smem_address(unaligned) + 1023) & ~1023u, boards = ring + kStages * S::kBytes;
  const uint32_t full0 = tk::smem_address(full), empty0 = tk::smem_address(empty);
  const int group = threadIdx.x / 128;
  tk::begin_ring(full0, empty0, kStages, 8, x, w);
  // Tiles of one group of features after the other, so that blocks at work share x and w in L2.
  constexpr int kTogether = 8;
  const int wide = (p.n + kFeatures - 1) / kFeatures, high = (p.m + COLUMNS - 1) / COLUMNS, count = wide * high, steps = (p.k + kDepth - 1) / kDepth;
  const auto place = [&](int index, int& feature, int& row) {
    const int first = index / (kTogether * high) * kTogether, within = index % (kTogether * high), width = min(kTogether, wide - first);
    feature = (first + within % width) * kFeatures;
    row = within / width * COLUMNS;
  };
  tk::Place at{0, 0};
  if (group == 0) {
    tk::registers_lower<40>();
    if (threadIdx.x > 0) return;
    for (int index = blockIdx.x; index < count; index += gridDim.x) {
      int feature, row;
      place(index, feature, row);
      // The words are padded to whole tiles.
      const uint32_t* words = p.words + static_cast<size_t>(feature / 64) * steps * 128;
      for (int step = 0; step < steps; step++) {
        const uint32_t to = ring + at.slot * S::kBytes, barrier = full0 + 8 * at.slot;
        tk::barrier_wait(empty0 + 8 * at.slot, at.parity ^ 1);
        tk::barrier_expect(barrier, S::kBytes);
        tk::copy_tensor(to, x, step * kDepth, row, barrier);
        tk::copy_tensor(to + S::kXBytes, w, step * (kDepth / 2), feature, barrier);
        tk::copy_bulk(to + S::kXBytes + kValueBytes, words + step * 128, 512, barrier);
        tk::copy_bulk(to + S::kXBytes + kValueBytes + 512, words + (steps + step) * 128, 512, barrier);
        at.template advance<kStages>();
      }
    }
    return;
  }
  tk::registers_raise<232>();
  const int half = group - 1, lane = threadIdx.x % 32;
  const auto release = [&](int s) {
    if (lane == 0) tk::barrier_arrive(empty0 + 8 * s);
  };
  float d[COLUMNS / 2];
  for (int index = blockIdx.x; index < count; index += gridDim.x) {
    int feature, row;
    place(index, feature, row);
    int previous = -1;
    // Words of a stage stay in their register until its products are done: two registers take turns.
    uint32_t even = 0, odd = 0;
    const auto stage = [&](int step, uint32_t& word, uint32_t& other) {
      tk::barrier_wait(full0 + 8 * at.slot, at.parity);
      const uint32_t from = ring + at.slot * S::kBytes, values = from + S::kXBytes + half * (kValueBytes / 2);
      asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(from + S::kXBytes + kValueBytes + half * 512 + threadIdx.x % 128 * 4) : "memory");
      const uint64_t a = narrow_descriptor(values), b = tk::matrix_descriptor(from);
      tk::wgmma_fence();
      multiply<0>(d, a, b, word, step > 0);
      multiply<1>(d, a + 2, b + 4, word, 1);
      tk::wgmma_commit();
      tk::wgmma_wait<1>();
      asm volatile("" : "+r"(other));
      if (previous >= 0) release(previous);
      previous = at.slot;
      at.template advance<kStages>();
    };
#pragma unroll 1
    for (int step = 0; step < steps; step += 2) {
      stage(step, even, odd);
      if (step + 1 < steps) stage(step + 1, odd, even);
    }
    tk::wgmma_wait<0>();
    asm volatile("" : "+r"(even), "+r"(odd));
    tk::wgmma_hold(d);
    release(previous);
    store<COLUMNS>(p, d, boards + half * kBoard, feature + half * 64, row);
  }
}

}  // namespace

#define LINEAR_SPARSE(COLUMNS)                                                                                                       \
  extern "C" __global__ void __launch_bounds__(384, 1) linear_sparse_##COLUMNS(                                                      \
      const __grid_constant__ tk::TensorMap x, const __grid_constant__ tk::TensorMap w, const __grid_constant__ Problem p) {         \
    linear_sparse<COLUMNS>(x, w, p);                                                                                                 \
  }
LINEAR_SPARSE(16)
LINEAR_SPARSE(64)
LINEAR_SPARSE(128)
LINEAR_SPARSE(256)
