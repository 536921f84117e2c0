// Warpgroup matrix products and tensor copies (sm_90a): PTX ISA 9.0, sections 9.7.15 and 9.7.9.27.
#pragma once
#include <stdint.h>

#include "memory.cuh"

namespace tk {

// The 128 bytes that cuTensorMapEncodeTiled writes.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// A box of a two-dimensional tensor, at element `column` of row `row`, into shared memory; out of bounds reads as zero.
__device__ __forceinline__ void copy_tensor(uint32_t shared, const TensorMap& map, int column, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
}
// A ring of stages that two tensors are copied into, its barriers set up by one thread; all threads of the block meet.
__device__ __forceinline__ void begin_ring(uint32_t full, uint32_t empty, int stages, int consumers, const TensorMap& x, const TensorMap& w) {
  if (threadIdx.x == 0) {
    ring_init(full, empty, stages, consumers);
    prefetch_map(x);
    prefetch_map(w);
  }
  __syncthreads();
}

// Descriptor of a K-major operand of 128-byte rows under the 128-byte swizzle: eight rows are 1,024 bytes apart from the next eight.
__device__ __forceinline__ uint64_t matrix_descriptor(uint32_t shared) {
  return (static_cast<uint64_t>(1) << 62) | (static_cast<uint64_t>(64) << 32) | (static_cast<uint64_t>(1) << 16) | ((shared & 0x3ffff) >> 4);
}

// Descriptor of an operand whose columns are contiguous (a [rows, columns] tensor read transposed), in panels of 64 columns x `rows` rows of 128
// bytes under the 128-byte swizzle: eight rows are 1,024 bytes apart from the next eight, a panel `panel_bytes` from the next.
__device__ __forceinline__ uint64_t transposed_descriptor(uint32_t shared, uint32_t panel_bytes) {
  return (static_cast<uint64_t>(1) << 62) | (static_cast<uint64_t>(64) << 32) | (static_cast<uint64_t>(panel_bytes >> 4) << 16) |
         ((shared & 0x3ffff) >> 4);
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// The sums of a warpgroup product as the first operands of its instruction: their names in the text, and the registers behind them.
#define TK_NAMES4 "%0, %1, %2, %3"
#define TK_NAMES8 TK_NAMES4 ", %4, %5, %6, %7"
#define TK_NAMES16 TK_NAMES8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define TK_NAMES32 TK_NAMES16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TK_NAMES48 TK_NAMES32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define TK_NAMES64 TK_NAMES48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TK_NAMES80 TK_NAMES64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define TK_NAMES96 TK_NAMES80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define TK_NAMES112 TK_NAMES96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define TK_NAMES128 TK_NAMES112 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define TK_SUMS4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TK_SUMS8(i) TK_SUMS4(i), TK_SUMS4(i + 4)
#define TK_SUMS16(i) TK_SUMS8(i), TK_SUMS8(i + 8)
#define TK_SUMS32(i) TK_SUMS16(i), TK_SUMS16(i + 16)
#define TK_SUMS48(i) TK_SUMS32(i), TK_SUMS16(i + 32)
#define TK_SUMS64(i) TK_SUMS48(i), TK_SUMS16(i + 48)
#define TK_SUMS80(i) TK_SUMS64(i), TK_SUMS16(i + 64)
#define TK_SUMS96(i) TK_SUMS80(i), TK_SUMS16(i + 80)
#define TK_SUMS112(i) TK_SUMS96(i), TK_SUMS16(i + 96)
#define TK_SUMS128(i) TK_SUMS112(i), TK_SUMS16(i + 112)

// The same for integer sums.
#define TK_ISUMS4(i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define TK_ISUMS8(i) TK_ISUMS4(i), TK_ISUMS4(i + 4)
#define TK_ISUMS16(i) TK_ISUMS8(i), TK_ISUMS8(i + 8)
#define TK_ISUMS32(i) TK_ISUMS16(i), TK_ISUMS16(i + 16)
#define TK_ISUMS48(i) TK_ISUMS32(i), TK_ISUMS16(i + 32)
#define TK_ISUMS64(i) TK_ISUMS48(i), TK_ISUMS16(i + 48)
#define TK_ISUMS80(i) TK_ISUMS64(i), TK_ISUMS16(i + 64)
#define TK_ISUMS96(i) TK_ISUMS80(i), TK_ISUMS16(i + 80)
#define TK_ISUMS112(i) TK_ISUMS96(i), TK_ISUMS16(i + 96)
#define TK_ISUMS128(i) TK_ISUMS112(i), TK_ISUMS16(i + 112)

// D[64, N] = A[64, K] · B[N, K]ᵀ, plus D when `accumulate`: operands in shared memory, 32 bytes of a row a product, so K is 16 or 32. COUNT sums
// a thread; B and ADD are the numbers of the operands after A, whose number is COUNT.
#define TK_WGMMA(NAME, SUM, SUMS, KIND, TAIL, N, COUNT, B, ADD)                                                                      \
  __device__ __forceinline__ void NAME(SUM(&d)[COUNT], uint64_t a, uint64_t b, int accumulate) {                                     \
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %" #ADD ", 0;\n\t"                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #N KIND " {" TK_NAMES##COUNT "}, %" #COUNT ", %" #B ", add" TAIL ";\n\t}"       \
                 : SUMS##COUNT(0)                                                                                                    \
                 : "l"(a), "l"(b), "r"(accumulate));                                                                                 \
  }
#define TK_WGMMA_WIDTHS(NAME, SUM, SUMS, KIND, TAIL)         \
  TK_WGMMA(NAME, SUM, SUMS, KIND, TAIL, 8, 4, 5, 6)          \
  TK_WGMMA(NAME, SUM, SUMS, KIND, TAIL, 16, 8, 9, 10)        \
  TK_WGMMA(NAME, SUM, SUMS, KIND, TAIL, 32, 16, 17, 18)      \
  TK_WGMMA(NAME, SUM, SUMS, KIND, TAIL, 64, 32, 33, 34)      \
  TK_WGMMA(NAME, SUM, SUMS, KIND, TAIL, 96, 48, 49, 50)      \
  TK_WGMMA(NAME, SUM, SUMS, KIND, TAIL, 128, 64, 65, 66)     \
  TK_WGMMA(NAME, SUM, SUMS, KIND, TAIL, 160, 80, 81, 82)     \
  TK_WGMMA(NAME, SUM, SUMS, KIND, TAIL, 192, 96, 97, 98)     \
  TK_WGMMA(NAME, SUM, SUMS, KIND, TAIL, 224, 112, 113, 114)  \
  TK_WGMMA(NAME, SUM, SUMS, KIND, TAIL, 256, 128, 129, 130)
TK_WGMMA_WIDTHS(wgmma_k16, float, TK_SUMS, "k16.f32.bf16.bf16", ", 1, 1, 0, 0")
TK_WGMMA_WIDTHS(wgmma_f16, float, TK_SUMS, "k16.f32.f16.f16", ", 1, 1, 0, 0")
TK_WGMMA_WIDTHS(wgmma_e4m3, float, TK_SUMS, "k32.f32.e4m3.e4m3", ", 1, 1")
TK_WGMMA_WIDTHS(wgmma_s8, int, TK_ISUMS, "k32.s32.s8.s8", "")

// What the operands of a product are: its sums, and the elements in the 128 bytes of a swizzled row.
struct Bf16Product {
  using Sum = float;
  static constexpr int kDepth = 64;
  template <int COUNT>
  static __device__ __forceinline__ void multiply(float (&d)[COUNT], uint64_t a, uint64_t b, int accumulate) { wgmma_k16(d, a, b, accumulate); }
};
struct HalfProduct {
  using Sum = float;
  static constexpr int kDepth = 64;
  template <int COUNT>
  static __device__ __forceinline__ void multiply(float (&d)[COUNT], uint64_t a, uint64_t b, int accumulate) { wgmma_f16(d, a, b, accumulate); }
};
struct E4m3Product {
  using Sum = float;
  static constexpr int kDepth = 128;
  template <int COUNT>
  static __device__ __forceinline__ void multiply(float (&d)[COUNT], uint64_t a, uint64_t b, int accumulate) { wgmma_e4m3(d, a, b, accumulate); }
};
struct Int8Product {
  using Sum = int;
  static constexpr int kDepth = 128;
  template <int COUNT>
  static __device__ __forceinline__ void multiply(int (&d)[COUNT], uint64_t a, uint64_t b, int accumulate) { wgmma_s8(d, a, b, accumulate); }
};

// D[64, N] += A[64, 16] · B[16, N]: A in registers as an mma fragment, B in shared memory with its columns contiguous.
#define TK_WGMMA_REGISTERS(N, COUNT, A1, A2, A3, B)                                                                                  \
  __device__ __forceinline__ void wgmma_k16_registers(float (&d)[COUNT], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b) { \
    asm volatile("{\n\t.reg .pred add;\n\tsetp.eq.u32 add, 0, 0;\n\t"                                                                \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" TK_NAMES##COUNT "}, {%" #COUNT ", %" #A1 ", %" #A2      \
                 ", %" #A3 "}, %" #B ", add, 1, 1, 1;\n\t}"                                                                          \
                 : TK_SUMS##COUNT(0)                                                                                                 \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));                                                                      \
  }
TK_WGMMA_REGISTERS(64, 32, 33, 34, 35, 36)
TK_WGMMA_REGISTERS(128, 64, 65, 66, 67, 68)

// D[64, N] = A[64, 16] · B[N, 16]ᵀ, plus D when `accumulate`: A in registers as an mma fragment, B in shared memory as matrix_descriptor has it.
#define TK_WGMMA_FRAGMENT(N, COUNT, A1, A2, A3, B, ADD)                                                                              \
  __device__ __forceinline__ void wgmma_k16_fragment(float (&d)[COUNT], const uint32_t (&a)[4], uint64_t b, int accumulate) {        \
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %" #ADD ", 0;\n\t"                                                      \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" TK_NAMES##COUNT "}, {%" #COUNT ", %" #A1 ", %" #A2     \
                 ", %" #A3 "}, %" #B ", add, 1, 1, 0;\n\t}"                                                                         \
                 : TK_SUMS##COUNT(0)                                                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));                                             \
  }
TK_WGMMA_FRAGMENT(32, 16, 17, 18, 19, 20, 21)
TK_WGMMA_FRAGMENT(64, 32, 33, 34, 35, 36, 37)

// The registers of an accumulator are read and written here and nowhere across: after wgmma_wait, before the values are used.
template <int COUNT>
__device__ __forceinline__ void wgmma_hold(float (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int COUNT>
__device__ __forceinline__ void wgmma_hold(uint32_t (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+r"(d[i])::"memory");
}

template <int REGISTERS>
__device__ __forceinline__ void registers_raise() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ __forceinline__ void registers_lower() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

}  // namespace tk
