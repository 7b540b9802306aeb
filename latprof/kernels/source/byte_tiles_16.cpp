#include "byte_tiles.h"

template struct block_sparse::ByteArithmetic<16>;
