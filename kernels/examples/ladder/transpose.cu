// out[c][r] = in[r][c] of n × n f32, n a multiple of 64, from naive to tuned.
extern "C" __global__ void rung1_read_rows_write_columns(float* out, const float* in, int n) {
  const int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 8 + threadIdx.y;
  out[static_cast<long long>(c) * n + r] = in[static_cast<long long>(r) * n + c];
}

// A tile of 32 × 32 in shared memory: both sides in rows of 128 bytes, but a column of the tile lies in one bank.
extern "C" __global__ void rung2_tile_in_shared_memory(float* out, const float* in, int n) {
  __shared__ float tile[32][32];
  const int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 32 + threadIdx.y;
  for (int k = 0; k < 32; k += 8) tile[threadIdx.y + k][threadIdx.x] = in[static_cast<long long>(r + k) * n + c];
  __syncthreads();
  const int c2 = blockIdx.y * 32 + threadIdx.x, r2 = blockIdx.x * 32 + threadIdx.y;
  for (int k = 0; k < 32; k += 8) out[static_cast<long long>(r2 + k) * n + c2] = tile[threadIdx.x][threadIdx.y + k];
}

// A row is a word longer than the tile is wide: no two words of a column share a bank.
extern "C" __global__ void rung3_padded_tile(float* out, const float* in, int n) {
  __shared__ float tile[32][33];
  const int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 32 + threadIdx.y;
  for (int k = 0; k < 32; k += 8) tile[threadIdx.y + k][threadIdx.x] = in[static_cast<long long>(r + k) * n + c];
  __syncthreads();
  const int c2 = blockIdx.y * 32 + threadIdx.x, r2 = blockIdx.x * 32 + threadIdx.y;
  for (int k = 0; k < 32; k += 8) out[static_cast<long long>(r2 + k) * n + c2] = tile[threadIdx.x][threadIdx.y + k];
}

// Tiles of 64 × 64, sixteen loads of a thread in flight, through registers.
extern "C" __global__ void rung4_sixteen_loads_in_flight(float* out, const float* in, int n) {
  __shared__ float tile[64][65];
  const int c = blockIdx.x * 64 + threadIdx.x, r = blockIdx.y * 64 + threadIdx.y;
  float held[16];
#pragma unroll
  for (int k = 0; k < 16; k++) held[k] = __ldcs(in + static_cast<long long>(r + 4 * k) * n + c);
#pragma unroll
  for (int k = 0; k < 16; k++) tile[threadIdx.y + 4 * k][threadIdx.x] = held[k];
  __syncthreads();
  const int c2 = blockIdx.y * 64 + threadIdx.x, r2 = blockIdx.x * 64 + threadIdx.y;
#pragma unroll
  for (int k = 0; k < 16; k++) __stcs(out + static_cast<long long>(r2 + 4 * k) * n + c2, tile[threadIdx.x][threadIdx.y + 4 * k]);
}
