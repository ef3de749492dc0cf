/* Counts what kernels touch, in variables of the test: see PSGD_TOUCH in device/cuda_vector.h. */
#ifndef TESTS_CUDA_TOUCH_H
#define TESTS_CUDA_TOUCH_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

extern uint64_t touched_matrices, touched_factors, touched_sums;

#ifdef __cplusplus
}
#endif

#define PSGD_TOUCH(what, bytes) ((void)(touched_##what += (uint64_t)(bytes)))

#endif
