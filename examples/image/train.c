/* A worker's training run. SPDX-License-Identifier: MIT */
#include "train.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/experiment/checkpoint.h>

#include "checkpoint.h"
#include "cuda_open.h"
#include "models.h"
#include "pretrained.h"
#include "schedule.h"
#include "step.h"

psgd_status trainer_fail(struct trainer *trainer, psgd_status status, const char *what)
{
	char reason[sizeof(trainer->error->text)] = "";

	psgd_stack_error(trainer->stack, reason, sizeof(reason));
	return image_fail(trainer->error, status, "%s: %s", what,
		reason[0] ? reason : psgd_status_text(status));
}

psgd_status trainer_share(struct trainer *t, float *values, size_t n, const char *what)
{
	float *view;
	psgd_status status, ended;

	if (n == 0)
		return PSGD_OK;
	status = nn_view(t->nn, values, n, &view, t->error);
	if (status)
		return status;
	status = psgd_session_broadcast(t->session, view, n * sizeof(float), 0);
	ended = nn_view_end(t->nn, view, values, n, !status, t->error);
	return status ? trainer_fail(t, status, what) : ended;
}

/* A net_sync_fn; user: struct trainer. */
static psgd_status sync_over_workers(void *user, float *values, size_t n)
{
	struct trainer *t = user;

	return psgd_session_sync(t->session, values, n);
}

/* Where the gradients live: the stack has decided. */
static psgd_status open_engine(struct trainer *t)
{
	uint32_t ordinal;

	if (psgd_stack_cuda(t->stack, &ordinal))
		return cuda_open(ordinal, t->config->training.tf32, &t->nn, t->error);
	return nn_open(t->config->threads, &t->nn, t->error);
}

static psgd_status build_net(struct trainer *t)
{
	const struct image_shape *shape = &t->loader.data.shape;
	struct nn_shape in = {.c = (int64_t)shape->channels,
		.h = (int64_t)shape->rows,
		.w = (int64_t)shape->cols};
	psgd_status status = open_engine(t);

	if (!status)
		status = model_build(
			&t->net, t->nn, &t->config->model, &in, t->config->seed, t->error);
	if (!status && t->config->model.sync_batchnorm && t->launch->n_workers > 1 &&
		net_sync(&t->net, sync_over_workers, t, t->launch->n_workers))
		status = image_fail(t->error, PSGD_ERR_NOMEM, "%s", t->net.error.text);
	if (status)
		return status;
	t->plan = net_prepare(&t->net, t->config->dataset.batch_size, true);
	if (!t->plan)
		return image_fail(t->error, t->net.unprepared, "%s", t->net.error.text);
	return PSGD_OK;
}

static psgd_status alloc_buffers(struct trainer *t)
{
	t->labels = calloc(loader_largest(&t->loader), sizeof(*t->labels));
	t->momentum = nn_alloc(t->nn, t->net.n_params);
	t->worker0_running = nn_alloc(t->nn, t->net.n_running);
	if (!t->labels || !t->momentum || !t->worker0_running)
		return image_fail(t->error, PSGD_ERR_NOMEM, "out of memory");
	return ahead_init(&t->ahead, t->loader.sampler.batch, t->error);
}

/* Worker 0's parameters and statistics; a checkpoint's come later and are the worker's own. */
static psgd_status share_first(struct trainer *t)
{
	const struct psgd_config_model *model = &t->config->model;
	psgd_status status = PSGD_OK;

	if (model->pretrained && t->launch->worker == 0 && !psgd_stack_resumes(t->stack, NULL))
		status = pretrained_load(&t->net, model->weights, t->error);
	if (status)
		return status;
	status = trainer_share(
		t, t->net.params, t->net.n_params, "broadcast of the first parameters");
	return status ? status
		      : trainer_share(t, t->net.running, t->net.n_running,
				"broadcast of the first statistics");
}

static psgd_status open_session(struct trainer *t)
{
	struct psgd_tensor *tensors = calloc(t->net.n_tensors, sizeof(*tensors));
	psgd_status status;

	if (!tensors)
		return image_fail(t->error, PSGD_ERR_NOMEM, "out of memory");
	buckets_tensors(&t->net, tensors);
	status = psgd_stack_session(t->stack, tensors, t->net.n_tensors, &t->session);
	free(tensors);
	if (status)
		return trainer_fail(t, status, "session");
	status = buckets_init(&t->buckets, &t->net, t->session);
	if (!status)
		status = accumulate_init(&t->accumulate, &t->net, schedule_most_batches(t->config),
			buckets_on_grads, &t->buckets);
	if (status)
		return image_fail(t->error, status, "out of memory");
	return share_first(t);
}

static psgd_status trainer_init(struct trainer *t, psgd_stack *stack, struct image_error *error)
{
	const struct psgd_config *config = psgd_stack_config(stack);
	psgd_status status;

	*t = (struct trainer){.stack = stack, .config = config, .error = error};
	t->launch = psgd_stack_launch(stack);
	t->run = psgd_stack_run(stack);
	status = loader_open(&t->loader, config, t->launch->worker, t->launch->n_workers, error);
	if (!status)
		status = build_net(t);
	if (!status)
		status = alloc_buffers(t);
	if (!status)
		status = open_session(t);
	t->total_iterations = schedule_total_steps(config, t->loader.sampler.iterations);
	return status;
}

static void trainer_finish(struct trainer *t)
{
	calibration_finish(&t->calibration);
	accumulate_finish(&t->accumulate);
	buckets_finish(&t->buckets);
	ahead_finish(&t->ahead);
	if (t->nn) {
		nn_free(t->nn, t->worker0_running);
		nn_free(t->nn, t->momentum);
	}
	free(t->labels);
	net_free(&t->net);
	nn_close(&t->nn);
}

#define MEMORY_EVERY 16 /* iterations; the driver takes its time to answer */

/* Of the device, which is this worker's alone. 0: it has no memory of its own, or does not say. */
static uint64_t gpu_memory(struct trainer *t)
{
	const struct psgd_device *device = psgd_stack_device(t->stack);
	uint64_t left, total;

	if (device->ops->memory && t->iteration % MEMORY_EVERY == 0 &&
		device->ops->memory(device->self, &left, &total) == PSGD_OK)
		t->gpu_memory_bytes = total - left;
	return t->gpu_memory_bytes;
}

static psgd_status record(
	struct trainer *t, double rate, const struct loss *loss, const struct psgd_report *report)
{
	struct psgd_iteration_row row = PSGD_INIT(psgd_iteration_row);
	struct epoch_sums *sums = &t->sums;
	psgd_status status;

	row.epoch = t->epoch;
	row.iteration = t->iteration;
	row.iterations_in_epoch = schedule_steps(t->config, t->epoch, t->loader.sampler.iterations);
	row.total_iterations = t->total_iterations;
	row.loss = loss->sum / (double)loss->samples;
	row.accuracy = 100.0 * (double)loss->correct / (double)loss->samples;
	row.learning_rate = rate;
	row.report = report;
	row.gpu_memory_bytes = gpu_memory(t);
	status = psgd_run_iteration(t->run, &row);
	if (status)
		return trainer_fail(t, status, "record of an iteration");
	sums->loss.sum += loss->sum;
	sums->loss.samples += loss->samples;
	if (!isnan(report->grad_norm)) {
		sums->grad_norm += report->grad_norm;
		sums->grad_norms++;
	}
	sums->grad_sum_norm = report->grad_sum_norm;
	return PSGD_OK;
}

/* Images that were left out, as soon as they are known. */
static void show_bad(struct trainer *t)
{
	struct image_error line;

	while (loader_bad(&t->loader, &line))
		fprintf(stderr, "psgd-train-image: warning: left out: %s\n", line.text);
}

static psgd_status record_skipped(struct trainer *t, uint64_t skipped)
{
	char text[128];
	psgd_status status;

	if (skipped == 0)
		return PSGD_OK;
	(void)snprintf(text, sizeof(text),
		"%" PRIu64 " times an image that cannot be decoded was left out", skipped);
	(void)puts(text);
	status = psgd_run_event(t->run, "skip_bad", t->iteration, text);
	return status ? trainer_fail(t, status, "record of images left out") : PSGD_OK;
}

/* The step that begins with the epoch's batch t->batch. */
static psgd_status train_step(struct trainer *t, double rate)
{
	struct psgd_report report = PSGD_INIT(psgd_report);
	size_t each = schedule_batches(t->config, t->epoch);
	size_t left = t->loader.sampler.iterations - t->batch;
	struct step step = {.epoch = t->epoch,
		.first = t->batch,
		.n_batches = left < each ? left : each,
		.learning_rate = rate,
		.epoch_end = left <= each,
		.more = left > each && t->iteration + 1 < t->total_iterations};
	struct loss loss = {0};
	psgd_status status = psgd_stack_begin_step(t->stack, t->iteration);

	if (status)
		return trainer_fail(t, status, "change of the network");
	status = calibration_before_step(t, rate);
	if (status)
		return status;
	status = step_run(t, &step, &loss, &report);
	show_bad(t);
	if (!status)
		status = record(t, rate, &loss, &report);
	if (!status)
		status = calibration_watch(t, &report);
	t->iteration++;
	t->batch += step.n_batches;
	t->samples += loss.samples * t->launch->n_workers;
	return status;
}

static psgd_status end_epoch(struct trainer *t, double rate)
{
	struct psgd_epoch_row row = PSGD_INIT(psgd_epoch_row);
	struct evaluation seen;
	psgd_status status = evaluate(t, &seen);

	show_bad(t);
	if (status || t->launch->worker > 0)
		return status;
	row.epoch = t->epoch;
	row.iteration = t->iteration - 1;
	row.epoch_loss = seen.train_loss;
	row.accuracy = seen.accuracy;
	row.grad_norm_avg =
		t->sums.grad_norms ? t->sums.grad_norm / (double)t->sums.grad_norms : NAN;
	row.grad_accum_norm = t->sums.grad_sum_norm;
	row.num_data_processed = t->samples;
	status = psgd_run_epoch(t->run, &row);
	if (!status)
		status = record_skipped(t, seen.skipped);
	if (status)
		return trainer_fail(t, status, "record of an epoch");
	printf("epoch %" PRIu64 ", iteration %" PRIu64 " of %" PRIu64
	       ": loss %.4f, test accuracy %.2f %%, learning rate %g\n",
		t->epoch + 1, t->iteration, t->total_iterations, seen.train_loss, seen.accuracy,
		rate);
	(void)fflush(stdout);
	return PSGD_OK;
}

/* The rest of the epoch, from batch t->batch on. */
static psgd_status train_epoch(struct trainer *t)
{
	double rate = schedule_learning_rate(t->config, t->epoch);
	/* What lies between two epochs is no step's compute time. */
	psgd_status status = psgd_session_begin_step(t->session);
	bool whole;

	if (status)
		return trainer_fail(t, status, "step");
	while (t->batch < t->loader.sampler.iterations && t->iteration < t->total_iterations) {
		status = train_step(t, rate);
		if (!status)
			status = checkpoint_after_step(t);
		if (status)
			return status;
	}
	whole = t->batch >= t->loader.sampler.iterations;
	status = end_epoch(t, rate);
	t->sums = (struct epoch_sums){0};
	t->batch = 0;
	t->epoch++;
	return status || !whole ? status : checkpoint_after_epoch(t);
}

/* Training has worked only if every worker holds the same parameters, to the bit. */
static psgd_status compare_params(struct trainer *t)
{
	uint64_t hash;
	char text[128];
	psgd_status status = step_params_hash(t, &hash);

	if (status)
		return status;
	status = psgd_session_agree(t->session, hash);
	if (status)
		return trainer_fail(t, status, "parameters at the end of training");
	if (t->launch->worker > 0)
		return PSGD_OK;
	(void)snprintf(text, sizeof(text),
		"parameters bit-equal on all %" PRIu32 " workers (hash %016" PRIx64 ")",
		t->launch->n_workers, hash);
	(void)puts(text);
	(void)fflush(stdout);
	status = psgd_run_event(t->run, "agree", t->iteration, text);
	return status ? trainer_fail(t, status, "record of the comparison") : PSGD_OK;
}

psgd_status train_run(psgd_stack **stack, struct image_error *error)
{
	struct trainer trainer;
	psgd_status status = trainer_init(&trainer, *stack, error);

	if (!status)
		status = checkpoint_restore(&trainer);
	/* A checkpoint may lie between the last step and its epoch's evaluation. */
	while (!status && (trainer.iteration < trainer.total_iterations || trainer.batch > 0))
		status = train_epoch(&trainer);
	if (!status)
		status = compare_params(&trainer);
	/* Its threads look into the configuration, which is the stack's. */
	loader_close(&trainer.loader);
	/* The session may still hold gradients of a step that failed. */
	psgd_stack_close(stack, status, status ? error->text : NULL);
	trainer_finish(&trainer);
	return status;
}
