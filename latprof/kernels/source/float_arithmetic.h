// What a convolution in FP32 is made of.

#pragma once

#include <cstdint>
#include <vector>

#include "activation.h"
#include "convolution.h"
#include "vector.h"

namespace block_sparse {

struct FloatEpilogue {
  const float* bias;  // (B,)
  bool adds;          // a residual
  Activation activation;
};

template <int Channels>
struct FloatArithmetic {
  using Element = float;
  using Weight = float;
  using Epilogue = FloatEpilogue;
  static constexpr int kChannels = Channels;
  static constexpr int kInputs = 1;
  static constexpr int kPixels = Block<Channels>::kPixels;
  static constexpr int kVectors = Block<Channels>::kVectors;

  class Ends {
   public:
    Ends(std::vector<float> bias, const Activation& activation)
        : bias_(std::move(bias)), activation_(activation) {}
    Epilogue of(int64_t block, bool adds) const {
      return {bias_.data() + block * Channels, adds, activation_};
    }
    static float zero() { return 0.0f; }

   private:
    std::vector<float> bias_;  // (blocks · B,)
    Activation activation_;
  };

  // Of each width of blocks a unit of its own is compiled: tiles_4.cpp, tiles_8.cpp, tiles_16.cpp.
  static TileFunction<FloatArithmetic> tile(int64_t step, int runs, int pixels);

  // One tile: `Runs` runs of `Pixels` output pixels whose inputs are `Step` floats apart.
  template <int Runs, int Pixels, int Step>
  __attribute__((noinline)) static void convolve(const Taps<float>& taps, const Tile<float>& tile,
                                                 const FloatEpilogue& end);
};

}  // namespace block_sparse
