// The inner loops of the convolution in FP32, written out for every shape of tile.

#pragma once

#include "float_arithmetic.h"
#include "tile_table.h"

namespace block_sparse {

template <int Channels>
template <int Runs, int Pixels, int Step>
void FloatArithmetic<Channels>::convolve(const Taps<float>& taps, const Tile<float>& tile,
                                         const FloatEpilogue& end) {
  using B = Block<Channels>;
  using Vector = typename B::Vector;

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

template <int Channels>
TileFunction<FloatArithmetic<Channels>> FloatArithmetic<Channels>::tile(int64_t step, int runs,
                                                                        int pixels) {
  return tile_of<FloatArithmetic>(step, runs, pixels);
}

}  // namespace block_sparse
