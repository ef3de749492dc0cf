/*
 * The quick start with workers that are processes and talk TCP by Gloo. They have to find each
 * other first: for that a trainer lends the library an all-gather of bytes, which is used a few
 * times while the transport is opened. Here it goes over socket pairs; MPI_Allgather would do, and
 * libpsgd-experiment has one that needs only the address of worker 0
 * (psgd/experiment/rendezvous.h). cc processes.c $(pkg-config --cflags --libs psgd) -lm && ./a.out
 */
#include "pipes.h"

enum { STEPS = 120 };

static psgd_status allgather(void *self, const void *send, void *recv, size_t bytes)
{
	pipes_gather(*(const int *)self, send, bytes, recv);
	return PSGD_OK;
}

static void open_gloo(int *worker, struct psgd_transport *transport)
{
	struct psgd_gloo_options options = PSGD_INIT(psgd_gloo_options);
	const struct psgd_oob oob = {allgather, worker, (uint32_t)*worker, WORKERS};
	char why[256] = "";

	options.oob = &oob;
	options.address = "127.0.0.1"; /* this worker's own; or name an interface */
	options.error = why;
	options.error_bytes = sizeof(why);
	if (psgd_transport_gloo(&options, transport) == PSGD_OK)
		return;
	fprintf(stderr, "worker %d: %s\n", *worker, why);
	exit(EXIT_FAILURE);
}

static void train(int worker)
{
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_compressor compressor;
	struct psgd_transport transport;
	struct tiny model, gradient;
	uint32_t random = (uint32_t)worker;
	psgd_session *session = NULL;

	memset(&model, 0, sizeof(model));
	open_gloo(&worker, &transport);
	powersgd.rank = 2;
	must(psgd_compressor_powersgd(&powersgd, &compressor), NULL);
	options.compressor = &compressor;
	options.transport = &transport;
	must(psgd_session_open(tiny_tensors, TENSORS, &options, &session), NULL);
	for (int step = 0; step < STEPS; step++) {
		struct psgd_report report = PSGD_INIT(psgd_report);
		double loss = tiny_backward(&model, &random, &gradient);

		tiny_average(session, &gradient, &report);
		tiny_descend(&model, &gradient, 0.2f);
		if (worker == 0 && (step % 20 == 0 || step == STEPS - 1))
			printf("step %3d  loss %8.5f  gradients %d bytes, sent as %d\n", step, loss,
				(int)report.raw_bytes, (int)report.payload_bytes);
	}
	psgd_session_close(&session);
	psgd_compressor_destroy(&compressor);
	psgd_transport_destroy(&transport);
}

int main(void)
{
	return pipes_workers(train);
}
