/* Checkpoints of the trainer. SPDX-License-Identifier: MIT */
#ifndef IMAGE_CHECKPOINT_H
#define IMAGE_CHECKPOINT_H

#include "trainer.h"

/*
 * If the run goes on from a checkpoint: parameters, optimizer, statistics and place in training as
 * they were. On failure error->text is one line. That workers hold the same parameters is compared
 * where it always is, at the end and every communication.check_every steps.
 */
psgd_status checkpoint_restore(struct trainer *trainer);

/*
 * Writes one if it is time: after a step that does not end its epoch, and after an epoch's
 * evaluation, when the place is the next epoch's begin. The last one is at the end of training.
 */
psgd_status checkpoint_after_step(struct trainer *trainer);
psgd_status checkpoint_after_epoch(struct trainer *trainer);

#endif
