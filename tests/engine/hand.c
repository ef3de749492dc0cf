#include "hand.h"

#include <math.h>
#include <sched.h>
#include <string.h>

#include "lazy_device.h"

struct scene {
	struct hand *hand;
	struct psgd_compressor compressor[HAND_WORKERS];
	psgd_session *session[HAND_WORKERS];
	struct grads grads[HAND_WORKERS];
	psgd_stream stream[HAND_WORKERS]; /* the trainer's */
	psgd_event event[HAND_WORKERS];
	psgd_exchange *exchange[TENSORS][HAND_WORKERS];
	int cuts[TENSORS + 1], n_buckets;
	struct rng rng;	 /* of what is done */
	struct rng turn; /* of the order in which it is asked about */
};

static bool is_lazy(const struct scene *s)
{
	return s->hand->device != NULL;
}

/* ---- gradients ---- */

struct producer {
	float *data;
	int64_t count;
	uint64_t seed;
	bool spoil;
};

static void produce(void *user)
{
	struct producer *p = user;
	struct rng rng = {p->seed};

	for (int64_t i = 0; i < p->count; i++)
		p->data[i] = rng_float(&rng);
	if (p->spoil)
		p->data[p->count / 2] = INFINITY;
	free(p);
}

static void make_gradient(struct scene *s, uint32_t w, int tensor, uint64_t seed, bool spoil)
{
	struct producer *p = malloc(sizeof(*p));

	*p = (struct producer){s->grads[w].data[tensor], psgd_tensor_count(&grads_tensors[tensor]),
		seed * 1000 + w * 100 + (uint64_t)tensor, spoil};
	if (is_lazy(s))
		lazy_push(s->hand->device, s->stream[w], produce, p);
	else
		produce(p);
}

/* ---- collectives ---- */

struct sum {
	struct psgd_collective c[HAND_WORKERS];
	uint32_t n;
};

/* In the order of the workers; all have the same bits. */
static void add_up(void *user)
{
	struct sum *x = user;
	size_t bytes = (size_t)x->c[0].count * psgd_dtype_bytes(x->c[0].dtype);

	for (uint32_t w = 1; w < x->n && x->c[0].kind == PSGD_ALLREDUCE_SUM; w++) {
		for (int64_t i = 0; i < x->c[0].count; i++) {
			if (x->c[0].dtype == PSGD_F32)
				((float *)x->c[0].data)[i] += ((float *)x->c[w].data)[i];
			else
				((double *)x->c[0].data)[i] += ((double *)x->c[w].data)[i];
		}
	}
	for (uint32_t w = 1; w < x->n; w++)
		memcpy(x->c[w].data, x->c[0].data, bytes);
	free(x);
}

/* On memory of the device, after all streams and before all of them go on. */
static psgd_status add_up_in_order(struct scene *s, struct sum *x)
{
	const struct psgd_device *d = s->hand->device;
	psgd_status status = PSGD_OK;

	for (uint32_t w = 1; w < x->n && status >= 0; w++) {
		status = d->ops->event_record(d->self, s->event[w], x->c[w].stream);
		if (status >= 0)
			status = d->ops->stream_wait(d->self, x->c[0].stream, s->event[w]);
	}
	if (status < 0) {
		free(x);
		return status;
	}
	struct psgd_collective c[HAND_WORKERS];
	uint32_t n = x->n;

	memcpy(c, x->c, sizeof(c));
	lazy_push(d, c[0].stream, add_up, x);
	status = d->ops->event_record(d->self, s->event[0], c[0].stream);
	for (uint32_t w = 1; w < n && status >= 0; w++)
		status = d->ops->stream_wait(d->self, c[w].stream, s->event[0]);
	return status;
}

static psgd_status run_collective(struct scene *s, const struct psgd_collective *c)
{
	struct sum *x = malloc(sizeof(*x));

	x->n = s->hand->n_workers;
	memcpy(x->c, c, sizeof(x->c));
	for (uint32_t w = 0; w < x->n; w++)
		s->hand->broken |= is_lazy(s) != (c[w].stream != NULL) || c[w].tag != c[0].tag;
	if (is_lazy(s) && c[0].dtype == PSGD_F32)
		return add_up_in_order(s, x);
	add_up(x);
	return PSGD_OK;
}

/* ---- exchanges ---- */

static psgd_status tell(struct scene *s, uint32_t w, psgd_status status)
{
	psgd_session_error(s->session[w], s->hand->error, sizeof(s->hand->error));
	return status;
}

/*
 * Goes on until all are done: with buckets by chance, as a trainer that polls would, and on the
 * CPU with the first that is not done.
 */
static psgd_status finish_exchanges(struct scene *s, int n_buckets)
{
	const uint32_t n = s->hand->n_workers;
	struct psgd_collective c[TENSORS][HAND_WORKERS] = {{{0}}};
	bool wants[TENSORS][HAND_WORKERS] = {{0}}, done[TENSORS][HAND_WORKERS] = {{0}};

	for (int left = n_buckets * (int)n; left > 0;) {
		uint32_t w = rng_range(&s->turn, 0, n - 1), all = 0;
		int b = (int)rng_range(&s->turn, 0, (uint32_t)n_buckets - 1);
		psgd_status status;

		for (b = is_lazy(s) ? b : 0; !is_lazy(s) && done[b][w] && b + 1 < n_buckets;)
			b++;
		if (wants[b][w] || done[b][w])
			continue;
		status = psgd_exchange_next(s->exchange[b][w], &c[b][w]);
		if (status < 0)
			return tell(s, w, status);
		if (status == PSGD_PENDING)
			sched_yield();
		wants[b][w] = status == PSGD_WANT_COLLECTIVE;
		done[b][w] = status == PSGD_OK;
		left -= done[b][w];
		for (uint32_t i = 0; i < n; i++)
			all += wants[b][i];
		if (all < n)
			continue;
		memset(wants[b], 0, sizeof(wants[b]));
		status = run_collective(s, c[b]);
		s->hand->own = status < 0;
		if (status < 0)
			return status;
	}
	return PSGD_OK;
}

static void end_exchanges(struct scene *s)
{
	for (int b = 0; b < TENSORS; b++)
		for (uint32_t w = 0; w < s->hand->n_workers; w++)
			psgd_exchange_end(&s->exchange[b][w]);
}

static psgd_status begin_bucket(struct scene *s, int b, uint64_t seed, int spoiled)
{
	for (uint32_t w = 0; w < s->hand->n_workers; w++) {
		struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
		struct psgd_grad list[TENSORS];
		psgd_status status;

		for (int i = s->cuts[b]; i < s->cuts[b + 1]; i++) {
			make_gradient(s, w, i, seed, i == spoiled && w == 0);
			list[bucket.n_grads++] =
				(struct psgd_grad){grads_tensors[i].id, s->grads[w].data[i]};
		}
		bucket.grads = list;
		status = psgd_exchange_begin(
			s->session[w], &bucket, s->stream[w], &s->exchange[b][w]);
		if (status < 0)
			return tell(s, w, status);
	}
	return PSGD_OK;
}

/* All buckets of a step, cut by chance, and its end. */
static psgd_status one_step(struct scene *s, uint64_t seed, struct psgd_report *report)
{
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);
	int spoiled = seed % 5 == 3 ? (int)rng_range(&s->rng, 0, TENSORS - 1) : -1;
	psgd_status status = PSGD_OK;

	s->n_buckets = 0;
	for (int i = 0; i < TENSORS; i += (int)rng_range(&s->rng, 1, 3))
		s->cuts[s->n_buckets++] = i;
	s->cuts[s->n_buckets] = TENSORS;
	for (int b = 0; b < s->n_buckets && status >= 0; b++)
		status = begin_bucket(s, b, seed, spoiled);
	if (status >= 0)
		status = finish_exchanges(s, s->n_buckets);
	end_exchanges(s);
	info.epoch_end = seed % 3 == 0;
	info.param_hash = 9;
	for (uint32_t w = 0; w < s->hand->n_workers && status >= 0; w++) {
		status = psgd_exchange_begin_finish(
			s->session[w], &info, w ? NULL : report, &s->exchange[0][w]);
		if (status < 0)
			tell(s, w, status);
	}
	if (status >= 0)
		status = finish_exchanges(s, 1);
	end_exchanges(s);
	return status;
}

static psgd_status change_ranks(struct scene *s)
{
	uint32_t ranks[TENSORS];

	for (int i = 0; i < TENSORS; i++)
		ranks[i] = rng_range(&s->rng, 0, 6);
	for (uint32_t w = 0; w < s->hand->n_workers; w++) {
		psgd_status status = psgd_session_set_ranks(s->session[w], ranks, TENSORS);

		if (status < 0)
			return tell(s, w, status);
	}
	return PSGD_OK;
}

/* A few steps at another rank, of which nothing stays. */
static psgd_status try_ranks(struct scene *s)
{
	static const uint32_t list[] = {3, 0, PSGD_TRIAL_END};

	for (int k = 0; k < 3; k++) {
		for (uint32_t w = 0; w < s->hand->n_workers; w++) {
			psgd_status status = psgd_session_trial(s->session[w], list[k]);

			if (status < 0)
				return tell(s, w, status);
		}
		for (int step = 0; step < 2 && list[k] != PSGD_TRIAL_END; step++) {
			psgd_status status = one_step(s, 77 + (uint64_t)step, NULL);

			if (status < 0)
				return status;
		}
	}
	return PSGD_OK;
}

static psgd_status save_all(struct scene *s, bool load)
{
	for (uint32_t w = 0; w < s->hand->n_workers; w++) {
		struct psgd_state_writer writer = psgd__kept_writer(&s->hand->kept[w]);
		struct psgd_state_reader reader = psgd__kept_reader(&s->hand->kept[w]);
		psgd_status status;

		psgd__kept_free(&s->hand->kept[w]);
		status = psgd_session_save(s->session[w], &writer);
		if (status >= 0 && load)
			status = psgd_session_load(s->session[w], &reader);
		if (status < 0)
			return tell(s, w, status);
	}
	return PSGD_OK;
}

static psgd_status run_steps(struct scene *s)
{
	struct hand *h = s->hand;
	psgd_status status = PSGD_OK;

	for (int step = 0; step < h->steps && status >= 0; step++) {
		h->report[step] = PSGD_INIT(psgd_report);
		if (!h->dense && step % 3 == 2)
			status = change_ranks(s);
		if (h->with_trial && status >= 0 && step == h->steps / 2)
			status = try_ranks(s);
		if (status >= 0)
			status = one_step(s, h->seed * 100 + (uint64_t)step, &h->report[step]);
		if (status >= 0 && step == h->steps - 2)
			status = save_all(s, true);
		/* They are the trainer's, and no stream has to be waited for. */
		for (uint32_t w = 0; w < h->n_workers && status >= 0; w++) {
			h->hash[step] = grads_hash(&s->grads[w]);
			h->broken |= h->hash[step] != grads_hash(&s->grads[0]);
		}
	}
	return status < 0 ? status : save_all(s, false);
}

static psgd_status open_scene(struct scene *s)
{
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	const struct psgd_device *d = s->hand->device;
	psgd_status status = PSGD_OK;

	o.device = d;
	o.n_workers = s->hand->n_workers;
	o.flags = s->hand->flags;
	o.check_every = 2;
	powersgd.rank = 2;
	for (uint32_t w = 0; w < s->hand->n_workers && status >= 0; w++) {
		if (d)
			status = d->ops->stream_create(d->self, &s->stream[w]);
		if (d && status >= 0)
			status = d->ops->event_create(d->self, &s->event[w]);
		if (status >= 0)
			status = s->hand->dense
					 ? psgd_compressor_dense(&s->compressor[w])
					 : psgd_compressor_powersgd(&powersgd, &s->compressor[w]);
		o.compressor = &s->compressor[w];
		o.worker = w;
		if (status >= 0)
			status = psgd_session_open(grads_tensors, TENSORS, &o, &s->session[w]);
	}
	s->hand->own = status < 0;
	return status;
}

psgd_status hand_run(struct hand *hand)
{
	struct scene s = {.hand = hand, .rng = {hand->seed}, .turn = {~hand->seed}};
	const struct psgd_device *d = hand->device;
	psgd_status status;

	for (uint32_t w = 0; w < hand->n_workers; w++)
		grads_init(&s.grads[w]);
	status = open_scene(&s);
	if (status >= 0)
		status = run_steps(&s);
	for (uint32_t w = 0; w < hand->n_workers; w++) {
		psgd_session_close(&s.session[w]);
		psgd_compressor_destroy(&s.compressor[w]);
	}
	/* Collectives of one session are work in another's stream: the trainer's to wait for. */
	for (uint32_t w = 0; w < hand->n_workers; w++) {
		if (s.stream[w] && d->ops->stream_finish(d->self, s.stream[w]) < 0)
			d->ops->stream_finish(d->self, s.stream[w]);
		if (s.event[w])
			d->ops->event_destroy(d->self, s.event[w]);
		if (s.stream[w])
			d->ops->stream_destroy(d->self, s.stream[w]);
		grads_free(&s.grads[w]);
	}
	return status;
}
