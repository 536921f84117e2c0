// Blocks of a cluster, and each other's shared memory: PTX ISA 9.0, sections 9.7.9 and 9.7.13.4.
#pragma once
#include "memory.cuh"

namespace tk {

// This block's place in its cluster.
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
// Of all threads of the cluster that have not ended: what they wrote to shared memory before it, they see after it.
__device__ __forceinline__ void cluster_sync() { asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory"); }
// The same where whole warps meet.
__device__ __forceinline__ void cluster_sync_aligned() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// What lies at this place of another block's shared memory.
__device__ __forceinline__ float cluster_load(const void* shared, uint32_t rank) {
  float v;
  asm volatile("{\n\t.reg .b32 r;\n\tmapa.shared::cluster.u32 r, %1, %2;\n\tld.shared::cluster.f32 %0, [r];\n\t}"
               : "=f"(v)
               : "r"(smem_address(shared)), "r"(rank)
               : "memory");
  return v;
}
__device__ __forceinline__ void cluster_store(const void* shared, uint32_t rank, float v) {
  asm volatile("{\n\t.reg .b32 r;\n\tmapa.shared::cluster.u32 r, %0, %1;\n\tst.shared::cluster.f32 [r], %2;\n\t}" ::"r"(smem_address(shared)),
               "r"(rank), "f"(v)
               : "memory");
}

}  // namespace tk
