// The inner loops of the convolution in FP32, written out for every shape of tile.

#pragma once

#include <array>
#include <utility>

#include "float_arithmetic.h"

namespace block_sparse {

// One tile: `Runs` runs of `Pixels` output pixels whose inputs are `Step` floats apart.
template <int Channels, int Runs, int Pixels, int Step>
__attribute__((noinline)) void convolve_tile(const Taps<float>& taps, const Tile<float>& tile,
                                             const FloatEpilogue& end) {
  using B = Block<Channels>;
  using Vector = typename B::Vector;
  constexpr int kVectors = B::kVectors;

  Vector sums[Runs][Pixels][kVectors];
  const float* in[Runs];
  WRITTEN_OUT for (int r = 0; r < Runs; ++r) {
    in[r] = tile.in[r];
    WRITTEN_OUT for (int p = 0; p < Pixels; ++p)
      WRITTEN_OUT for (int v = 0; v < kVectors; ++v)
        sums[r][p][v] = load<Vector>(end.bias + v * B::kLanes);
  }

  const float* weights = taps.weights;
  const int32_t* offset = taps.offsets;
  const int32_t* const last = offset + taps.count;
  for (; offset != last; ++offset, weights += Channels) {
    const int64_t at = *offset;
    __builtin_prefetch(weights + kPrefetched * Channels);
    Vector weight[kVectors];
    WRITTEN_OUT for (int v = 0; v < kVectors; ++v) weight[v] = load<Vector>(weights + v * B::kLanes);
    WRITTEN_OUT for (int r = 0; r < Runs; ++r)
      WRITTEN_OUT for (int p = 0; p < Pixels; ++p) {
        const float value = in[r][at + p * Step];
        WRITTEN_OUT for (int v = 0; v < kVectors; ++v) sums[r][p][v] += weight[v] * value;
      }
  }

  if (end.adds)
    WRITTEN_OUT for (int r = 0; r < Runs; ++r)
      WRITTEN_OUT for (int p = 0; p < Pixels; ++p)
        WRITTEN_OUT for (int v = 0; v < kVectors; ++v)
          sums[r][p][v] += load<Vector>(tile.residual[r] + p * Channels + v * B::kLanes);
  if (end.activation.clips()) {
    const Vector low = broadcast<Vector>(end.activation.alpha);
    WRITTEN_OUT for (int r = 0; r < Runs; ++r)
      WRITTEN_OUT for (int p = 0; p < Pixels; ++p)
        WRITTEN_OUT for (int v = 0; v < kVectors; ++v)
          sums[r][p][v] = at_least(sums[r][p][v], low);
    if (end.activation.beta < std::numeric_limits<float>::infinity()) {
      const Vector high = broadcast<Vector>(end.activation.beta);
      WRITTEN_OUT for (int r = 0; r < Runs; ++r)
        WRITTEN_OUT for (int p = 0; p < Pixels; ++p)
          WRITTEN_OUT for (int v = 0; v < kVectors; ++v)
            sums[r][p][v] = at_most(sums[r][p][v], high);
    }
  }
  WRITTEN_OUT for (int r = 0; r < Runs; ++r) {
    float* const out = tile.out[r];
    WRITTEN_OUT for (int p = 0; p < Pixels; ++p)
      WRITTEN_OUT for (int v = 0; v < kVectors; ++v)
        store(out + p * Channels + v * B::kLanes, sums[r][p][v]);
  }
  if (end.activation.curved())
    for (int r = 0; r < Runs; ++r)
      apply<Channels>(end.activation, tile.out[r], Pixels);
}

// The functions for all runs × pixels that fit into the registers; nullptr for the others.
template <int Channels, int Step>
class TileFunctions {
 public:
  static constexpr int kPixels = Block<Channels>::kPixels;

  using Function = TileFunction<FloatArithmetic<Channels>>;

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
    constexpr int kMost = Step == 0 ? kMostRuns : FloatArithmetic<Channels>::most_runs(Step);
    if constexpr (Runs <= kMost && Runs * Pixels <= kPixels && (Pixels == 1) == (Step == 0))
      return &convolve_tile<Channels, Runs, Pixels, Step>;
    else
      return nullptr;
  }
};

template <int Channels>
TileFunction<FloatArithmetic<Channels>> FloatArithmetic<Channels>::tile(int64_t step, int runs,
                                                                        int pixels) {
  if (pixels == 1) return TileFunctions<Channels, 0>::of(runs, 1);
  switch (step) {
    case 1:
      return TileFunctions<Channels, 1>::of(runs, pixels);
    case 2:
      return TileFunctions<Channels, 2>::of(runs, pixels);
    case Channels:
      return TileFunctions<Channels, Channels>::of(runs, pixels);
    case 2 * Channels:
      return TileFunctions<Channels, 2 * Channels>::of(runs, pixels);
    default:
      return nullptr;
  }
}

}  // namespace block_sparse
