/*
 * Whole sessions whose collectives are run here, on both sides in lockstep: the sums of the
 * reference go to the tested device, too, so that the gradients must have the same bits.
 * SPDX-License-Identifier: MIT
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/exchange.h>

#include "selftest.h"

#define STEPS 3
#define TENSORS 12
#define BUCKETS 3
#define WORKERS 2
#define PATIENCE_NS INT64_C(30000000000)

struct endpoint {
	struct psgd_compressor compressor;
	psgd_session *session;
	float *gradients; /* of the device */
	struct psgd_grad grads[TENSORS];
	struct psgd_bucket buckets[BUCKETS];
	psgd_exchange *exchange; /* that is under way */
	struct psgd_collective collective;
};

struct pair {
	struct cli_selftest *t;
	struct cli_model model;
	struct endpoint ends[CLI_SIDES][WORKERS];
	void *message[WORKERS]; /* in the host's memory, of the reference */
	void *sum;
	float *host[CLI_SIDES];
	size_t room;
};

static bool ok(struct pair *p, psgd_status status, int side, struct endpoint *e, const char *what)
{
	char text[256] = "";

	if (status >= 0)
		return true;
	if (e->session)
		psgd_session_error(e->session, text, sizeof(text));
	if (*text)
		cli_claim_fails(p->t, CLI_CLAIM_EXCHANGE, "%s: %s", what, text);
	return cli_claim_ok(p->t, CLI_CLAIM_EXCHANGE, status, &p->t->sides[side], what);
}

static psgd_status open_endpoint(struct pair *p, int side, struct endpoint *e, uint32_t worker)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	const struct cli_side *on = &p->t->sides[side];
	const size_t n = p->model.n;
	psgd_status status;

	e->gradients = cli_side_alloc(on, p->model.n_values * sizeof(float));
	if (!e->gradients)
		return PSGD_ERR_NOMEM;
	for (size_t i = 0; i < n; i++)
		e->grads[i] =
			(struct psgd_grad){p->model.tensors[i].id, e->gradients + p->model.at[i]};
	for (size_t b = 0; b < BUCKETS; b++) {
		e->buckets[b] = PSGD_INIT(psgd_bucket);
		e->buckets[b].grads = e->grads + b * n / BUCKETS;
		e->buckets[b].n_grads = (b + 1) * n / BUCKETS - b * n / BUCKETS;
	}
	powersgd.rank = 4;
	powersgd.start_step = 1;
	status = psgd_compressor_powersgd(&powersgd, &e->compressor);
	if (status < 0)
		return status;
	options.device = &on->device;
	options.compressor = &e->compressor;
	options.worker = worker;
	options.n_workers = WORKERS;
	return psgd_session_open(p->model.tensors, n, &options, &e->session);
}

static void close_endpoint(struct pair *p, int side, struct endpoint *e)
{
	const struct cli_side *on = &p->t->sides[side];

	psgd_exchange_end(&e->exchange);
	psgd_session_close(&e->session);
	psgd_compressor_destroy(&e->compressor);
	cli_side_free(on, e->gradients, p->model.n_values * sizeof(float));
}

/* ---- collectives ---- */

/* Those of a compressor's rounds are memory of the device, in its stream's order; others the
 * host's. */
static psgd_status move_message(
	const struct cli_side *on, const struct psgd_collective *c, void *host, bool to_device)
{
	size_t bytes = (size_t)c->count * psgd_dtype_bytes(c->dtype);
	struct cli_side side = {on->device, c->stream};

	if (c->dtype != PSGD_F32 || !cli_side_is_async(on)) {
		memcpy(to_device ? c->data : host, to_device ? host : c->data, bytes);
		return PSGD_OK;
	}
	return to_device ? cli_side_put(&side, c->data, host, bytes)
			 : cli_side_get(&side, host, c->data, bytes);
}

static void add_messages(struct pair *p, const struct psgd_collective *c)
{
	for (int64_t i = 0; i < c->count; i++) {
		if (c->dtype == PSGD_F32)
			((float *)p->sum)[i] =
				((float *)p->message[0])[i] + ((float *)p->message[1])[i];
		else
			((double *)p->sum)[i] =
				((double *)p->message[0])[i] + ((double *)p->message[1])[i];
	}
}

static bool same(const struct psgd_collective *a, const struct psgd_collective *b)
{
	return a->kind == b->kind && a->dtype == b->dtype && a->count == b->count &&
	       a->tag == b->tag;
}

/* The collective that all of them want: what the reference's workers have, to all. */
static bool run_collective(struct pair *p)
{
	const struct psgd_collective *first = &p->ends[CLI_TESTED][0].collective;
	size_t bytes = (size_t)first->count * psgd_dtype_bytes(first->dtype);

	if (bytes > p->room || first->kind != PSGD_ALLREDUCE_SUM) {
		cli_claim_fails(p->t, CLI_CLAIM_EXCHANGE, "a collective that nothing asked for");
		return false;
	}
	for (int k = 0; k < CLI_SIDES * WORKERS; k++) {
		struct endpoint *e = &p->ends[k / WORKERS][k % WORKERS];

		if (!same(&e->collective, first)) {
			cli_claim_fails(p->t, CLI_CLAIM_EXCHANGE,
				"the collectives of the workers, or of the devices, differ");
			return false;
		}
		if (k / WORKERS == CLI_REFERENCE)
			move_message(&p->t->sides[CLI_REFERENCE], &e->collective,
				p->message[k % WORKERS], false);
	}
	add_messages(p, first);
	for (int k = 0; k < CLI_SIDES * WORKERS; k++) {
		struct endpoint *e = &p->ends[k / WORKERS][k % WORKERS];

		if (!ok(p, move_message(&p->t->sides[k / WORKERS], &e->collective, p->sum, true),
			    k / WORKERS, e, "upload"))
			return false;
	}
	p->t->checks[CLI_CLAIM_EXCHANGE].n++;
	return true;
}

/* As far as it goes alone. Of an asynchronous device PENDING is also: not done yet. */
static psgd_status advance(struct endpoint *e)
{
	int64_t deadline = cli_now_ns() + PATIENCE_NS;
	psgd_status status;

	e->collective = PSGD_INIT(psgd_collective);
	while ((status = psgd_exchange_next(e->exchange, &e->collective)) == PSGD_PENDING) {
		if (cli_now_ns() > deadline)
			return PSGD_ERR_TIMEOUT;
		sched_yield();
	}
	return status;
}

/* The exchanges under way on all endpoints, to their ends. */
static bool drive(struct pair *p)
{
	psgd_status status[CLI_SIDES * WORKERS];

	for (;;) {
		for (int k = 0; k < CLI_SIDES * WORKERS; k++) {
			struct endpoint *e = &p->ends[k / WORKERS][k % WORKERS];

			status[k] = advance(e);
			if (!ok(p, status[k], k / WORKERS, e, "exchange"))
				return false;
			if (status[k] != status[0]) {
				cli_claim_fails(p->t, CLI_CLAIM_EXCHANGE,
					"some are done, and some want a collective");
				return false;
			}
		}
		if (status[0] != PSGD_WANT_COLLECTIVE)
			break;
		if (!run_collective(p))
			return false;
	}
	for (int k = 0; k < CLI_SIDES * WORKERS; k++)
		psgd_exchange_end(&p->ends[k / WORKERS][k % WORKERS].exchange);
	return true;
}

/* ---- steps ---- */

static bool run_bucket(struct pair *p, size_t bucket)
{
	for (int k = 0; k < CLI_SIDES * WORKERS; k++) {
		int side = k / WORKERS;
		struct endpoint *e = &p->ends[side][k % WORKERS];

		if (!ok(p,
			    psgd_exchange_begin(e->session, &e->buckets[bucket],
				    p->t->sides[side].stream, &e->exchange),
			    side, e, "beginning of an exchange"))
			return false;
	}
	return drive(p);
}

static bool finish_step(struct pair *p)
{
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);

	for (int k = 0; k < CLI_SIDES * WORKERS; k++) {
		struct endpoint *e = &p->ends[k / WORKERS][k % WORKERS];

		if (!ok(p, psgd_exchange_begin_finish(e->session, &info, NULL, &e->exchange),
			    k / WORKERS, e, "end of a step"))
			return false;
	}
	return drive(p);
}

static bool put_gradients(struct pair *p)
{
	cli_model_draw(p->t, &p->model);
	for (int k = 0; k < CLI_SIDES * WORKERS; k++) {
		struct endpoint *e = &p->ends[k / WORKERS][k % WORKERS];

		if (!ok(p,
			    cli_side_put(&p->t->sides[k / WORKERS], e->gradients,
				    p->model.gradients[k % WORKERS],
				    p->model.n_values * sizeof(float)),
			    k / WORKERS, e, "upload"))
			return false;
	}
	return true;
}

static bool compare(struct pair *p)
{
	size_t bytes = p->model.n_values * sizeof(float);

	for (int w = 0; w < WORKERS; w++) {
		for (int side = 0; side < CLI_SIDES; side++) {
			struct endpoint *e = &p->ends[side][w];

			if (!ok(p,
				    cli_side_get(
					    &p->t->sides[side], p->host[side], e->gradients, bytes),
				    side, e, "download"))
				return false;
		}
		for (size_t i = 0; i < p->model.n; i++) {
			size_t at = p->model.at[i];

			if (!cli_claim_equal(p->t, CLI_CLAIM_EXCHANGE, p->host[CLI_TESTED] + at,
				    p->host[CLI_REFERENCE] + at,
				    (size_t)(p->model.rows[i] * p->model.cols[i]), "gradient", i))
				return false;
		}
	}
	return true;
}

static bool run_steps(struct pair *p)
{
	for (int step = 0; step < STEPS; step++) {
		if (!put_gradients(p))
			return false;
		for (size_t b = 0; b < BUCKETS; b++) {
			if (!run_bucket(p, b))
				return false;
		}
		if (!finish_step(p) || !compare(p))
			return false;
	}
	return true;
}

static bool open_pair(struct pair *p)
{
	bool good = cli_model_open(p->t, &p->model, TENSORS, 60, WORKERS);

	/* No message has more values than the gradients. */
	p->room = p->model.n_values * sizeof(double);
	for (int k = 0; k < 2; k++) {
		p->message[k] = malloc(p->room);
		p->host[k] = malloc(p->room);
		good = good && p->message[k] && p->host[k];
	}
	p->sum = malloc(p->room);
	if (!good || !p->sum) {
		cli_claim_fails(p->t, CLI_CLAIM_EXCHANGE, "out of memory");
		return false;
	}
	for (int k = 0; k < CLI_SIDES * WORKERS && good; k++) {
		struct endpoint *e = &p->ends[k / WORKERS][k % WORKERS];

		good = ok(p, open_endpoint(p, k / WORKERS, e, (uint32_t)(k % WORKERS)), k / WORKERS,
			e, "opening of a session");
	}
	return good;
}

void cli_check_sessions(struct cli_selftest *t)
{
	struct pair *p = calloc(1, sizeof(*p));

	if (!p) {
		cli_claim_fails(t, CLI_CLAIM_EXCHANGE, "out of memory");
		return;
	}
	p->t = t;
	if (open_pair(p))
		run_steps(p);
	for (int k = 0; k < CLI_SIDES * WORKERS; k++)
		close_endpoint(p, k / WORKERS, &p->ends[k / WORKERS][k % WORKERS]);
	for (int k = 0; k < 2; k++) {
		free(p->message[k]);
		free(p->host[k]);
	}
	free(p->sum);
	cli_model_close(&p->model);
	free(p);
}
