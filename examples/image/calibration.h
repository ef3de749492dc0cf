/* The record of rank calibration. SPDX-License-Identifier: MIT */
#ifndef IMAGE_CALIBRATION_H
#define IMAGE_CALIBRATION_H

#include "error.h"

#include <psgd/experiment/stack.h>

struct calibration {
	struct psgd_calibration_row *rows; /* NULL: nothing is calibrated here, or it is written */
	size_t n_rows;
	uint32_t measure_steps;
	uint32_t settled; /* steps since all rows were complete */
	uint32_t chosen;
};

/* For worker 0; ended by calibration_finish. Errors: NOMEM. */
psgd_status calibration_init(struct calibration *calibration,
	const struct psgd_controller *controller, const struct psgd_config *config);
void calibration_finish(struct calibration *calibration);

/*
 * After each step: writes the rows once, when they are complete and the decision that they led to
 * has been reported. Errors of psgd_run_calibration.
 */
psgd_status calibration_watch(struct calibration *calibration,
	const struct psgd_controller *controller, psgd_run *run, const struct psgd_report *report);

#endif
