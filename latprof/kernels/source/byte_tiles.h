// The inner loops of the convolution in INT8, written out for every shape of tile.

#pragma once

#include "byte_arithmetic.h"
#include "dot.h"
#include "tile_table.h"

namespace block_sparse {

constexpr int kBytesPrefetched = 96;  // taps ahead

// `Shifted`: the residual's zero is not 0.
template <int Channels, bool Shifted, int Runs, int Pixels, int Vectors>
inline void add_residual(const Tile<uint8_t>& tile, const ByteEpilogue& end,
                         typename Block<Channels>::Vector (&steps)[Runs][Pixels][Vectors]) {
  using L = Lanes<Channels>;
  using Floats = typename Block<Channels>::Vector;
  const Floats zero = broadcast<Floats>(static_cast<float>(end.residual_zero));
  const Floats scale = broadcast<Floats>(end.residual_scale);
  WRITTEN_OUT for (int r = 0; r < Runs; ++r) {
    const uint8_t* const residual = tile.residual[r];
    WRITTEN_OUT for (int p = 0; p < Pixels; ++p)
      WRITTEN_OUT for (int v = 0; v < Vectors; ++v) {
        const Floats x = L::floats(residual + p * Channels + v * Block<Channels>::kLanes);
        steps[r][p][v] += rounded((Shifted ? x - zero : x) * scale);
      }
  }
}

template <int Channels>
template <int Runs, int Pixels, int Step>
void ByteArithmetic<Channels>::convolve(const Taps<int8_t>& taps, const Tile<uint8_t>& tile,
                                        const ByteEpilogue& end) {
  using B = Block<Channels>;
  using L = Lanes<Channels>;
  using Floats = typename B::Vector;
  using Integers = typename B::Integers;
  constexpr int kTap = Channels * kInputs;

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
  if (end.adds && end.residual_zero == 0)
    add_residual<Channels, false>(tile, end, steps);
  else if (end.adds)
    add_residual<Channels, true>(tile, end, steps);
  const uint8_t* const lookup = end.out.lookup;
  uint8_t* outs[Runs];
  WRITTEN_OUT for (int r = 0; r < Runs; ++r) outs[r] = tile.out[r];
  const typename L::Rounding rounding(end.out);
  WRITTEN_OUT for (int r = 0; r < Runs; ++r) L::store(outs[r], steps[r], rounding);
  if (lookup != nullptr)
    for (int r = 0; r < Runs; ++r) look_up(lookup, outs[r], Pixels * Channels);
}

template <int Channels>
TileFunction<ByteArithmetic<Channels>> ByteArithmetic<Channels>::tile(int64_t step, int runs,
                                                                      int pixels) {
  return tile_of<ByteArithmetic>(step, runs, pixels);
}

}  // namespace block_sparse
