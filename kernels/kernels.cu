// All kernels, as one unit for nvcc, NVRTC and g++.

#include "advance.cuh"
#include "checksum.cuh"
#include "clusters.cuh"
#include "cut.cuh"
#include "forces.cuh"
#include "ghosts.cuh"
#include "rows.cuh"
