// c[M, N] = a[M, K] · b[N, K]ᵀ, bf16 in, f32 sums, bf16 out; extents multiples of 128, from naive to the first tensor cores. What lies above these rungs
// (tensor copies, wgmma, a ring, a persistent grid) is kernels/cuda/gemm/linear_bf16.cu.
#include <cuda_bf16.h>
#include <stdint.h>

// A thread a sum, everything from device memory and its caches.
extern "C" __global__ void rung1_a_thread_a_sum(__nv_bfloat16* c, const __nv_bfloat16* a, const __nv_bfloat16* b, int n, int k) {
  const int col = blockIdx.x * 16 + threadIdx.x % 16, row = blockIdx.y * 16 + threadIdx.x / 16;
  float sum = 0.f;
  for (int i = 0; i < k; i++) sum += __bfloat162float(a[static_cast<size_t>(row) * k + i]) * __bfloat162float(b[static_cast<size_t>(col) * k + i]);
  c[static_cast<size_t>(row) * n + col] = __float2bfloat16_rn(sum);
}

// Tiles of 128 × 128 in shared memory, 8 × 8 sums a thread: a number read from shared memory serves eight products.
extern "C" __global__ void __launch_bounds__(256) rung2_eight_by_eight_sums_a_thread(__nv_bfloat16* c, const __nv_bfloat16* a, const __nv_bfloat16* b, int n, int k) {
  __shared__ float sa[16][132], sb[16][132];
  const int t = threadIdx.x, row0 = blockIdx.y * 128, col0 = blockIdx.x * 128;
  float sum[8][8] = {};
  for (int k0 = 0; k0 < k; k0 += 16) {
    for (int i = t; i < 128 * 16; i += 256) {
      sa[i % 16][i / 16] = __bfloat162float(a[static_cast<size_t>(row0 + i / 16) * k + k0 + i % 16]);
      sb[i % 16][i / 16] = __bfloat162float(b[static_cast<size_t>(col0 + i / 16) * k + k0 + i % 16]);
    }
    __syncthreads();
#pragma unroll
    for (int kk = 0; kk < 16; kk++) {
      float x[8], y[8];
#pragma unroll
      for (int i = 0; i < 8; i++) x[i] = sa[kk][t / 16 * 8 + i], y[i] = sb[kk][t % 16 + 16 * i];
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) sum[i][j] += x[i] * y[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) c[static_cast<size_t>(row0 + t / 16 * 8 + i) * n + col0 + t % 16 + 16 * j] = __float2bfloat16_rn(sum[i][j]);
}

__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ uint32_t word(const __nv_bfloat16* p) { return *reinterpret_cast<const uint32_t*>(p); }

// Eight warps of 64 × 32 on the tensor cores; STAGES tiles of 32 columns under way by cp.async.
template <int STAGES>
__device__ __forceinline__ void tensor_cores(__nv_bfloat16* c, const __nv_bfloat16* a, const __nv_bfloat16* b, int n, int k) {
  constexpr int kPitch = 40;  // 80 bytes: eight rows of a fragment lie in different banks
  extern __shared__ __nv_bfloat16 shared[];
  const int t = threadIdx.x, warp = t / 32, lane = t % 32, g = lane / 4, q = lane % 4, row0 = blockIdx.y * 128, col0 = blockIdx.x * 128;
  const auto load = [&](int stage, int k0) {
    for (int i = t; i < 1024; i += 256) {
      const int side = i / 512, r = i % 512 / 4, part = i % 4;
      const __nv_bfloat16* from = (side ? b + static_cast<size_t>(col0 + r) * k : a + static_cast<size_t>(row0 + r) * k) + k0 + part * 8;
      const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared + (stage * 256 + side * 128 + r) * kPitch + part * 8));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
    }
  };
  float sum[4][4][4] = {};
  const int steps = k / 32, row = warp / 4 * 64, col = warp % 4 * 32;
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) load(s, s * 32);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  for (int s = 0; s < steps; s++) {
    if constexpr (STAGES == 1) {
      __syncthreads();
      load(0, s * 32);
      asm volatile("cp.async.commit_group;\n\tcp.async.wait_group 0;" ::: "memory");
      __syncthreads();
    } else {
      asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
      __syncthreads();
      if (s + STAGES - 1 < steps) load((s + STAGES - 1) % STAGES, (s + STAGES - 1) * 32);
      asm volatile("cp.async.commit_group;" ::: "memory");
    }
    const __nv_bfloat16 *sa = shared + s % STAGES * 256 * kPitch, *sb = sa + 128 * kPitch;
#pragma unroll
    for (int kk = 0; kk < 32; kk += 16) {
      uint32_t fa[4][4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const __nv_bfloat16* p = sa + (row + i * 16 + g) * kPitch + kk + 2 * q;
        fa[i][0] = word(p), fa[i][1] = word(p + 8 * kPitch), fa[i][2] = word(p + 8), fa[i][3] = word(p + 8 * kPitch + 8);
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const __nv_bfloat16* p = sb + (col + j * 8 + g) * kPitch + kk + 2 * q;
        const uint32_t b0 = word(p), b1 = word(p + 8);
#pragma unroll
        for (int i = 0; i < 4; i++) mma(sum[i][j], fa[i], b0, b1);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int r = 0; r < 2; r++) {
        __nv_bfloat162 pair = __floats2bfloat162_rn(sum[i][j][2 * r], sum[i][j][2 * r + 1]);
        *reinterpret_cast<__nv_bfloat162*>(c + static_cast<size_t>(row0 + row + i * 16 + g + 8 * r) * n + col0 + col + j * 8 + 2 * q) = pair;
      }
}
extern "C" __global__ void __launch_bounds__(256) rung3_tensor_cores(__nv_bfloat16* c, const __nv_bfloat16* a, const __nv_bfloat16* b, int n, int k) {
  tensor_cores<1>(c, a, b, n, k);
}
extern "C" __global__ void __launch_bounds__(256) rung4_tensor_cores_four_stages(__nv_bfloat16* c, const __nv_bfloat16* a, const __nv_bfloat16* b, int n, int k) {
  tensor_cores<4>(c, a, b, n, k);
}
