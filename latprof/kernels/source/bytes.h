// Bytes become 32-bit numbers, and numbers bytes. GCC takes its own vector conversions of these
// types apart into single bytes, so x86's instructions are named.

#pragma once

#include <cstdint>
#include <cstring>

#include "vector.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace block_sparse {

// As many bytes as `Integers` has lanes.
template <typename Integers, typename Byte>
inline Integers widened(const Byte* from) {
  constexpr int kLanes = sizeof(Integers) / sizeof(int32_t);
  typedef Byte Bytes __attribute__((vector_size(kLanes)));
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, Integers);
}

// Numbers from 0 to 255.
template <typename Integers>
inline void store_bytes(uint8_t* to, Integers numbers) {
  constexpr int kLanes = sizeof(Integers) / sizeof(int32_t);
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  const Bytes bytes = __builtin_convertvector(numbers, Bytes);
  std::memcpy(to, &bytes, sizeof bytes);
}

#if defined(__AVX512F__)
using Sixteen = VectorOf<64>::Int;
template <>
inline Sixteen widened<Sixteen, uint8_t>(const uint8_t* from) {
  return (Sixteen)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from));
}
template <>
inline Sixteen widened<Sixteen, int8_t>(const int8_t* from) {
  return (Sixteen)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from));
}
template <>
inline void store_bytes<Sixteen>(uint8_t* to, Sixteen numbers) {
  _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)numbers));
}
#endif

#if defined(__AVX2__)
using Eight = VectorOf<32>::Int;
template <>
inline Eight widened<Eight, uint8_t>(const uint8_t* from) {
  return (Eight)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from));
}
template <>
inline Eight widened<Eight, int8_t>(const int8_t* from) {
  return (Eight)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from));
}
template <>
inline void store_bytes<Eight>(uint8_t* to, Eight numbers) {
  const __m128i low = _mm256_castsi256_si128((__m256i)numbers);
  const __m128i words = _mm_packs_epi32(low, _mm256_extracti128_si256((__m256i)numbers, 1));
  _mm_storel_epi64((__m128i*)to, _mm_packus_epi16(words, words));
}
#endif

#if defined(__SSE2__)
using Four = VectorOf<16>::Int;
template <>
inline Four widened<Four, uint8_t>(const uint8_t* from) {
  int32_t four;
  std::memcpy(&four, from, sizeof four);
  const __m128i none = _mm_setzero_si128();
  return (Four)_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(four), none), none);
}
template <>
inline Four widened<Four, int8_t>(const int8_t* from) {
  int32_t four;
  std::memcpy(&four, from, sizeof four);
  const __m128i bytes = _mm_cvtsi32_si128(four), twice = _mm_unpacklo_epi8(bytes, bytes);
  return (Four)_mm_srai_epi32(_mm_unpacklo_epi16(twice, twice), 24);
}
template <>
inline void store_bytes<Four>(uint8_t* to, Four numbers) {
  const __m128i words = _mm_packs_epi32((__m128i)numbers, (__m128i)numbers);
  const int32_t four = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
  std::memcpy(to, &four, sizeof four);
}
#endif

#if defined(__AVX512BW__)
#define BLOCK_SPARSE_FOUR_AT_ONCE 1
// Four vectors of numbers, rounded to the nearest, become 64 bytes between two bounds. Instructions
// that saturate clip them on the way, which four at once share.
class RoundedFours {
 public:
  RoundedFours(int32_t zero, int32_t low, int32_t high)
      : zero_(_mm512_set1_epi16(static_cast<int16_t>(zero))),
        low_(_mm512_set1_epi8(static_cast<char>(low))),
        high_(_mm512_set1_epi8(static_cast<char>(high))) {}

  // `Plain`: the zero is 0, bytes need no other bounds, and all numbers fit into 32 bits.
  template <bool Plain>
  void store(uint8_t* to, __m512 a, __m512 b, __m512 c, __m512 d) const {
    __m512i first = _mm512_packs_epi32(whole<Plain>(a), whole<Plain>(b));
    __m512i second = _mm512_packs_epi32(whole<Plain>(c), whole<Plain>(d));
    if constexpr (!Plain) {
      first = _mm512_adds_epi16(first, zero_);
      second = _mm512_adds_epi16(second, zero_);
    }
    __m512i bytes = _mm512_packus_epi16(first, second);
    // In every quarter lie four channels of each: bring together what is of one vector.
    const __m512i order =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    bytes = _mm512_permutexvar_epi32(order, bytes);
    if constexpr (!Plain) bytes = _mm512_min_epu8(_mm512_max_epu8(bytes, low_), high_);
    _mm512_storeu_si512(to, bytes);
  }

 private:
  // What is too large for an integer would become the smallest.
  template <bool Fits>
  static __m512i whole(__m512 x) {
    return _mm512_cvtps_epi32(Fits ? x : _mm512_min_ps(x, _mm512_set1_ps(1e9f)));
  }

  __m512i zero_, low_, high_;
};
#endif

}  // namespace block_sparse
