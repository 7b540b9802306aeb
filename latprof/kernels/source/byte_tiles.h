// The inner loops of the convolution in INT8, written out for every shape of tile.

#pragma once

#include <array>
#include <utility>

#include "byte_arithmetic.h"
#include "dot.h"

namespace block_sparse {

constexpr int kBytesPrefetched = 96;  // taps ahead

// One tile: `Runs` runs of `Pixels` output pixels whose inputs are `Step` bytes apart.
template <int Channels, int Runs, int Pixels, int Step>
__attribute__((noinline)) void convolve_bytes(const Taps<int8_t>& taps, const Tile<uint8_t>& tile,
                                              const ByteEpilogue& end) {
  using B = Block<Channels>;
  using L = Lanes<Channels>;
  using Floats = typename B::Vector;
  using Integers = typename B::Integers;
  constexpr int kVectors = B::kVectors;
  constexpr int kTap = Channels * ByteArithmetic<Channels>::kInputs;

  Integers sums[Runs][Pixels][kVectors];
  const uint8_t* in[Runs];
  WRITTEN_OUT for (int r = 0; r < Runs; ++r) {
    in[r] = tile.in[r];
    WRITTEN_OUT for (int p = 0; p < Pixels; ++p)
      WRITTEN_OUT for (int v = 0; v < kVectors; ++v)
        std::memcpy(&sums[r][p][v], end.bias + v * B::kLanes, sizeof(Integers));
  }

  const int8_t* weights = taps.weights;
  const int32_t* offset = taps.offsets;
  const int32_t* const last = offset + taps.count;
  for (; offset != last; ++offset, weights += kTap) {
    const int64_t at = *offset;
    __builtin_prefetch(weights + kBytesPrefetched * kTap);
    Integers weight[kVectors];
    WRITTEN_OUT for (int v = 0; v < kVectors; ++v)
      std::memcpy(&weight[v], weights + v * sizeof(Integers), sizeof(Integers));
    WRITTEN_OUT for (int r = 0; r < Runs; ++r)
      WRITTEN_OUT for (int p = 0; p < Pixels; ++p) {
        int32_t four;
        std::memcpy(&four, in[r] + at + p * Step, sizeof four);
        const Integers inputs = Integers{} + four;
        WRITTEN_OUT for (int v = 0; v < kVectors; ++v)
          sums[r][p][v] = dot(sums[r][p][v], inputs, weight[v]);
      }
  }

  Floats steps[Runs][Pixels][kVectors];
  WRITTEN_OUT for (int v = 0; v < kVectors; ++v) {
    const Floats scale = load<Floats>(end.scale + v * B::kLanes);
    WRITTEN_OUT for (int r = 0; r < Runs; ++r)
      WRITTEN_OUT for (int p = 0; p < Pixels; ++p)
        steps[r][p][v] = rounded(__builtin_convertvector(sums[r][p][v], Floats) * scale);
  }
  if (end.adds) {
    const Floats zero = broadcast<Floats>(static_cast<float>(end.residual_zero));
    const Floats scale = broadcast<Floats>(end.residual_scale);
    WRITTEN_OUT for (int r = 0; r < Runs; ++r) {
      const uint8_t* const residual = tile.residual[r];
      WRITTEN_OUT for (int p = 0; p < Pixels; ++p)
        WRITTEN_OUT for (int v = 0; v < kVectors; ++v)
          steps[r][p][v] +=
              rounded((L::floats(residual + p * Channels + v * B::kLanes) - zero) * scale);
    }
  }
  const uint8_t* const lookup = end.out.lookup;
  const typename L::Rounding rounding(end.out);
  uint8_t* outs[Runs];
  WRITTEN_OUT for (int r = 0; r < Runs; ++r) outs[r] = tile.out[r];
  WRITTEN_OUT for (int r = 0; r < Runs; ++r)
    WRITTEN_OUT for (int p = 0; p < Pixels; ++p)
      WRITTEN_OUT for (int v = 0; v < kVectors; ++v)
        L::store(outs[r] + p * Channels + v * B::kLanes, rounding(steps[r][p][v]));
  if (lookup != nullptr)
    for (int r = 0; r < Runs; ++r) look_up(lookup, outs[r], Pixels * Channels);
}

// The functions for all runs × pixels that fit into the registers; nullptr for the others.
template <int Channels, int Step>
class ByteTileFunctions {
  using Arithmetic = ByteArithmetic<Channels>;
  using Function = TileFunction<Arithmetic>;
  static constexpr int kPixels = Arithmetic::kPixels;

 public:
  static Function of(int runs, int pixels) {
    static constexpr auto kTable = table(std::make_index_sequence<kMostRuns * kPixels>{});
    return kTable[static_cast<size_t>((runs - 1) * kPixels + pixels - 1)];
  }

 private:
  template <size_t... I>
  static constexpr std::array<Function, sizeof...(I)> table(std::index_sequence<I...>) {
    return {entry<static_cast<int>(I) / kPixels + 1, static_cast<int>(I) % kPixels + 1>()...};
  }

  template <int Runs, int Pixels>
  static constexpr Function entry() {
    constexpr int kMost = Step == 0 ? kMostRuns : Arithmetic::most_runs(Step);
    if constexpr (Runs <= kMost && Runs * Pixels <= kPixels && (Pixels == 1) == (Step == 0))
      return &convolve_bytes<Channels, Runs, Pixels, Step>;
    else
      return nullptr;
  }
};

template <int Channels>
TileFunction<ByteArithmetic<Channels>> ByteArithmetic<Channels>::tile(int64_t step, int runs,
                                                                      int pixels) {
  if (pixels == 1) return ByteTileFunctions<Channels, 0>::of(runs, 1);
  switch (step) {
    case 4:
      return ByteTileFunctions<Channels, 4>::of(runs, pixels);
    case 8:
      return ByteTileFunctions<Channels, 8>::of(runs, pixels);
    case Channels:
      return ByteTileFunctions<Channels, Channels>::of(runs, pixels);
    case 2 * Channels:
      return ByteTileFunctions<Channels, 2 * Channels>::of(runs, pixels);
    default:
      return nullptr;
  }
}

}  // namespace block_sparse
