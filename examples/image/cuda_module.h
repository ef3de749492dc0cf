/*
 * Between the trainer and psgd-train-image-cuda.so, which has the engine of CUDA devices (cuDNN,
 * cuBLAS and kernels). The module imports nothing from the trainer, and stays in memory once it is
 * open, since CUDA's libraries do not bear to leave.
 * SPDX-License-Identifier: MIT
 */
#ifndef IMAGE_CUDA_MODULE_H
#define IMAGE_CUDA_MODULE_H

#include "nn.h"

#define IMAGE_CUDA_FILE "psgd-train-image-cuda.so"

/* The one exported function; the number changes with the structs here and in nn.h. */
#define IMAGE_CUDA_ENTRY psgd_train_image_cuda_module_2
#define IMAGE_CUDA_ENTRY_NAME "psgd_train_image_cuda_module_2"

struct image_cuda_options {
	unsigned ordinal; /* of the device, as CUDA counts them */
	/* Where products of f32 may have their operands rounded to TF32, if the device can. */
	bool tf32_convolutions, tf32_products;
};

struct image_cuda_module {
	/* Also makes the device that of the calling thread, which is the engine's. On success *out
	 * is ended by nn_close. */
	psgd_status (*open)(const struct image_cuda_options *options, struct nn **out,
		struct image_error *error);
};

typedef const struct image_cuda_module *(*image_cuda_entry)(void);

#endif
