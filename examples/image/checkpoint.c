/* Checkpoints of the trainer. SPDX-License-Identifier: MIT */
#include "checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/experiment/checkpoint.h>

#include "step.h"

/* As they are in the file; only numbers of 64 bits. */
struct counts {
	uint64_t iteration, epoch, batch, samples, nonfinite_steps;
	uint64_t epoch_samples, epoch_grad_norms, epoch_skipped;
	uint64_t calibration_iteration;
};

struct sums {
	double epoch_loss, epoch_grad_norm, grad_sum_norm;
};

static psgd_status put_vector(const struct psgd_state_writer *writer, const char *name,
	uint32_t dtype, size_t n, const void *data)
{
	struct psgd_state_array array = PSGD_INIT(psgd_state_array);

	array.name = name;
	array.dtype = dtype;
	array.n_dims = 1;
	array.dims[0] = (int64_t)n;
	return writer->put(writer->user, &array, data);
}

/* "params/<name>" or "momentum/<name>". */
static void tensor_name(char out[NET_NAME_BYTES + 16], const char *group, const char *name)
{
	(void)snprintf(out, NET_NAME_BYTES + 16, "%s/%s", group, name);
}

/* values: of the engine. */
static psgd_status put_tensors(
	const struct psgd_state_writer *writer, struct trainer *t, const char *group, float *values)
{
	const struct net *net = &t->net;
	float *view;
	psgd_status status = nn_view(t->nn, values, net->n_params, &view, t->error);

	for (size_t i = 0; i < net->n_tensors && !status; i++) {
		const struct net_tensor *tensor = &net->tensor[i];
		struct psgd_state_array array = PSGD_INIT(psgd_state_array);
		char name[NET_NAME_BYTES + 16];

		tensor_name(name, group, tensor->name);
		array.name = name;
		array.dtype = PSGD_F32;
		array.n_dims = tensor->n_dims;
		memcpy(array.dims, tensor->dims, sizeof(array.dims));
		status = writer->put(writer->user, &array, view + tensor->offset);
	}
	(void)nn_view_end(t->nn, view, values, net->n_params, false, t->error);
	return status;
}

static psgd_status put_running(const struct psgd_state_writer *writer, struct trainer *t)
{
	size_t n = t->net.n_running;
	float *view;
	psgd_status status = nn_view(t->nn, t->net.running, n, &view, t->error);

	if (!status)
		status = put_vector(writer, "running", PSGD_F32, n, view);
	(void)nn_view_end(t->nn, view, t->net.running, n, false, t->error);
	return status;
}

static psgd_status save_state(void *user, const struct psgd_state_writer *writer)
{
	struct trainer *t = user;
	const struct counts counts = {t->iteration, t->epoch, t->batch, t->samples,
		t->nonfinite_steps, t->sums.loss.samples, t->sums.grad_norms, t->loader.skipped,
		t->calibration.iteration};
	const struct sums sums = {t->sums.loss.sum, t->sums.grad_norm, t->sums.grad_sum_norm};
	psgd_status status = put_tensors(writer, t, "params", t->net.params);

	if (!status)
		status = put_tensors(writer, t, "momentum", t->momentum);
	if (!status)
		status = put_running(writer, t);
	if (!status)
		status = put_vector(writer, "counts", PSGD_U8, sizeof(counts), &counts);
	if (!status)
		status = put_vector(writer, "sums", PSGD_F64, sizeof(sums) / sizeof(double), &sums);
	/* Rows whose verdict is still to come. */
	if (!status && t->calibration.rows)
		status = put_vector(writer, "calibration", PSGD_U8,
			t->calibration.n_rows * sizeof(*t->calibration.rows), t->calibration.rows);
	return status;
}

static psgd_status read_tensors(
	const struct psgd_state_reader *reader, struct trainer *t, const char *group, float *values)
{
	const struct net *net = &t->net;
	float *view;
	psgd_status status = nn_view(t->nn, values, net->n_params, &view, t->error), ended;

	for (size_t i = 0; i < net->n_tensors && !status; i++) {
		const struct net_tensor *tensor = &net->tensor[i];
		char name[NET_NAME_BYTES + 16];

		tensor_name(name, group, tensor->name);
		status = reader->read(
			reader->user, name, view + tensor->offset, tensor->count * sizeof(float));
	}
	ended = nn_view_end(t->nn, view, values, net->n_params, !status, t->error);
	return status ? status : ended;
}

static psgd_status read_running(const struct psgd_state_reader *reader, struct trainer *t)
{
	size_t n = t->net.n_running;
	float *view;
	psgd_status status = nn_view(t->nn, t->net.running, n, &view, t->error), ended;

	if (!status)
		status = reader->read(reader->user, "running", view, n * sizeof(float));
	ended = nn_view_end(t->nn, view, t->net.running, n, !status, t->error);
	return status ? status : ended;
}

static psgd_status load_place(struct trainer *t, const struct psgd_state_reader *reader)
{
	struct counts counts;
	struct sums sums;
	psgd_status status = reader->read(reader->user, "counts", &counts, sizeof(counts));

	if (!status)
		status = reader->read(reader->user, "sums", &sums, sizeof(sums));
	if (status)
		return status;
	if (counts.batch > t->loader.sampler.iterations)
		return PSGD_ERR_MISMATCH;
	t->iteration = counts.iteration;
	t->epoch = counts.epoch;
	t->batch = (size_t)counts.batch;
	t->samples = counts.samples;
	t->nonfinite_steps = (unsigned)counts.nonfinite_steps;
	t->loader.skipped = counts.epoch_skipped;
	t->calibration.iteration = counts.calibration_iteration;
	t->sums = (struct epoch_sums){
		.loss = {.sum = sums.epoch_loss, .samples = (size_t)counts.epoch_samples},
		.grad_norm = sums.epoch_grad_norm,
		.grad_norms = counts.epoch_grad_norms,
		.grad_sum_norm = sums.grad_sum_norm};
	return PSGD_OK;
}

static psgd_status load_calibration(struct trainer *t, const struct psgd_state_reader *reader)
{
	struct calibration *calibration = &t->calibration;
	struct psgd_state_array found = PSGD_INIT(psgd_state_array);
	size_t bytes, each = sizeof(*calibration->rows);

	if (reader->find(reader->user, "calibration", &found) == PSGD_ERR_INVALID)
		return PSGD_OK;
	bytes = found.n_dims == 1 ? (size_t)found.dims[0] : 0;
	if (bytes == 0 || bytes % each != 0)
		return PSGD_ERR_MISMATCH;
	calibration_finish(calibration);
	calibration->rows = calloc(bytes / each, each);
	if (!calibration->rows)
		return PSGD_ERR_NOMEM;
	calibration->n_rows = bytes / each;
	return reader->read(reader->user, "calibration", calibration->rows, bytes);
}

static psgd_status load_state(void *user, const struct psgd_state_reader *reader)
{
	struct trainer *t = user;
	psgd_status status = read_tensors(reader, t, "params", t->net.params);

	if (!status)
		status = read_tensors(reader, t, "momentum", t->momentum);
	if (!status)
		status = read_running(reader, t);
	if (!status)
		status = load_place(t, reader);
	return status ? status : load_calibration(t, reader);
}

psgd_status checkpoint_restore(struct trainer *t)
{
	uint64_t hash = 0;
	psgd_status status;

	if (!psgd_stack_resumes(t->stack, NULL))
		return PSGD_OK;
	status = psgd_stack_load(t->stack, load_state, t);
	if (!status) {
		status = step_state_hash(t, &hash);
		if (status)
			return status;
	}
	if (!status)
		status = psgd_stack_compare(t->stack, "parameters, momentum or position", hash);
	if (status)
		return trainer_fail(t, status, "going on from a checkpoint");
	(void)printf("going on from iteration %" PRIu64 " of %" PRIu64 ", epoch %" PRIu64 "\n",
		t->iteration, t->total_iterations, t->epoch + 1);
	(void)fflush(stdout);
	return PSGD_OK;
}

static psgd_status save(struct trainer *t)
{
	struct psgd_checkpoint_position position = PSGD_INIT(psgd_checkpoint_position);
	psgd_status status;

	position.iteration = t->iteration;
	position.epoch = t->epoch;
	status = psgd_stack_save(t->stack, &position, save_state, t);
	/* Writing is no step's compute time. */
	if (!status)
		status = psgd_session_begin_step(t->session);
	return status ? trainer_fail(t, status, "checkpoint") : PSGD_OK;
}

static bool is_every(uint64_t n, unsigned every)
{
	return every > 0 && n % every == 0;
}

static bool is_last(const struct trainer *t)
{
	const struct psgd_config_checkpoint *config = &t->config->checkpoint;

	return t->iteration == t->total_iterations && (config->every_epochs || config->every_iters);
}

psgd_status checkpoint_after_step(struct trainer *t)
{
	if (t->batch >= t->loader.sampler.iterations)
		return PSGD_OK;
	if (!is_last(t) && !is_every(t->iteration, t->config->checkpoint.every_iters))
		return PSGD_OK;
	return save(t);
}

psgd_status checkpoint_after_epoch(struct trainer *t)
{
	const struct psgd_config_checkpoint *config = &t->config->checkpoint;

	if (!is_last(t) && !is_every(t->epoch, config->every_epochs) &&
		!is_every(t->iteration, config->every_iters))
		return PSGD_OK;
	return save(t);
}
