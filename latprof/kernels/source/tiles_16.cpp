#include "tiles.h"

template struct block_sparse::FloatArithmetic<16>;
