/* One optimizer step. SPDX-License-Identifier: MIT */
#ifndef IMAGE_STEP_H
#define IMAGE_STEP_H

#include "trainer.h"

struct step {
	uint64_t epoch;
	size_t first, n_batches; /* of the epoch; their gradients' mean makes the step */
	double learning_rate;
	bool epoch_end;
	bool more;  /* the batch after these will be the first of the next step */
	bool trial; /* of a calibration: parameters are not compared */
};

/*
 * Gradients of the step's batches, their exchange, the optimizer's step. Adds the samples to
 * *loss and fills *report. All workers call it together. Errors, with a line: those of the
 * session; FAILED when gradients were not finite in too many steps in a row.
 */
psgd_status step_run(struct trainer *trainer, const struct step *step, struct loss *loss,
	struct psgd_report *report);

/* Of the parameters. Never 0, which a session takes for "not given". */
psgd_status step_params_hash(struct trainer *trainer, uint64_t *out);

/* Of all that the workers must hold alike when a step begins. */
psgd_status step_state_hash(struct trainer *trainer, uint64_t *out);

#endif
