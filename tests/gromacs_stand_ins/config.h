/* Stand-in for GROMACS, see README.md of this folder: what the build found out.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_GPU_CUDA
#    define GMX_GPU_CUDA 0
#endif
