// What a convolution in INT8 is made of: UINT8 maps, INT8 weights, INT32 sums.
//
// A number q of a map stands for scale · (q − zero). Weights have a scale for every output channel
// and no zero of their own. With x the inputs, r a residual and y the output,
//
//   y = clip(round(scale[c] · (bias[c] + Σ w x) + residual_scale · (r − residual_zero)) + zero),
//
// where bias holds what the inputs' zero adds to every sum, and borders hold that zero.
// Ties go to the even number, products and sums are rounded to FP32 one by one.

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "bytes.h"
#include "convolution.h"
#include "vector.h"

namespace block_sparse {

// From FP32, in steps from the output's zero, to UINT8.
struct Quantiser {
  int32_t zero;
  int32_t low, high;      // bounds, bytes themselves
  const uint8_t* lookup;  // (256,): what becomes of every output behind it; nullptr: nothing
  bool plain;             // zero and bounds are a byte's own, and steps are within 32 bits

  // Whether it is plain for sums times a scale, at most the largest one, and so much more.
  bool is_plain(float largest_scale, float more) const {
    return zero == 0 && low == 0 && high == 255 && largest_scale < 0.5f && more < 1e9f;
  }
};

struct ByteEpilogue {
  const int32_t* bias;  // (B,)
  const float* scale;   // (B,)
  bool adds;
  float residual_scale;
  int32_t residual_zero;
  Quantiser out;
};

template <int Channels>
struct Lanes {
  using B = Block<Channels>;
  using Floats = typename B::Vector;
  using Integers = typename B::Integers;

  static Floats floats(const uint8_t* from) {
    return __builtin_convertvector(widened<Integers>(from), Floats);
  }

  // Rounded to the nearest and clipped, from 0 to 255. Made before a loop: what a byte is stored to might be
  // anything, so that what lies in memory would be read again behind every store.
  class Rounding {
   public:
    explicit Rounding(const Quantiser& out)
        : low_(broadcast<Floats>(static_cast<float>(out.low - out.zero))),
          high_(broadcast<Floats>(static_cast<float>(out.high - out.zero))),
          zero_(Integers{} + (out.zero - 0x4B400000))
#if defined(BLOCK_SPARSE_FOUR_AT_ONCE)
          , fours_(out.zero, out.low, out.high), plain_(out.plain)
#endif
    {}

    Integers operator()(Floats steps) const {
      steps = steps < low_ ? low_ : steps;
      steps = steps > high_ ? high_ : steps;
      steps += broadcast<Floats>(12582912.0f);  // 1.5 · 2²³: adding it rounds
      Integers bits;
      std::memcpy(&bits, &steps, sizeof bits);
      return bits + zero_;
    }

#if defined(BLOCK_SPARSE_FOUR_AT_ONCE)
    const RoundedFours& fours() const { return fours_; }
    bool plain() const { return plain_; }
#endif

   private:
    Floats low_, high_;
    Integers zero_;
#if defined(BLOCK_SPARSE_FOUR_AT_ONCE)
    RoundedFours fours_;
    bool plain_;
#endif
  };

#if defined(BLOCK_SPARSE_FOUR_AT_ONCE)
  // All but the pixels that are less than four.
  template <bool Plain, int Pixels>
  static void store_fours(uint8_t* to, const Floats (&steps)[Pixels][B::kVectors],
                         const Rounding& rounding) {
    WRITTEN_OUT for (int p = 0; p + 4 <= Pixels; p += 4)
      rounding.fours().template store<Plain>(
          to + p * Channels, (__m512)steps[p][0], (__m512)steps[p + 1][0],
          (__m512)steps[p + 2][0], (__m512)steps[p + 3][0]);
  }
#endif

  // Pixels next to each other.
  template <int Pixels>
  static void store(uint8_t* to, const Floats (&steps)[Pixels][B::kVectors],
                    const Rounding& rounding) {
    int p = 0;
#if defined(BLOCK_SPARSE_FOUR_AT_ONCE)
    if constexpr (B::kLanes == 16) {
      if (rounding.plain())
        store_fours<true>(to, steps, rounding);
      else
        store_fours<false>(to, steps, rounding);
      p = Pixels / 4 * 4;
    }
#endif
    WRITTEN_OUT for (; p < Pixels; ++p)
      WRITTEN_OUT for (int v = 0; v < B::kVectors; ++v)
        store_bytes(to + p * Channels + v * B::kLanes, rounding(steps[p][v]));
  }

};

// The value itself, which the compiler may not join with what comes next into one multiply-add.
template <typename Vector>
inline Vector rounded(Vector value) {
#if defined(__x86_64__)
  asm("" : "+v"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
  return value;
}

inline void look_up(const uint8_t* lookup, uint8_t* at, int64_t count) {
  for (int64_t i = 0; i < count; ++i) at[i] = lookup[at[i]];
}

template <int Channels>
struct ByteArithmetic {
  using Element = uint8_t;
  using Weight = int8_t;
  using Epilogue = ByteEpilogue;
  static constexpr int kChannels = Channels;
  static constexpr int kInputs = 4;
  static constexpr int kVectors = Block<Channels>::kVectors;
  // More pixels of one vector each would fit, but the compiler then keeps their inputs as well.
  static constexpr int kPixels = kVectors == 1 ? 14 : (kRegisters - kVectors - 4) / kVectors;

  class Ends {
   public:
    Ends(std::vector<int32_t> bias, std::vector<float> scale, std::vector<uint8_t> lookup,
         const ByteEpilogue& others)
        : bias_(std::move(bias)), scale_(std::move(scale)), lookup_(std::move(lookup)),
          others_(others) {
      const float largest = *std::max_element(scale_.begin(), scale_.end());
      others_.out.plain = others_.out.is_plain(largest, 255 * others_.residual_scale);
    }
    Epilogue of(int64_t block, bool adds) const {
      Epilogue end = others_;
      end.bias = bias_.data() + block * Channels;
      end.scale = scale_.data() + block * Channels;
      end.adds = adds;
      end.out.lookup = lookup_.empty() ? nullptr : lookup_.data();
      return end;
    }
    uint8_t zero() const { return zero_; }
    void set_zero(uint8_t zero) { zero_ = zero; }

   private:
    std::vector<int32_t> bias_;  // (blocks · B,)
    std::vector<float> scale_;   // (blocks · B,)
    std::vector<uint8_t> lookup_;
    ByteEpilogue others_;
    uint8_t zero_ = 0;  // of what is written, behind the lookup
  };

  static TileFunction<ByteArithmetic> tile(int64_t step, int runs, int pixels);

  // One tile: `Runs` runs of `Pixels` output pixels whose inputs are `Step` bytes apart.
  template <int Runs, int Pixels, int Step>
  __attribute__((noinline)) static void convolve(const Taps<int8_t>& taps,
                                                 const Tile<uint8_t>& tile,
                                                 const ByteEpilogue& end);
};

}  // namespace block_sparse
