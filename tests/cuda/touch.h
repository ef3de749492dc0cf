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

/* Of threads of a block that nothing orders. */
#define PSGD_TOUCH(what, bytes)                                                                    \
	((void)__atomic_fetch_add(&touched_##what, (uint64_t)(bytes), __ATOMIC_RELAXED))

#endif
