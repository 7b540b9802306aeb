// The functions of an arithmetic for all runs × pixels that fit into its registers.

#pragma once

#include <array>
#include <utility>

#include "convolution.h"

namespace block_sparse {

// Of pixels `Step` elements apart; Step 0: single pixels, wherever they lie.
template <class Arithmetic, int Step>
class TileTable {
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
    constexpr int kMost = Step == 0 ? kMostRuns : most_runs<Arithmetic>(Step);
    if constexpr (Runs <= kMost && Runs * Pixels <= kPixels && (Pixels == 1) == (Step == 0))
      return &Arithmetic::template convolve<Runs, Pixels, Step>;
    else
      return nullptr;
  }
};

template <class Arithmetic>
TileFunction<Arithmetic> tile_of(int64_t step, int runs, int pixels) {
  constexpr int kInputs = Arithmetic::kInputs, kChannels = Arithmetic::kChannels;
  if (pixels == 1) return TileTable<Arithmetic, 0>::of(runs, 1);
  switch (step) {
    case kInputs:
      return TileTable<Arithmetic, kInputs>::of(runs, pixels);
    case 2 * kInputs:
      return TileTable<Arithmetic, 2 * kInputs>::of(runs, pixels);
    case kChannels:
      return TileTable<Arithmetic, kChannels>::of(runs, pixels);
    case 2 * kChannels:
      return TileTable<Arithmetic, 2 * kChannels>::of(runs, pixels);
    default:
      return nullptr;
  }
}

}  // namespace block_sparse
