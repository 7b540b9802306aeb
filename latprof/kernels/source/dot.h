// Products of bytes: four UINT8 inputs times four INT8 weights, added to an INT32 sum, in every lane.
//
// One instruction where the processor has VNNI (or NEON's mixed products). AVX2 alone adds two
// products in 16 bits and would saturate, so there every second input is multiplied by itself.

#pragma once

#include <cstdint>
#include <cstring>

#include "vector.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#include <arm_neon.h>
#endif

namespace block_sparse {

// `inputs` and `weights`: four bytes a lane. Any vector, by shifts and products of integers.
template <typename Integers>
inline Integers dot_by_shifts(Integers sums, Integers inputs, Integers weights) {
  WRITTEN_OUT for (int i = 0; i < 4; ++i)
    sums += ((inputs >> (8 * i)) & 255) * ((weights << (24 - 8 * i)) >> 24);
  return sums;
}

inline VectorOf<64>::Int dot(VectorOf<64>::Int sums, VectorOf<64>::Int inputs,
                             VectorOf<64>::Int weights) {
#if defined(__AVX512VNNI__)
  return (VectorOf<64>::Int)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)inputs, (__m512i)weights);
#elif defined(__AVX512BW__)
  const __m512i low = _mm512_set1_epi16(255), one = _mm512_set1_epi16(1);
  const __m512i even = _mm512_maddubs_epi16(_mm512_and_si512((__m512i)inputs, low), (__m512i)weights);
  const __m512i odd =
      _mm512_maddubs_epi16(_mm512_andnot_si512(low, (__m512i)inputs), (__m512i)weights);
  return sums + (VectorOf<64>::Int)_mm512_madd_epi16(even, one) +
         (VectorOf<64>::Int)_mm512_madd_epi16(odd, one);
#else
  return dot_by_shifts(sums, inputs, weights);
#endif
}

inline VectorOf<32>::Int dot(VectorOf<32>::Int sums, VectorOf<32>::Int inputs,
                             VectorOf<32>::Int weights) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  return (VectorOf<32>::Int)_mm256_dpbusd_epi32((__m256i)sums, (__m256i)inputs, (__m256i)weights);
#elif defined(__AVXVNNI__)
  return (VectorOf<32>::Int)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)inputs,
                                                    (__m256i)weights);
#elif defined(__AVX2__)
  const __m256i low = _mm256_set1_epi16(255), one = _mm256_set1_epi16(1);
  const __m256i even = _mm256_maddubs_epi16(_mm256_and_si256((__m256i)inputs, low), (__m256i)weights);
  const __m256i odd =
      _mm256_maddubs_epi16(_mm256_andnot_si256(low, (__m256i)inputs), (__m256i)weights);
  return sums + (VectorOf<32>::Int)_mm256_madd_epi16(even, one) +
         (VectorOf<32>::Int)_mm256_madd_epi16(odd, one);
#else
  return dot_by_shifts(sums, inputs, weights);
#endif
}

inline VectorOf<16>::Int dot(VectorOf<16>::Int sums, VectorOf<16>::Int inputs,
                             VectorOf<16>::Int weights) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
  return (VectorOf<16>::Int)vusdotq_s32((int32x4_t)sums, (uint8x16_t)inputs, (int8x16_t)weights);
#else
  return dot_by_shifts(sums, inputs, weights);
#endif
}

}  // namespace block_sparse
