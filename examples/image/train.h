/* A worker's training run. SPDX-License-Identifier: MIT */
#ifndef IMAGE_TRAIN_H
#define IMAGE_TRAIN_H

#include "error.h"

#include <psgd/experiment/stack.h>

/*
 * Trains as the stack's configuration says, from the session's opening to the last comparison of
 * parameters. Ends the stack, whose session borrows the gradients. On failure error->text is one
 * line. MISMATCH: the workers have come apart.
 */
psgd_status train_run(psgd_stack **stack, struct image_error *error);

#endif
