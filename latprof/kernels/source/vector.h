// Vectors of floats as the compiler knows them, and what the processor has of registers.

#pragma once

#include <cstring>

namespace block_sparse {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRegisters = 32;
constexpr bool kBroadcastsFold = true;  // a multiply-add takes its broadcast operand from memory
constexpr const char* kInstructions = "avx512";
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kVectorBytes = 32;
constexpr int kRegisters = 16;
constexpr bool kBroadcastsFold = false;
constexpr const char* kInstructions = "avx2";
#elif defined(__ARM_NEON) || defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 32;
constexpr bool kBroadcastsFold = false;
constexpr const char* kInstructions = "neon";
#else
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 16;
constexpr bool kBroadcastsFold = false;
constexpr const char* kInstructions = "generic";
#endif

template <int Bytes>
struct VectorOf;
template <>
struct VectorOf<16> {
  typedef float Float __attribute__((vector_size(16)));
  typedef int Int __attribute__((vector_size(16)));
};
template <>
struct VectorOf<32> {
  typedef float Float __attribute__((vector_size(32)));
  typedef int Int __attribute__((vector_size(32)));
};
template <>
struct VectorOf<64> {
  typedef float Float __attribute__((vector_size(64)));
  typedef int Int __attribute__((vector_size(64)));
};

// A block of `Channels` floats: how many vectors it is, of which type.
template <int Channels>
struct Block {
  static constexpr int kBytes =
      Channels * static_cast<int>(sizeof(float)) < kVectorBytes
          ? Channels * static_cast<int>(sizeof(float)) : kVectorBytes;
  static constexpr int kLanes = kBytes / static_cast<int>(sizeof(float));
  static constexpr int kVectors = Channels / kLanes;
  using Vector = typename VectorOf<kBytes>::Float;
  using Integers = typename VectorOf<kBytes>::Int;
  // Pixels whose sums fit into the registers, beside the weights and a broadcast input.
  static constexpr int kPixels =
      kBroadcastsFold ? (kRegisters - 4) / kVectors
                      : (kRegisters - 1 - kVectors) / kVectors;
};

// A loop with a constant count that is to be written out, so that what it indexes stays in registers.
#if defined(__clang__)
#define WRITTEN_OUT _Pragma("clang loop unroll(full)")
#else
#define WRITTEN_OUT _Pragma("GCC unroll 64")
#endif

template <typename Vector>
inline Vector load(const float* from) {
  Vector value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename Vector>
inline void store(float* to, Vector value) {
  std::memcpy(to, &value, sizeof value);
}

template <typename Vector>
inline Vector broadcast(float value) {
  return value - Vector{};  // -0 stays -0
}

}  // namespace block_sparse
