/*
 * Three workers train one small model, and send each other gradients that are compressed.
 *     cc quick_start.c $(pkg-config --cflags --libs psgd) -lm && ./a.out
 */
#include "tiny.h"

enum { WORKERS = 3, STEPS = 120 };

static void print(const struct psgd_report *report, double loss)
{
	if (report->step % 20 == 0 || report->step == STEPS - 1)
		printf("step %3d  loss %8.5f  gradients %d bytes, sent as %d\n", (int)report->step,
			loss, (int)report->raw_bytes, (int)report->payload_bytes);
}

/* listing */
static void *train(void *argument)
{
	const struct psgd_transport *transport = (const struct psgd_transport *)argument;
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_compressor compressor;
	psgd_session *session = NULL;
	struct tiny model, gradient;
	uint32_t random = transport->worker; /* each worker draws examples of its own */

	memset(&model, 0, sizeof(model)); /* alike on all workers */

	/* Open a session: which tensors there are, how to compress, how to talk. */
	powersgd.rank = 2;
	must(psgd_compressor_powersgd(&powersgd, &compressor), NULL);
	options.compressor = &compressor;
	options.transport = transport;
	must(psgd_session_open(tiny_tensors, TENSORS, &options, &session), NULL);

	for (int step = 0; step < STEPS; step++) {
		struct psgd_report report = PSGD_INIT(psgd_report);
		struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
		double loss = tiny_backward(&model, &random, &gradient);
		const struct psgd_grad grads[] = {
			{WEIGHT, gradient.weight[0]}, {BIAS, gradient.bias}};

		/*
		 * Submit: returns at once. A model of many layers submits a bucket as soon as
		 * backward has its gradients, so that sending hides behind the other layers.
		 */
		bucket.grads = grads;
		bucket.n_grads = TENSORS;
		must(psgd_session_submit(session, &bucket, NULL, NULL), session);

		/* Finish the step: now the gradients are the mean over all workers. */
		must(psgd_session_finish_step(session, NULL, &report), session);
		tiny_descend(&model, &gradient, 0.2f);
		if (transport->worker == 0)
			print(&report, loss);
	}

	/* Close. Everything else belongs to who made it. */
	psgd_session_close(&session);
	psgd_compressor_destroy(&compressor);
	return NULL;
}
/* end of listing */

int main(void)
{
	struct psgd_transport transport[WORKERS];

	/*
	 * Workers that are threads of one process. Processes, on one machine or on many, call
	 * psgd_transport_gloo instead, each for itself, and nothing else changes: processes.c.
	 */
	must(psgd_transport_local(WORKERS, 0, transport), NULL);
	tiny_threads(transport, WORKERS, train);
	for (int w = 0; w < WORKERS; w++)
		psgd_transport_destroy(&transport[w]);
	return EXIT_SUCCESS;
}
