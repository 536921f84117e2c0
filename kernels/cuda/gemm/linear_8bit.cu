// Linear layers of 8-bit operands: fp8 e4m3 with f32 sums (in the tensor cores' own precision, of some 14 bits a product of 32), int8 with exact
// integer sums. Scales a row of x and a row of w, or one for all; bf16 out, with the epilogue of the 16-bit layers.
#include "epilogue.cuh"

TK_LINEAR(linear_e4m3, E4m3Product, Bf16Out)
TK_LINEAR(linear_int8, Int8Product, Bf16Out)
// Of e4m3 these too: at its rate a wave that is not full costs more than a narrower tile's second reading of x.
TK_LINEAR_MANY(linear_e4m3, E4m3Product, Bf16Out, 96)
TK_LINEAR_MANY(linear_e4m3, E4m3Product, Bf16Out, 160)
TK_LINEAR_MANY(linear_e4m3, E4m3Product, Bf16Out, 224)
