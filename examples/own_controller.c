/*
 * A controller of one's own: the matrix rank is halved whenever the gradients have shrunk to a
 * quarter, because then the steps are small and their directions matter less. It is asked on worker
 * 0 only; the library sends its decision to the others.
 *     cc own_controller.c $(pkg-config --cflags --libs psgd) -lm && ./a.out
 */
#include "tiny.h"

enum { WORKERS = 3, STEPS = 210, WINDOW = 10, FIRST_RANK = 8 };

struct halving {
	uint32_t rank;
	double before; /* norm of the mean gradient when the rank was chosen; 0: not seen yet */
};

/* What the library shall find out in this step. A function of the step: alike on all workers. */
static uint32_t halving_needs(void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)self, (void)epoch, (void)epoch_end;
	if ((step + 1) % WINDOW)
		return PSGD_NEED_GRAD_SUM;
	return PSGD_NEED_GRAD_SUM | PSGD_NEED_GRAD_NORM | PSGD_NEED_DECISION;
}

/* Called before the first step, and after each step that needs a decision. */
static psgd_status halving_decide(void *self, const struct psgd_observation *seen, uint32_t *ranks,
	struct psgd_decision *decision)
{
	struct halving *halving = (struct halving *)self;

	decision->regime = "hold";
	if (seen->first) {
		halving->rank = FIRST_RANK;
		halving->before = 0;
	} else {
		double norm = seen->grad_sum_norm / (double)seen->grad_sum_steps;

		decision->value = norm;
		decision->threshold = halving->before / 4;
		if (norm < halving->before / 4 && halving->rank > 1) {
			halving->rank /= 2;
			halving->before = norm;
			decision->regime = "halve";
		} else if (halving->before == 0) {
			halving->before = norm;
		}
		decision->reset_grad_sum = 1;
	}
	for (size_t i = 0; i < seen->n_tensors; i++)
		ranks[i] = halving->rank; /* 0 would send a tensor as it is */
	decision->rank = decision->choice = halving->rank;
	decision->cap = PSGD_RANK_DENSE; /* nothing here knows the network */
	return PSGD_OK;
}

/* Whoever creates the object ends it: here it is on the stack. */
static const struct psgd_controller_ops halving_ops = {sizeof(struct psgd_controller_ops),
	"halving", halving_needs, halving_decide, NULL, NULL, NULL};

static void *train(void *argument)
{
	const struct psgd_transport *transport = (const struct psgd_transport *)argument;
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct halving halving = {FIRST_RANK, 0};
	struct psgd_controller controller = {&halving_ops, &halving};
	struct psgd_compressor compressor;
	struct tiny model, gradient;
	uint32_t random = transport->worker;
	psgd_session *session = NULL;

	memset(&model, 0, sizeof(model));
	must(psgd_compressor_powersgd(NULL, &compressor), NULL);
	options.compressor = &compressor;
	options.controller = &controller;
	options.transport = transport;
	must(psgd_session_open(tiny_tensors, TENSORS, &options, &session), NULL);
	for (int step = 0; step < STEPS; step++) {
		struct psgd_report report = PSGD_INIT(psgd_report);
		double loss = tiny_backward(&model, &random, &gradient);

		tiny_average(session, &gradient, &report);
		tiny_descend(&model, &gradient, 0.1f);
		if (transport->worker)
			continue;
		if (report.decided && report.decision.changed && step > 0)
			printf("step %3d  %s to r=%d: %.4f is less than %.4f\n", step,
				report.decision.regime, (int)report.decision.rank,
				report.decision.value, report.decision.threshold);
		if (step % 30 == 0 || step == STEPS - 1)
			printf("step %3d  loss %8.5f  r=%d  sent as %d bytes\n", step, loss,
				(int)report.rank_max, (int)report.payload_bytes);
	}
	psgd_session_close(&session);
	psgd_compressor_destroy(&compressor);
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
