/* The record of rank calibration. SPDX-License-Identifier: MIT */
#include "calibration.h"

#include <stdlib.h>

/*
 * The rows of a step are complete one step before the decision from them is in a report, and the
 * controller may run while they are read: a third step puts it beyond doubt.
 */
#define SETTLE_STEPS 3

psgd_status calibration_init(struct calibration *calibration,
	const struct psgd_controller *controller, const struct psgd_config *config)
{
	*calibration = (struct calibration){0};
	if (!controller || !controller->ops)
		return PSGD_OK;
	calibration->n_rows = psgd_controller_calibration(controller, NULL, 0);
	if (calibration->n_rows == 0)
		return PSGD_OK;
	calibration->measure_steps = config->compression.calibration.measure_iters;
	calibration->rows = calloc(calibration->n_rows, sizeof(*calibration->rows));
	return calibration->rows ? PSGD_OK : PSGD_ERR_NOMEM;
}

void calibration_finish(struct calibration *calibration)
{
	free(calibration->rows);
	calibration->rows = NULL;
}

psgd_status calibration_watch(struct calibration *calibration,
	const struct psgd_controller *controller, psgd_run *run, const struct psgd_report *report)
{
	psgd_status status;

	if (!calibration->rows)
		return PSGD_OK;
	if (report->decided)
		calibration->chosen = report->decision.cap;
	(void)psgd_controller_calibration(controller, calibration->rows, calibration->n_rows);
	for (size_t i = 0; i < calibration->n_rows; i++)
		if (calibration->rows[i].steps < calibration->measure_steps)
			return PSGD_OK;
	if (++calibration->settled < SETTLE_STEPS)
		return PSGD_OK;
	status = psgd_run_calibration(
		run, calibration->rows, calibration->n_rows, calibration->chosen);
	calibration_finish(calibration);
	return status;
}
