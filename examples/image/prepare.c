/* Plans of a net: what lives when, and where. SPDX-License-Identifier: MIT */
#include "net.h"

#include <stdlib.h>

#include "arena.h"
#include "layers.h"

#define NONE ((size_t)-1)
/* Far above what memory holds, far below what overflows. */
#define MOST_VALUES ((int64_t)1 << 42)

/* A part of a value's gradient. shared: another value's gradient is the same buffer. */
struct part {
	size_t id;
	bool shared;
};

/* Ids of buffers, while it is not known where they are. */
struct value {
	size_t id;
	size_t uses;
	struct part part[2];
	size_t n_parts;
};

struct cell_ids {
	size_t x[NET_MAX_INPUTS], y, statistics, part[2], dy, dx;
};

/*
 * Steps are numbered: layer i runs forward in step i and backward in step 2 * n_layers - i; the
 * loss is computed in step n_layers between the two.
 */
struct draft {
	const struct net *net;
	const struct net_plan *plan;
	struct arena_buffer *buffer;
	size_t n_buffers;
	struct value *value; /* n_layers + 1 */
	struct cell_ids *cell;
	size_t diff_start;
};

static void draft_finish(struct draft *draft)
{
	free(draft->buffer);
	free(draft->value);
	free(draft->cell);
}

static psgd_status draft_init(struct draft *draft, const struct net *net, struct net_plan *plan)
{
	size_t n = net->n_layers;

	/* Of a layer: its result, its statistics, a gradient and a sum of two. */
	*draft = (struct draft){.net = net, .plan = plan, .diff_start = NONE};
	draft->buffer = calloc(4 * n + 2, sizeof(*draft->buffer));
	draft->value = calloc(n + 1, sizeof(*draft->value));
	draft->cell = calloc(n ? n : 1, sizeof(*draft->cell));
	return draft->buffer && draft->value && draft->cell ? PSGD_OK : PSGD_ERR_NOMEM;
}

static size_t backward_step(const struct draft *draft, size_t layer)
{
	return 2 * draft->net->n_layers - layer;
}

static size_t buffer_new(struct draft *draft, size_t values, size_t step)
{
	draft->buffer[draft->n_buffers] =
		(struct arena_buffer){.values = net_padded(values), .first = step, .last = step};
	return draft->n_buffers++;
}

static void buffer_use(struct draft *draft, size_t id, size_t step)
{
	if (id != NONE && draft->buffer[id].last < step)
		draft->buffer[id].last = step;
}

static size_t values_of(const struct draft *draft, const struct nn_shape *shape)
{
	return net_values(shape, draft->plan->batch);
}

/* Nobody but this layer wants what it would overwrite. */
static bool in_place(const struct draft *draft, const struct net_layer *layer)
{
	size_t from = layer->from[0];

	return layer->kind->elementwise && from > 0 && draft->value[from].uses == 1 &&
	       !draft->net->layer[from - 1].kind->keeps_y;
}

static void draft_forward(struct draft *draft)
{
	const struct net *net = draft->net;
	bool train = draft->plan->train;
	size_t n = net->n_layers, end = 2 * n;

	/* The input stays, so that a pass can be repeated. */
	draft->value[0].id = buffer_new(draft, values_of(draft, &net->in), 0);
	buffer_use(draft, draft->value[0].id, end);
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < net->layer[i].n_from; k++)
			draft->value[net->layer[i].from[k]].uses++;
	for (size_t i = 0; i < n; i++) {
		const struct net_layer *layer = &net->layer[i];
		struct cell_ids *cell = &draft->cell[i];
		size_t back = train ? backward_step(draft, i) : i;

		*cell = (struct cell_ids){{NONE, NONE}, NONE, NONE, {NONE, NONE}, NONE, NONE};
		for (size_t k = 0; k < layer->n_from; k++) {
			cell->x[k] = draft->value[layer->from[k]].id;
			buffer_use(draft, cell->x[k], layer->kind->keeps_x ? back : i);
		}
		cell->y = in_place(draft, layer)
				  ? cell->x[0]
				  : buffer_new(draft, values_of(draft, &layer->out), i);
		buffer_use(draft, cell->y, layer->kind->keeps_y ? back : i);
		draft->value[i + 1].id = cell->y;
		if (!layer->kind->statistics || !train)
			continue;
		cell->statistics = buffer_new(draft, 2 * net_padded((size_t)layer->in.c), i);
		buffer_use(draft, cell->statistics, back);
	}
	buffer_use(draft, draft->value[n].id, end);
}

static void part_add(struct value *value, size_t id, bool shared)
{
	value->part[value->n_parts++] = (struct part){id, shared};
}

/* A part that may be overwritten; NONE: neither. */
static size_t own_part(const struct value *value)
{
	for (size_t k = value->n_parts; k-- > 0;)
		if (!value->part[k].shared)
			return value->part[k].id;
	return NONE;
}

static void draft_gradient(struct draft *draft, size_t i)
{
	const struct net_layer *layer = &draft->net->layer[i];
	struct cell_ids *cell = &draft->cell[i];
	struct value *value = &draft->value[i + 1];
	size_t step = backward_step(draft, i), own = own_part(value);
	bool wanted = false;

	for (size_t k = 0; k < value->n_parts; k++) {
		cell->part[k] = value->part[k].id;
		buffer_use(draft, cell->part[k], step);
	}
	for (size_t k = 0; k < layer->n_from; k++)
		wanted = wanted || layer->from[k] > 0;
	if (layer->kind->elementwise) {
		cell->dx = own;
	} else {
		cell->dy = cell->part[0];
		if (value->n_parts > 1)
			cell->dy = own;
		if (cell->dy == NONE)
			cell->dy = buffer_new(draft, values_of(draft, &layer->out), step);
	}
	/* The gradient of a norm's parameters comes with that of its input. */
	if (cell->dx == NONE && (wanted || !layer->kind->back_data))
		cell->dx = buffer_new(draft, values_of(draft, &layer->in), step);
	for (size_t k = 0; k < layer->n_from; k++)
		if (layer->from[k] > 0)
			part_add(&draft->value[layer->from[k]], cell->dx, layer->n_from > 1);
}

static void draft_backward(struct draft *draft)
{
	const struct net *net = draft->net;
	size_t n = net->n_layers;
	const struct nn_shape *out = n ? &net->layer[n - 1].out : &net->in;

	draft->diff_start = buffer_new(draft, values_of(draft, out), n);
	part_add(&draft->value[n], draft->diff_start, false);
	for (size_t i = n; i-- > 0;)
		draft_gradient(draft, i);
}

static float *place(const struct draft *draft, const struct net_plan *plan, size_t id)
{
	return id == NONE ? NULL : plan->memory + draft->buffer[id].offset;
}

static psgd_status plan_place(struct draft *draft, struct net_plan *plan)
{
	const struct net *net = draft->net;

	plan->n_values = arena_place(draft->buffer, draft->n_buffers);
	plan->memory = nn_alloc(net->nn, plan->n_values);
	if (!plan->memory)
		return PSGD_ERR_NOMEM;
	plan->first = plan->input = place(draft, plan, draft->value[0].id);
	plan->last = plan->output = place(draft, plan, draft->value[net->n_layers].id);
	plan->diff = plan->diff_start = place(draft, plan, draft->diff_start);
	for (size_t i = 0; i < net->n_layers; i++) {
		const struct cell_ids *ids = &draft->cell[i];
		struct net_cell *cell = &plan->cell[i];

		for (size_t k = 0; k < NET_MAX_INPUTS; k++)
			cell->x[k] = place(draft, plan, ids->x[k]);
		cell->y = place(draft, plan, ids->y);
		cell->mean = place(draft, plan, ids->statistics);
		if (cell->mean)
			cell->variance = cell->mean + net_padded((size_t)net->layer[i].in.c);
		for (size_t k = 0; k < 2; k++)
			cell->part[k] = place(draft, plan, ids->part[k]);
		cell->dy = place(draft, plan, ids->dy);
		cell->dx = place(draft, plan, ids->dx);
	}
	return PSGD_OK;
}

static psgd_status plan_memory(struct net *net, struct net_plan *plan)
{
	struct draft draft;
	psgd_status status = draft_init(&draft, net, plan);

	if (!status) {
		draft_forward(&draft);
		if (plan->train)
			draft_backward(&draft);
		status = plan_place(&draft, plan);
	}
	draft_finish(&draft);
	return status;
}

/* Of an engine with memory of its own: what the caller fills and reads is the host's. */
static psgd_status plan_host(struct net *net, struct net_plan *plan)
{
	struct nn_shape in = net->in;
	size_t outputs = net_values(
		net->n_layers ? &net->layer[net->n_layers - 1].out : &net->in, plan->batch);

	if (!net->nn->device)
		return PSGD_OK;
	plan->input = plan->diff_start = NULL;
	plan->output = nn_host_alloc(net->nn, outputs);
	if (plan->train)
		plan->diff_start = nn_host_alloc(net->nn, outputs);
	if (!plan->output || (plan->train && !plan->diff_start))
		return image_fail(
			&net->error, PSGD_ERR_NOMEM, "out of memory that the device can reach");
	in.n = plan->batch;
	return net->nn->device->feed_open(net->nn, &in, &plan->feed, &plan->input, &net->error);
}

/* And the host computes the statistics of norms that sync. */
static psgd_status plan_statistics(struct net *net, struct net_plan *plan)
{
	float *next;

	if (!net->nn->device || !net->sync || !plan->train)
		return PSGD_OK;
	next = plan->statistics = net_alloc(net->n_running + 2 * NORM_TILE * net->n_layers);
	if (!next)
		return PSGD_ERR_NOMEM;
	for (size_t i = 0; i < net->n_layers; i++) {
		size_t channels = net_padded((size_t)net->layer[i].in.c);

		if (!net->layer[i].kind->statistics)
			continue;
		plan->cell[i].mean = next;
		plan->cell[i].variance = next + channels;
		next += 2 * channels;
	}
	return PSGD_OK;
}

static bool fits(const struct net *net, int64_t batch)
{
	for (size_t i = 0; i <= net->n_layers; i++) {
		const struct nn_shape *shape = i ? &net->layer[i - 1].out : &net->in;

		if (batch < 1 || batch > MOST_VALUES / (int64_t)net_values(shape, 1))
			return false;
	}
	return true;
}

static psgd_status plan_ops(struct net *net, struct net_plan *plan)
{
	psgd_status status = PSGD_OK;

	for (size_t i = 0; !status && i < net->n_layers; i++) {
		const struct net_layer *layer = &net->layer[i];

		plan->cell[i].batch = plan->batch;
		plan->cell[i].train = plan->train;
		if (layer->kind->prepare)
			status = layer->kind->prepare(net, layer, &plan->cell[i]);
	}
	return status;
}

void net_plan_free(struct net_plan *plan)
{
	if (plan->feed)
		plan->nn->device->feed_close(plan->nn, plan->feed);
	for (size_t i = 0; i < plan->n_cells; i++) {
		nn_op_free(plan->cell[i].back_data);
		nn_op_free(plan->cell[i].back_params);
		nn_op_free(plan->cell[i].forward);
	}
	if (plan->nn->device) {
		nn_host_free(plan->nn, plan->output == plan->last ? NULL : plan->output);
		nn_host_free(plan->nn, plan->diff_start == plan->diff ? NULL : plan->diff_start);
	}
	free(plan->statistics);
	free(plan->cell);
	nn_free(plan->nn, plan->memory);
	free(plan);
}

struct net_plan *net_prepare(struct net *net, int64_t batch, bool train)
{
	struct net_plan *plan;

	for (plan = net->plans; plan; plan = plan->next)
		if (plan->batch == batch && plan->train == train)
			return plan;
	plan = calloc(1, sizeof(*plan));
	if (!plan)
		goto nomem;
	*plan = (struct net_plan){.batch = batch, .train = train, .nn = net->nn};
	plan->cell = calloc(net->n_layers ? net->n_layers : 1, sizeof(*plan->cell));
	if (!plan->cell || !fits(net, batch) || plan_memory(net, plan) ||
		plan_statistics(net, plan))
		goto nomem;
	plan->n_cells = net->n_layers;
	net->unprepared = plan_host(net, plan);
	if (!net->unprepared)
		net->unprepared = plan_ops(net, plan);
	if (net->unprepared) {
		net_plan_free(plan);
		return NULL;
	}
	plan->next = net->plans;
	net->plans = plan;
	return plan;
nomem:
	net->unprepared = image_fail(&net->error, PSGD_ERR_NOMEM,
		"out of memory for a batch of %lld images", (long long)batch);
	if (plan)
		net_plan_free(plan);
	return NULL;
}
