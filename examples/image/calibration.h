/* Rank calibration: what a step costs at each candidate. SPDX-License-Identifier: MIT */
#ifndef IMAGE_CALIBRATION_H
#define IMAGE_CALIBRATION_H

#include "error.h"

#include <psgd/session.h>

struct trainer;

/* On worker 0, from the trial to the decision that it led to. */
struct calibration {
	struct psgd_calibration_row *rows; /* NULL: nothing waits for its decision */
	size_t n_rows;
	uint64_t iteration; /* that the trial came before */
};

void calibration_finish(struct calibration *calibration); /* of zeros is fine */

/*
 * Before the step that the trainer stands at, if it is the one to calibrate before: for each
 * candidate the same steps, whole ones with the optimizer, in a trial of which nothing stays. The
 * means over the workers go to the controller and into the run folder. All workers call it.
 */
psgd_status calibration_before_step(struct trainer *trainer, double learning_rate);

/* After each recorded step: once the cap has been decided, the table is told which it was. */
psgd_status calibration_watch(struct trainer *trainer, const struct psgd_report *report);

#endif
