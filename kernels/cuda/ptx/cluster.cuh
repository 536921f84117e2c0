// Two blocks of a cluster: PTX ISA 9.0, section 9.7.13.4.
#pragma once
#include <stdint.h>

namespace tk {

// This block's place in its pair.
__device__ __forceinline__ uint32_t pair_rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
// Of all threads of the pair that have not ended: what they wrote to shared memory before it, they see after it.
__device__ __forceinline__ void pair_sync() { asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory"); }

}  // namespace tk
