// Linear layers in 16 bits with an epilogue: y = act(x · wᵀ + bias) (· gate) + residual, rounded once. bf16 and fp16, many and few rows.
#include "epilogue.cuh"

TK_LINEAR(linear_bf16_fused, Bf16Product, Bf16Out)
TK_LINEAR(linear_f16_fused, HalfProduct, HalfOut)
