/* First parameters from a file. SPDX-License-Identifier: MIT */
#ifndef IMAGE_PRETRAINED_H
#define IMAGE_PRETRAINED_H

#include "net.h"

/*
 * Fills parameters and running statistics from a safetensors file with torchvision's names, of
 * F32, F16, BF16 or F64. It must hold all of the net's, in their shapes, and nothing else but
 * counts of batches. On failure they may be filled in part. Errors, with a line that begins with
 * the path: IO, CONFIG, NOMEM.
 */
psgd_status pretrained_load(struct net *net, const char *path, struct image_error *error);

#endif
