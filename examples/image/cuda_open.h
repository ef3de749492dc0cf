/* The engine of CUDA devices, if its module is there. SPDX-License-Identifier: MIT */
#ifndef IMAGE_CUDA_OPEN_H
#define IMAGE_CUDA_OPEN_H

#include "cuda_module.h"

/*
 * Opens the module: in the folder PSGD_MODULE_PATH, or else with the modules of the installation or
 * beside the program. Errors: UNSUPPORTED, with the reason.
 */
psgd_status cuda_find(const struct image_cuda_module **out, struct image_error *error);

/* tf32: "none", "convolutions" (as PyTorch has it) or "all". Errors: also CONFIG, NOMEM, DEVICE. */
psgd_status cuda_open(
	unsigned ordinal, const char *tf32, struct nn **out, struct image_error *error);

#endif
