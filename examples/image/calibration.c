/* Rank calibration: what a step costs at each candidate. SPDX-License-Identifier: MIT */
#include "calibration.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "schedule.h"
#include "step.h"

/* What a trial changes and gets back. */
struct kept {
	float *params, *momentum, *running;
	unsigned nonfinite_steps;
	uint64_t skipped;
};

struct trial {
	uint32_t *ranks; /* candidates; dense is 0 */
	size_t n_ranks;
	unsigned warmup, measured; /* steps of each */
	struct psgd_calibration_row *rows;
	struct kept kept;
};

/* What is added up over steps and workers. */
enum figure { STEP, EXPOSED, COMPUTE, RAW, PAYLOAD, FIGURES };

void calibration_finish(struct calibration *calibration)
{
	free(calibration->rows);
	calibration->rows = NULL;
}

static bool is_due(const struct trainer *t, const struct psgd_controller *controller)
{
	return controller && controller->ops &&
	       t->iteration == t->config->compression.calibration.force_start_iter &&
	       psgd_controller_calibrate(controller, NULL, 0) != PSGD_ERR_UNSUPPORTED;
}

static void trial_finish(struct trainer *t, struct trial *trial)
{
	free(trial->ranks);
	free(trial->rows);
	nn_free(t->nn, trial->kept.params);
	nn_free(t->nn, trial->kept.momentum);
	nn_free(t->nn, trial->kept.running);
}

/* NULL: no memory, or the device does not answer. */
static float *copy_of(struct trainer *t, const float *values, size_t n)
{
	float *copy = nn_alloc(t->nn, n);

	if (copy && nn_copy(t->nn, copy, values, n, t->error)) {
		nn_free(t->nn, copy);
		return NULL;
	}
	return copy;
}

static psgd_status trial_init(
	struct trial *trial, struct trainer *t, const struct psgd_controller *controller)
{
	const struct psgd_config_calibration *config = &t->config->compression.calibration;
	unsigned each = schedule_batches(t->config, t->epoch), steps;

	*trial = (struct trial){.n_ranks = psgd_controller_candidates(controller, NULL, 0)};
	steps = config->warmup_iters + config->measure_iters;
	if (config->max_batches && config->max_batches / each < steps)
		steps = config->max_batches / each ? config->max_batches / each : 1;
	trial->warmup = config->warmup_iters < steps ? config->warmup_iters : steps - 1;
	trial->measured = steps - trial->warmup;
	trial->ranks = calloc(trial->n_ranks, sizeof(*trial->ranks));
	trial->rows = calloc(trial->n_ranks, sizeof(*trial->rows));
	trial->kept = (struct kept){.params = copy_of(t, t->net.params, t->net.n_params),
		.momentum = copy_of(t, t->momentum, t->net.n_params),
		.running = copy_of(t, t->net.running, t->net.n_running),
		.nonfinite_steps = t->nonfinite_steps,
		.skipped = t->loader.skipped};
	if (!trial->ranks || !trial->rows || !trial->kept.params || !trial->kept.momentum ||
		!trial->kept.running)
		return image_fail(t->error, PSGD_ERR_NOMEM, "out of memory for the calibration");
	(void)psgd_controller_candidates(controller, trial->ranks, trial->n_ranks);
	for (size_t i = 0; i < trial->n_ranks; i++)
		if (trial->ranks[i] == PSGD_RANK_DENSE)
			trial->ranks[i] = 0;
	return PSGD_OK;
}

static psgd_status restore(struct trainer *t, const struct kept *kept)
{
	psgd_status status = nn_copy(t->nn, t->net.params, kept->params, t->net.n_params, t->error);

	if (!status)
		status = nn_copy(t->nn, t->momentum, kept->momentum, t->net.n_params, t->error);
	if (!status)
		status = nn_copy(t->nn, t->net.running, kept->running, t->net.n_running, t->error);
	t->nonfinite_steps = kept->nonfinite_steps;
	t->loader.skipped = kept->skipped;
	return status;
}

/* Steps from the trainer's place on, and around the epoch's end: whole ones. */
static struct step trial_step(const struct trainer *t, double rate, size_t number)
{
	size_t batches = t->loader.sampler.iterations, n = schedule_batches(t->config, t->epoch);
	size_t places;

	n = n < batches ? n : batches;
	places = batches / n;
	return (struct step){.epoch = t->epoch,
		.first = (t->batch / n + number) % places * n,
		.n_batches = n,
		.learning_rate = rate,
		.trial = true};
}

static void add(double *figures, const struct psgd_report *report)
{
	figures[STEP] += (double)(report->step_ns - report->sync_ns);
	figures[EXPOSED] += (double)(report->exposed_encode_ns + report->exposed_wire_ns +
				     report->exposed_decode_ns);
	figures[COMPUTE] += (double)report->compute_ns;
	figures[RAW] += (double)report->raw_bytes;
	figures[PAYLOAD] += (double)report->payload_bytes;
}

/* The sums of one candidate's measured steps, on this worker. */
static psgd_status measure(
	struct trainer *t, const struct trial *trial, size_t i, double rate, double *figures)
{
	psgd_status status = psgd_session_trial(t->session, trial->ranks[i]);

	if (!status)
		status = psgd_session_begin_step(t->session);
	if (status)
		return trainer_fail(t, status, "calibration");
	for (unsigned k = 0; k < trial->warmup + trial->measured; k++) {
		struct psgd_report report = PSGD_INIT(psgd_report);
		struct step step = trial_step(t, rate, k);
		struct loss ignored = {0};

		/* It is the time that counts: a rank that diverges does not end the run. */
		t->nonfinite_steps = 0;
		status = step_run(t, &step, &ignored, &report);
		if (status)
			return status;
		if (k >= trial->warmup)
			add(figures, &report);
	}
	return restore(t, &trial->kept);
}

static void fill_row(struct psgd_calibration_row *row, uint32_t rank, unsigned steps,
	uint32_t n_workers, const double *figures)
{
	double share = 1.0 / ((double)steps * n_workers);

	*row = (struct psgd_calibration_row){.rank = rank,
		.steps = steps,
		.step_ns = (int64_t)(figures[STEP] * share),
		.exposed_ns = (int64_t)(figures[EXPOSED] * share),
		.raw_bytes = (uint64_t)(figures[RAW] * share),
		.payload_bytes = (uint64_t)(figures[PAYLOAD] * share),
		.compute_ns = (int64_t)(figures[COMPUTE] * share)};
}

static psgd_status measure_all(struct trainer *t, struct trial *trial, double rate)
{
	double *figures = calloc(trial->n_ranks, FIGURES * sizeof(*figures));
	psgd_status status = PSGD_OK;

	if (!figures)
		return image_fail(t->error, PSGD_ERR_NOMEM, "out of memory");
	for (size_t i = 0; !status && i < trial->n_ranks; i++)
		status = measure(t, trial, i, rate, figures + i * FIGURES);
	if (!status) {
		status = psgd_session_trial(t->session, PSGD_TRIAL_END);
		if (!status)
			status = psgd_session_sum(t->session, figures, trial->n_ranks * FIGURES);
		if (status)
			(void)trainer_fail(t, status, "calibration");
	}
	for (size_t i = 0; !status && i < trial->n_ranks; i++)
		fill_row(&trial->rows[i], trial->ranks[i], trial->measured, t->launch->n_workers,
			figures + i * FIGURES);
	free(figures);
	return status;
}

static double now_s(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Worker 0: to the controller and the run folder; the rows are the trainer's then. */
static psgd_status hand_over(struct trainer *t, const struct psgd_controller *controller,
	struct trial *trial, double seconds)
{
	char text[128];
	psgd_status status = psgd_controller_calibrate(controller, trial->rows, trial->n_ranks);

	/* No row is marked before the cap has been decided; dense is 0 in a row. */
	if (!status)
		status = psgd_run_calibration(t->run, trial->rows, trial->n_ranks, PSGD_RANK_DENSE);
	(void)snprintf(text, sizeof(text), "%zu candidates, %u + %u steps each, %.3f s",
		trial->n_ranks, trial->warmup, trial->measured, seconds);
	if (!status)
		status = psgd_run_event(t->run, "calibration", t->iteration, text);
	if (status)
		return trainer_fail(t, status, "record of the calibration");
	t->calibration = (struct calibration){trial->rows, trial->n_ranks, t->iteration};
	trial->rows = NULL;
	return PSGD_OK;
}

psgd_status calibration_before_step(struct trainer *t, double learning_rate)
{
	const struct psgd_controller *controller = psgd_stack_controller(t->stack);
	double begin = now_s();
	struct trial trial;
	psgd_status status;

	if (!is_due(t, controller))
		return PSGD_OK;
	status = trial_init(&trial, t, controller);
	if (!status)
		status = measure_all(t, &trial, learning_rate);
	if (!status && t->launch->worker == 0)
		status = hand_over(t, controller, &trial, now_s() - begin);
	trial_finish(t, &trial);
	if (status)
		return status;
	status = psgd_session_begin_step(t->session);
	return status ? trainer_fail(t, status, "step") : PSGD_OK;
}

psgd_status calibration_watch(struct trainer *t, const struct psgd_report *report)
{
	struct calibration *calibration = &t->calibration;
	psgd_status status;

	if (!calibration->rows || !report->decided ||
		report->decision.step <= calibration->iteration)
		return PSGD_OK;
	status = psgd_run_calibration(t->run, calibration->rows, calibration->n_rows,
		report->decision.cap == PSGD_RANK_DENSE ? 0 : report->decision.cap);
	calibration_finish(calibration);
	return status ? trainer_fail(t, status, "record of the calibration") : PSGD_OK;
}
