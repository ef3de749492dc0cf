/*
 * A compressor of one's own: of each tensor only the largest values travel, with their places, and
 * what stays behind is added to the next gradient (top-k with error feedback). Places differ from
 * worker to worker, so nothing can be summed on the way: the round is an all-gather.
 *     cc own_compressor.c $(pkg-config --cflags --libs psgd) -lm && ./a.out
 */
#include "tiny.h"

enum { WORKERS = 3, STEPS = 400, PART = 10 }; /* one value in PART travels */

/* What a message is made of. */
struct entry {
	uint32_t at; /* place in the tensor */
	float value;
};

struct topk {
	struct psgd_scope scope;
	float *error[TENSORS]; /* what stayed behind; this example knows its tensors */
	float *sorted;	       /* room to find the k-th largest */
};

static int64_t count_of(uint32_t id)
{
	return psgd_tensor_count(&tiny_tensors[id]);
}

static int64_t kept_of(uint32_t id)
{
	return (count_of(id) + PART - 1) / PART;
}

static void topk_detach(void *self)
{
	struct topk *topk = (struct topk *)self;

	for (int t = 0; t < TENSORS; t++) {
		free(topk->error[t]);
		topk->error[t] = NULL;
	}
	free(topk->sorted);
	topk->sorted = NULL;
}

static psgd_status topk_attach(void *self, const struct psgd_scope *scope)
{
	struct topk *topk = (struct topk *)self;
	int failed = 0;

	topk->scope = *scope;
	topk->sorted = (float *)malloc(ROWS * COLS * sizeof(float));
	for (uint32_t t = 0; t < TENSORS; t++) {
		topk->error[t] = (float *)calloc((size_t)count_of(t), sizeof(float));
		failed |= !topk->error[t];
	}
	if (!failed && topk->sorted)
		return PSGD_OK;
	topk_detach(topk);
	return PSGD_ERR_NOMEM;
}

/* How many bytes each worker gathers: a function of the shapes, so alike on all of them. */
static psgd_status topk_plan(
	void *self, const struct psgd_bucket *bucket, uint64_t step, struct psgd_plan *plan)
{
	(void)self, (void)step;
	memset(plan, 0, sizeof(*plan));
	plan->size = sizeof(*plan);
	plan->n_rounds = 1;
	plan->round[0].kind = PSGD_ALLGATHER;
	plan->round[0].dtype = PSGD_U8;
	for (size_t i = 0; i < bucket->n_grads; i++) {
		uint32_t id = bucket->grads[i].id;

		plan->raw_bytes += (uint64_t)count_of(id) * sizeof(float);
		plan->round[0].count += kept_of(id) * (int64_t)sizeof(struct entry);
	}
	return PSGD_OK;
}

static int descending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x < y) - (x > y);
}

/* Gradient + error: the largest go into the message. The error itself stays as it was. */
static void encode(struct topk *topk, const struct psgd_grad *grad, struct entry *out)
{
	int64_t count = count_of(grad->id), room = kept_of(grad->id);
	float least, total = 0;

	for (int64_t i = 0; i < count; i++) {
		grad->data[i] += topk->error[grad->id][i];
		topk->sorted[i] = fabsf(grad->data[i]);
		total += topk->sorted[i];
	}
	if (!isfinite(total)) {
		for (int64_t k = 0; k < room; k++)
			out[k].value = NAN; /* all workers see it, and leave this bucket out */
		return;
	}
	qsort(topk->sorted, (size_t)count, sizeof(float), descending);
	least = topk->sorted[room - 1];
	for (int64_t i = 0; i < count && room > 0; i++) {
		if (fabsf(grad->data[i]) < least)
			continue;
		out->at = (uint32_t)i;
		out->value = grad->data[i];
		out++;
		room--;
	}
}

/* The mean of what all have sent; what this worker has not sent is the new error. */
static psgd_status decode(
	struct topk *topk, const struct psgd_grad *grad, const struct entry *first, size_t block)
{
	uint32_t n = topk->scope.n_workers;
	float *error = topk->error[grad->id];
	size_t count = (size_t)count_of(grad->id), kept = (size_t)kept_of(grad->id);

	memcpy(error, grad->data, count * sizeof(float));
	memset(grad->data, 0, count * sizeof(float));
	for (uint32_t w = 0; w < n; w++) {
		for (const struct entry *x = first + w * block; x < first + w * block + kept; x++) {
			if (x->at >= count)
				return PSGD_ERR_MISMATCH; /* never trust a place that came */
			grad->data[x->at] += x->value / (float)n;
			if (w == topk->scope.worker)
				error[x->at] = 0;
		}
	}
	return PSGD_OK;
}

/* As compressor.h asks: NaN for the trainer, and no change of state. */
static void leave_out(struct psgd_round *round)
{
	for (size_t i = 0; i < round->bucket->n_grads; i++) {
		const struct psgd_grad *grad = &round->bucket->grads[i];

		for (int64_t k = 0; k < count_of(grad->id); k++)
			grad->data[k] = NAN;
	}
	round->nonfinite = 1;
}

/* run(0) fills this worker's block; run(1) has the blocks of all workers before it. */
static psgd_status topk_run(void *self, struct psgd_round *round)
{
	struct topk *topk = (struct topk *)self;
	struct entry *blocks = (struct entry *)round->message[0], *at = blocks;
	psgd_status status = PSGD_OK;
	size_t block = 0;

	for (size_t i = 0; i < round->bucket->n_grads; i++)
		block += (size_t)kept_of(round->bucket->grads[i].id);
	if (round->index == 0)
		at += topk->scope.worker * block;
	for (size_t k = 0; round->index == 1 && k < topk->scope.n_workers * block; k++) {
		if (!isfinite(blocks[k].value)) {
			leave_out(round);
			return PSGD_OK;
		}
	}
	for (size_t i = 0; i < round->bucket->n_grads && status == PSGD_OK; i++) {
		const struct psgd_grad *grad = &round->bucket->grads[i];

		if (round->index == 0)
			encode(topk, grad, at);
		else
			status = decode(topk, grad, at, block);
		at += kept_of(grad->id);
	}
	return status;
}

/* In the order of compressor.h. NULL is not supported: this compressor has no rank. */
static const struct psgd_compressor_ops topk_ops = {sizeof(struct psgd_compressor_ops), "topk",
	topk_attach, topk_detach, topk_plan, NULL, topk_run, NULL, NULL, NULL, NULL, NULL, NULL,
	NULL};

/* Nothing is lost: sum of inputs - what still waits as error = sum of outputs, over all workers. */
static void check_conservation(const struct topk *topk, psgd_session *session, double *inputs,
	const double *outputs, uint32_t worker)
{
	double worst = 0, largest = 0;

	for (int i = 0; i < ROWS * COLS; i++) {
		inputs[i] -= (double)topk->error[WEIGHT][i];
		largest = fmax(largest, fabs((double)topk->error[WEIGHT][i]));
	}
	must(psgd_session_sum(session, inputs, ROWS * COLS), session);
	for (int i = 0; i < ROWS * COLS; i++)
		worst = fmax(worst, fabs(inputs[i] - (double)WORKERS * outputs[i]));
	if (worker == 0)
		printf("conservation: off by %.1e at most, errors up to %.1e wait\n", worst,
			largest);
	if (worst > 1e-3)
		exit(EXIT_FAILURE);
}

static void *train(void *argument)
{
	const struct psgd_transport *transport = (const struct psgd_transport *)argument;
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct topk topk;
	struct psgd_compressor compressor = {&topk_ops, &topk};
	struct tiny model, gradient;
	uint32_t random = transport->worker;
	psgd_session *session = NULL;
	double *inputs = (double *)calloc(2 * ROWS * COLS, sizeof(double));
	double *outputs = inputs + ROWS * COLS;

	if (!inputs)
		exit(EXIT_FAILURE);
	memset(&model, 0, sizeof(model));
	options.compressor = &compressor;
	options.transport = transport;
	must(psgd_session_open(tiny_tensors, TENSORS, &options, &session), NULL);
	for (int step = 0; step < STEPS; step++) {
		struct psgd_report report = PSGD_INIT(psgd_report);
		double loss = tiny_backward(&model, &random, &gradient);

		for (int i = 0; i < ROWS * COLS; i++)
			inputs[i] += (double)gradient.weight[i / COLS][i % COLS];
		tiny_average(session, &gradient, &report);
		for (int i = 0; i < ROWS * COLS; i++)
			outputs[i] += (double)gradient.weight[i / COLS][i % COLS];
		tiny_descend(&model, &gradient, 0.05f);
		if (transport->worker == 0 && (step % 50 == 0 || step == STEPS - 1))
			printf("step %3d  loss %8.5f  gradients %d bytes, sent as %d\n", step, loss,
				(int)report.raw_bytes, (int)report.payload_bytes);
	}
	check_conservation(&topk, session, inputs, outputs, transport->worker);
	psgd_session_close(&session);
	free(inputs);
	return NULL;
}

int main(void)
{
	struct psgd_transport transport[WORKERS];

	must(psgd_transport_local(WORKERS, 0, transport), NULL);
	tiny_threads(transport, WORKERS, train);
	for (int w = 0; w < WORKERS; w++)
		psgd_transport_destroy(&transport[w]);
	return EXIT_SUCCESS;
}
