// A tile of 16 tokens of a paged cache in shared memory, and what a warp does with it: scores, their running softmax, the weighted values.
// paged_decode.cu says where its bytes lie.
#pragma once
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

constexpr int kTile = 16;
constexpr float kMinusInfinity = -INFINITY;

// What a cache holds: its rows, and how many tiles fly at once (the same bytes for every kind).
template <int DIM, bool E4M3>
struct Cache {
  static constexpr int kDim = DIM;
  static constexpr bool kE4m3 = E4M3;
  static constexpr int kRowBytes = DIM * (E4M3 ? 1 : 2);
  static constexpr int kChunks = kRowBytes / 64;   // of 16 bytes, that a lane of four reads of a key
  static constexpr bool kNarrow = kRowBytes == 64;  // a lane of eight reads 8 bytes of a value
  static constexpr int kHalves = kNarrow ? 1 : kRowBytes / 128;  // of 16 bytes, that a lane of eight reads of a value
  static constexpr int kTileBytes = kTile * kRowBytes;
  static constexpr int kStageBytes = 2 * kTileBytes;
  static constexpr int kStages = 24576 / kStageBytes;
};

// A head's running softmax and its share of the output: thread (g, t) of a quad row holds head g, columns
// (half*8 + 2t)*8 + i in o[half][i][0] and (half*8 + 2t + 1)*8 + i in o[half][i][1]; of an e4m3 cache (2t)*(d/8) + half*8 + i and d/8 on.
template <class C>
struct State {
  static constexpr int kHalves = C::kDim / 64;
  float o[kHalves][8][4];
  float peak, sum;
};
template <class C>
__device__ __forceinline__ int column_of(int half, int c, int i) {
  const int n = 2 * (threadIdx.x % 4) + c;
  return C::kE4m3 ? n * (C::kDim / 8) + half * 8 + i : (half * 8 + n) * 8 + i;
}

// Scores: the raw product in, tanh of its capped share out; 1 - 2 / (1 + e^2x) to f32's own precision where it matters.
__device__ __forceinline__ float capped(float x, float inner) {
  return 1.f - __fdividef(2.f, 1.f + tk::exp2_fast(2.f * tk::kLog2e * inner * x));
}

__device__ __forceinline__ uint32_t pack_f16(float lo, float hi) {
  uint32_t w;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(hi), "f"(lo));
  return w;
}
// Four e4m3 as two words of two fp16.
__device__ __forceinline__ uint2 widen(uint32_t w) {
  uint2 r;
  asm volatile("{\n\t.reg .b16 lo, hi;\n\tmov.b32 {lo, hi}, %2;\n\tcvt.rn.f16x2.e4m3x2 %0, lo;\n\tcvt.rn.f16x2.e4m3x2 %1, hi;\n\t}" : "=r"(r.x), "=r"(r.y) : "r"(w));
  return r;
}
__device__ __forceinline__ void mma_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// In the lower half of sixteen bytes.
__device__ __forceinline__ uint4 load_shared8(uint32_t address) {
  uint4 v = make_uint4(0, 0, 0, 0);
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
}

// Where a lane reads in its warp's tiles, as byte offsets in a stage; every other read is at a constant distance.
struct Lanes {
  uint32_t even, odd;  // K: row g, chunk t of the even and of the odd groups of four chunks
  uint32_t values;     // V: row 2t, chunk g; of narrow rows the next row lies where bit 6 is the other
};
template <class C>
__device__ __forceinline__ Lanes lanes_of() {
  const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t key = g * C::kRowBytes + t * 16, parity = g & 1;
  if (C::kNarrow) return {key, key, C::kTileBytes + t * 128 + ((g / 2) ^ (t & 1) * 4) * 16 + g % 2 * 8};
  return {key + parity * 64, key + (1 - parity) * 64, C::kTileBytes + 2 * t * C::kRowBytes + (g ^ 2 * t) * 16};
}

// A bf16 query head stays in registers, in the order in which keys are read. An e4m3 cache's is read from shared memory for every tile: there
// are no registers left.
template <class C>
struct Query {
  uint32_t held[C::kE4m3 ? 1 : C::kDim / 32][4];
  uint32_t shared;  // this lane's, of fp16
};

// Rows 8 to 15 of A are not used, so whatever is at hand fills their registers.
template <class C, bool MASK>
__device__ __forceinline__ void consume_tile(State<C>& s, const Query<C>& query, uint32_t stage, const Lanes& at, int skip, int valid,
                                             float scale, float inner) {
  const int t = threadIdx.x % 4;
  const auto key = [&](int half, int j) { return tk::load_shared16(stage + (j % 2 ? at.odd : at.even) + half * 8 * C::kRowBytes + j / 2 * 128); };
  // Four chains of dependent products: a product's result is some thirty cycles away.
  float score[2][2][4] = {};
  if constexpr (C::kE4m3) {
#pragma unroll
    for (int j = 0; j < C::kChunks; j++) {
      const uint4 k[2] = {key(0, j), key(1, j)};
      const uint4 q[2] = {tk::load_shared16(query.shared + j * 128), tk::load_shared16(query.shared + j * 128 + 16)};
#pragma unroll
      for (int w = 0; w < 4; w++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const uint2 b = widen((&k[half].x)[w]);
          const uint32_t low = (&q[w / 2].x)[w % 2 * 2], high = (&q[w / 2].x)[w % 2 * 2 + 1];
          mma_f16(score[half][w % 2], low, low, high, high, b.x, b.y);
        }
    }
  } else {
    uint4 k[2][C::kChunks];
    const auto& q = query.held;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < C::kChunks; j++) k[half][j] = key(half, j);
#pragma unroll
    for (int j = 0; j < C::kChunks; j++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        tk::mma_bf16(score[half][0], q[j][0], q[j][2], q[j][1], q[j][3], k[half][j].x, k[half][j].y);
        tk::mma_bf16(score[half][1], q[j][2], q[j][0], q[j][3], q[j][1], k[half][j].z, k[half][j].w);
      }
  }
  uint4 v[C::kHalves][4];
#pragma unroll
  for (int half = 0; half < C::kHalves; half++)
#pragma unroll
    for (int r = 0; r < 4; r++) {
      if constexpr (C::kNarrow)
        v[half][r] = load_shared8((stage + at.values + r / 2 * 512) ^ r % 2 * 64);
      else
        v[half][r] = tk::load_shared16(stage + at.values + (r / 2 * 8 + r % 2) * C::kRowBytes + half * 128);
    }
  float x[4] = {score[0][0][0] + score[0][1][0], score[0][0][1] + score[0][1][1], score[1][0][0] + score[1][1][0],
                score[1][0][1] + score[1][1][1]};
  if (inner != 0.f) {
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = capped(x[i], inner);
  }
  if (MASK) {
    const int token[4] = {2 * t, 2 * t + 1, 8 + 2 * t, 9 + 2 * t};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (token[i] >= skip && token[i] < valid) continue;
      x[i] = kMinusInfinity;
      // What lies past the end of a sequence may be a NaN, and 0 * NaN is one.
#pragma unroll
      for (int half = 0; half < C::kHalves; half++) v[half][i] = make_uint4(0, 0, 0, 0);
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
    for (int half = 0; half < State<C>::kHalves; half++)
#pragma unroll
      for (int i = 0; i < 8; i++) {
        s.o[half][i][0] *= fade;
        s.o[half][i][1] *= fade;
      }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = tk::exp2_fast(fmaf(x[i], scale, -s.peak));
  s.sum += (x[0] + x[1]) + (x[2] + x[3]);
  if constexpr (C::kE4m3) {
    const uint32_t a0 = pack_f16(x[0], x[1]), a2 = pack_f16(x[2], x[3]);
#pragma unroll
    for (int w = 0; w < C::kDim / 32; w++) {
      const uint32_t r0 = (&v[0][0].x)[w], r1 = (&v[0][1].x)[w], r2 = (&v[0][2].x)[w], r3 = (&v[0][3].x)[w];
#pragma unroll
      for (int pair = 0; pair < 2; pair++) {
        const uint32_t order = pair ? 0x7362 : 0x5140;
        const uint2 low = widen(__byte_perm(r0, r1, order)), high = widen(__byte_perm(r2, r3, order));
        const int i = w * 4 + pair * 2;
        mma_f16(s.o[i / 8][i % 8], a0, a0, a2, a2, low.x, high.x);
        mma_f16(s.o[i / 8][i % 8 + 1], a0, a0, a2, a2, low.y, high.y);
      }
    }
  } else {
    const uint32_t a0 = tk::pack_bf16(x[0], x[1]), a2 = tk::pack_bf16(x[2], x[3]);
#pragma unroll
    for (int half = 0; half < C::kHalves; half++)
#pragma unroll
      for (int w = 0; w < 4; w++) {
        const uint32_t r0 = (&v[half][0].x)[w], r1 = (&v[half][1].x)[w], r2 = (&v[half][2].x)[w], r3 = (&v[half][3].x)[w];
        tk::mma_bf16(s.o[half][2 * w], a0, a0, a2, a2, __byte_perm(r0, r1, 0x5410), __byte_perm(r2, r3, 0x5410));
        tk::mma_bf16(s.o[half][2 * w + 1], a0, a0, a2, a2, __byte_perm(r0, r1, 0x7632), __byte_perm(r2, r3, 0x7632));
      }
  }
}

}  // namespace
