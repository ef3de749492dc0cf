/*
 * A trainer that has collectives of its own: three processes that talk over socket pairs, with an
 * all-gather by hand that stands for MPI, NCCL or torch.distributed. The library does no I/O here:
 * it says which collective comes next.
 *     cc own_collectives.c $(pkg-config --cflags --libs psgd) -lm && ./a.out
 */
#include "pipes.h"

enum { STEPS = 120 };

/* Runs a collective in place. All workers must get the same bits: they add in the same order. */
static void run(int worker, const struct psgd_collective *c)
{
	size_t bytes = (size_t)c->count * psgd_dtype_bytes(c->dtype);
	int own_block = c->kind == PSGD_ALLGATHER ? worker : 0;
	char *blocks = (char *)malloc(bytes * WORKERS);

	if (!blocks)
		exit(EXIT_FAILURE);
	pipes_gather(worker, (char *)c->data + (size_t)own_block * bytes, bytes, blocks);
	switch (c->kind) {
	case PSGD_ALLREDUCE_SUM: /* MPI_Allreduce(MPI_IN_PLACE, c->data, c->count, ..., MPI_SUM) */
		for (int64_t i = 0; i < c->count; i++) {
			float sum = 0;
			double wide_sum = 0;

			for (int w = 0; w < WORKERS && c->dtype == PSGD_F32; w++)
				sum += ((float *)(blocks + (size_t)w * bytes))[i];
			for (int w = 0; w < WORKERS && c->dtype == PSGD_F64; w++)
				wide_sum += ((double *)(blocks + (size_t)w * bytes))[i];
			if (c->dtype == PSGD_F32)
				((float *)c->data)[i] = sum;
			else
				((double *)c->data)[i] = wide_sum;
		}
		break;
	case PSGD_BROADCAST: /* MPI_Bcast(c->data, c->count, ..., c->root) */
		memcpy(c->data, blocks + c->root * bytes, bytes);
		break;
	default: /* PSGD_ALLGATHER: MPI_Allgather(MPI_IN_PLACE, ..., c->data, c->count, ...) */
		memcpy(c->data, blocks, bytes * WORKERS);
	}
	free(blocks);
}

/*
 * An exchange from its beginning to its end. With several under way, PENDING would say that an
 * earlier one must go on first.
 */
static void complete(int worker, psgd_exchange *exchange, psgd_session *session)
{
	struct psgd_collective collective;
	psgd_status status;

	while ((status = psgd_exchange_next(exchange, &collective)) == PSGD_WANT_COLLECTIVE)
		run(worker, &collective);
	must(status, session);
	psgd_exchange_end(&exchange);
}

static void train(int worker)
{
	/* Worker 0 raises the rank from 1 to 2 on the way, which travels as a broadcast. */
	const struct psgd_replay_entry ranks[] = {{0, 1, 0}, {STEPS / 2, 2, 0}};
	struct psgd_rank_control_options control = PSGD_INIT(psgd_rank_control_options);
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct psgd_compressor compressor;
	struct psgd_controller controller;
	struct tiny model, gradient;
	uint32_t random = (uint32_t)worker;
	psgd_session *session = NULL;

	memset(&model, 0, sizeof(model));
	control.choice = PSGD_CHOICE_REPLAY;
	control.replay = ranks;
	control.n_replay = 2;
	must(psgd_controller_rank_control(&control, NULL, 0, &controller), NULL);
	must(psgd_compressor_powersgd(NULL, &compressor), NULL);
	options.compressor = &compressor;
	options.controller = &controller;
	options.worker = (uint32_t)worker; /* there is no transport that would know */
	options.n_workers = WORKERS;
	must(psgd_session_open(tiny_tensors, TENSORS, &options, &session), NULL);

	for (int step = 0; step < STEPS; step++) {
		struct psgd_report report = PSGD_INIT(psgd_report);
		struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
		double loss = tiny_backward(&model, &random, &gradient);
		const struct psgd_grad grads[] = {
			{WEIGHT, gradient.weight[0]}, {BIAS, gradient.bias}};
		psgd_exchange *exchange;

		bucket.grads = grads;
		bucket.n_grads = TENSORS;
		must(psgd_exchange_begin(session, &bucket, NULL, &exchange), session);
		complete(worker, exchange, session); /* the gradients are the mean now */
		must(psgd_exchange_begin_finish(session, NULL, &report, &exchange), session);
		complete(worker, exchange, session);
		tiny_descend(&model, &gradient, 0.2f);
		if (worker == 0 && (step % 20 == 0 || step == STEPS - 1))
			printf("step %3d  loss %8.5f  r=%d  sent as %d bytes\n", step, loss,
				(int)report.rank_max, (int)report.payload_bytes);
	}
	psgd_session_close(&session);
	psgd_controller_destroy(&controller);
	psgd_compressor_destroy(&compressor);
}

int main(void)
{
	return pipes_workers(train);
}
