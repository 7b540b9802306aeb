// Activations: bounds are applied in registers, everything else to pixels that were just written.

#pragma once

#include <cstdint>
#include <limits>

#include "vector.h"

namespace block_sparse {

// In the order of `latprof/kernels/step.py:ACTIVATIONS`.
enum class Kind : int64_t {
  kNone, kClip, kLeakyRelu, kSigmoid, kHardSigmoid, kHardSwish, kSilu, kCount
};

struct Activation {
  Kind kind = Kind::kNone;
  float alpha = 0;  // kClip: the lowest value; kLeakyRelu: slope; kHardSigmoid: slope
  float beta = 0;   // kClip: the highest value; kHardSigmoid: offset

  bool clips() const { return kind == Kind::kClip; }
  bool curved() const { return kind != Kind::kNone && kind != Kind::kClip; }
};

// NaN stays NaN: of two values that cannot be compared, the second is taken.
template <typename Vector>
inline Vector at_least(Vector x, Vector low) {
  return low > x ? low : x;
}

template <typename Vector>
inline Vector at_most(Vector x, Vector high) {
  return high < x ? high : x;
}

template <typename Vector>
inline Vector clip(Vector x, Vector low, Vector high) {
  return at_most(at_least(x, low), high);
}

// exp(x), within 2 units in the last place. After Cephes (Moshier): x = n·ln 2 + r, |r| ≤ ln 2 / 2,
// and a polynomial in r of degree 6.
template <typename B>
inline typename B::Vector exponential(typename B::Vector x) {
  using Vector = typename B::Vector;
  using Integers = typename B::Integers;
  const Vector bounded = clip(x, broadcast<Vector>(-87.3f), broadcast<Vector>(88.3f));
  const Vector shift = broadcast<Vector>(12582912.0f);  // 1.5 · 2²³: adding it rounds
  const Vector n = bounded * 1.44269504f + shift - shift;
  const Vector r = bounded - n * 0.693359375f - n * -2.12194440e-4f;
  Vector p = broadcast<Vector>(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Vector whole = n == n ? n : Vector{};  // a NaN has no integer
  const Integers exponent = (__builtin_convertvector(whole, Integers) + 127) << 23;
  Vector power;
  std::memcpy(&power, &exponent, sizeof power);
  return p * power;
}

template <typename B>
inline typename B::Vector sigmoid(typename B::Vector x) {
  return 1.0f / (1.0f + exponential<B>(-x));
}

template <typename B>
inline typename B::Vector apply(const Activation& activation, typename B::Vector x) {
  using Vector = typename B::Vector;
  const Vector zero{};
  const Vector one = broadcast<Vector>(1.0f);
  switch (activation.kind) {
    case Kind::kClip:
      return clip(x, broadcast<Vector>(activation.alpha), broadcast<Vector>(activation.beta));
    case Kind::kLeakyRelu:
      return x < zero ? x * activation.alpha : x;
    case Kind::kSigmoid:
      return sigmoid<B>(x);
    case Kind::kHardSigmoid:
      return clip<Vector>(x * activation.alpha + activation.beta, zero, one);
    case Kind::kHardSwish:
      return x * clip<Vector>(x * (1.0f / 6) + 0.5f, zero, one);
    case Kind::kSilu:
      return x * sigmoid<B>(x);
    default:
      return x;
  }
}

// The activation of `pixels` consecutive pixels, in place.
template <int Channels>
__attribute__((noinline)) void apply(const Activation& activation, float* at, int64_t pixels) {
  using B = Block<Channels>;
  for (int64_t i = 0; i < pixels * Channels; i += B::kLanes)
    store(at + i, apply<B>(activation, load<typename B::Vector>(at + i)));
}

}  // namespace block_sparse
