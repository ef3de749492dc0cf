/* A session as it begins and ends: the parts that it works with, and what it keeps of tensors. */
#include "engine/core.h"

/* Copies the tables, whatever their size, and checks that the entries are there that must be. */
static psgd_status take_tables(psgd_session *s)
{
	const struct psgd_device_ops *d = &s->device_ops;
	const struct psgd_compressor_ops *c = &s->compressor_ops;
	const struct psgd_controller_ops *r = &s->controller_ops;
	const struct psgd_transport_ops *t = &s->transport_ops;

	PSGD__TRY(psgd__copy_options(&s->device_ops, sizeof(*d), s->device.ops));
	PSGD__TRY(psgd__copy_options(&s->compressor_ops, sizeof(*c), s->compressor.ops));
	PSGD__TRY(psgd__copy_options(&s->controller_ops, sizeof(*r), s->controller.ops));
	PSGD__TRY(psgd__copy_options(&s->transport_ops, sizeof(*t), s->transport.ops));
	if (!d->alloc || !d->free || !d->copy || !d->zero || !d->kernels || !c->attach ||
		!c->detach || !c->plan || !c->run)
		return PSGD_ERR_UNSUPPORTED;
	PSGD__TRY(psgd__device_check(s));
	if (s->controller.ops && (!r->needs || !r->decide))
		return PSGD_ERR_UNSUPPORTED;
	if (s->transport.ops && (!t->post || !t->test || !t->abort))
		return PSGD_ERR_UNSUPPORTED;
	s->device.ops = d;
	s->compressor.ops = c;
	if (s->controller.ops)
		s->controller.ops = r;
	if (s->transport.ops)
		s->transport.ops = t;
	return PSGD_OK;
}

#define SESSION_FLAGS                                                                              \
	(uint32_t)(PSGD_SESSION_NO_OVERLAP | PSGD_SESSION_GRAD_NORM | PSGD_SESSION_GRAD_SUM)

/* The caller's pointer, or an object of our own that plays its part. */
static psgd_status choose_parts(psgd_session *s)
{
	const struct psgd_session_options *o = &s->options;

	if (o->flags & ~SESSION_FLAGS || o->timeout_ns < 0 || o->reserved)
		return PSGD_ERR_INVALID;
	if (o->device) {
		s->device = *o->device;
	} else {
		PSGD__TRY(psgd_device_cpu(NULL, &s->own_device));
		s->device = s->own_device;
	}
	if (o->compressor) {
		s->compressor = *o->compressor;
	} else {
		PSGD__TRY(psgd_compressor_dense(&s->own_compressor));
		s->compressor = s->own_compressor;
	}
	if (o->controller && o->controller->ops)
		s->controller = *o->controller;
	if (o->transport)
		s->transport = *o->transport;
	s->worker = o->transport ? o->transport->worker : o->worker;
	s->n_workers = o->transport ? o->transport->n_workers : o->n_workers;
	if (!s->n_workers)
		s->n_workers = 1;
	if (s->worker >= s->n_workers || !s->device.ops || !s->compressor.ops ||
		(o->transport && !s->transport.ops))
		return PSGD_ERR_INVALID;
	PSGD__TRY(take_tables(s));
	if (s->controller.ops && !s->compressor.ops->set_ranks)
		return PSGD_ERR_UNSUPPORTED;
	/* Nobody tells an exchange how long its collectives took. */
	if (s->controller.ops && !s->transport.ops &&
		(s->controller.ops->needs(s->controller.self, 0, 0, false) & PSGD_NEED_TIMING))
		return PSGD_ERR_UNSUPPORTED;
	return PSGD_OK;
}

static psgd_status copy_tensors(psgd_session *s, const struct psgd_tensor *tensors, size_t n)
{
	s->tensors = psgd__calloc(n, sizeof(*s->tensors));
	s->counts = psgd__calloc(n, sizeof(*s->counts));
	s->shapes = psgd__calloc(n, sizeof(*s->shapes));
	s->submitted_in = psgd__calloc(n, sizeof(*s->submitted_in));
	s->ranks = psgd__calloc(n, sizeof(*s->ranks));
	s->grad_sum_at = psgd__calloc(n, sizeof(*s->grad_sum_at));
	if (!s->tensors || !s->counts || !s->shapes || !s->submitted_in || !s->ranks ||
		!s->grad_sum_at)
		return PSGD_ERR_NOMEM;
	for (int i = 0; i < PSGD__DECISIONS; i++) {
		s->decision_ranks[i] = psgd__calloc(n, sizeof(uint32_t));
		if (!s->decision_ranks[i])
			return PSGD_ERR_NOMEM;
	}
	s->n_tensors = n;
	for (size_t i = 0; i < n; i++) {
		s->tensors[i] = tensors[i];
		s->tensors[i].name = NULL;
		s->counts[i] = psgd_tensor_count(&tensors[i]);
		if (s->counts[i] < 1 || tensors[i].dtype != PSGD_F32)
			return PSGD_ERR_INVALID;
		s->shapes[i] = psgd__hash(PSGD__HASH_START, tensors[i].dims,
			tensors[i].n_dims * sizeof(tensors[i].dims[0]));
		s->grad_sum_at[i] = s->grad_sum_values;
		/* All together, so that no sum over a bucket can overflow. */
		if (__builtin_add_overflow(
			    s->grad_sum_values, (size_t)s->counts[i], &s->grad_sum_values) ||
			s->grad_sum_values > PTRDIFF_MAX / sizeof(float))
			return PSGD_ERR_INVALID;
		s->tensors[i].name = psgd__strdup(tensors[i].name);
		if (tensors[i].name && !s->tensors[i].name)
			return PSGD_ERR_NOMEM;
	}
	return psgd__index_init(&s->index, s->tensors, n);
}

static psgd_status attach_compressor(psgd_session *s)
{
	struct psgd_scope scope = {
		.size = sizeof(scope),
		.tensors = s->tensors,
		.n_tensors = s->n_tensors,
		.device = &s->device,
		.worker = s->worker,
		.n_workers = s->n_workers,
		.stream = s->stream,
	};

	PSGD__TRY(s->compressor.ops->attach(s->compressor.self, &scope));
	s->attached = true;
	for (size_t i = 0; i < s->n_tensors && s->compressor.ops->rank; i++)
		s->ranks[i] = s->compressor.ops->rank(s->compressor.self, i);
	return PSGD_OK;
}

static psgd_status init_locks(psgd_session *s)
{
	pthread_condattr_t monotonic;

	if (pthread_condattr_init(&monotonic))
		return PSGD_ERR_NOMEM;
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, &monotonic);
	pthread_cond_init(&s->done, &monotonic);
	pthread_condattr_destroy(&monotonic);
	s->locks_ready = true;
	return PSGD_OK;
}

psgd_status psgd__session_setup(const struct psgd_tensor *tensors, size_t n_tensors,
	const struct psgd_session_options *options, psgd_session **out)
{
	struct psgd_exchange *first = NULL;
	psgd_status status;
	psgd_session *s;

	*out = NULL;
	if (!tensors || !n_tensors || n_tensors > UINT32_MAX)
		return PSGD_ERR_INVALID;
	s = psgd__calloc(1, sizeof(*s));
	if (!s)
		return PSGD_ERR_NOMEM;
	status = init_locks(s);
	if (status >= 0)
		status = psgd__copy_options(&s->options, sizeof(s->options), options);
	if (status >= 0)
		status = choose_parts(s);
	if (status >= 0)
		status = copy_tensors(s, tensors, n_tensors);
	if (status >= 0)
		status = psgd__device_open(s);
	if (status >= 0)
		status = attach_compressor(s);
	if (status >= 0)
		status = psgd__observe_setup(s);
	if (status >= 0 && s->controller.ops) {
		status = psgd__control_new(s, NULL, NULL, NULL, true, &first);
		if (status >= 0)
			psgd__queue_push(s, first);
	}
	if (status < 0) {
		psgd__session_teardown(s);
		return status;
	}
	s->record.start_ns = psgd__now_ns();
	*out = s;
	return PSGD_OK;
}

void psgd__session_teardown(psgd_session *s)
{
	psgd__device_quiet(s);
	while (s->head) {
		struct psgd_exchange *x = s->head;

		s->head = x->next;
		psgd__exchange_free(x);
	}
	while (s->held) {
		struct psgd_exchange *x = s->held;

		s->held = x->next;
		psgd__exchange_free(x);
	}
	psgd__record_free(&s->record);
	psgd__trial_free(s);
	psgd__observe_teardown(s);
	for (size_t i = 0; i < s->n_blocks; i++)
		s->device.ops->free(s->device.self, s->blocks[i].memory, s->blocks[i].bytes);
	free(s->blocks);
	free(s->seen);
	if (s->attached)
		s->compressor.ops->detach(s->compressor.self);
	psgd__device_close(s);
	psgd_compressor_destroy(&s->own_compressor);
	psgd_device_destroy(&s->own_device);
	psgd__index_finish(&s->index);
	for (size_t i = 0; s->tensors && i < s->n_tensors; i++)
		free((char *)s->tensors[i].name);
	free(s->grad_sum_at);
	for (int i = 0; i < PSGD__DECISIONS; i++)
		free(s->decision_ranks[i]);
	free(s->ranks);
	free(s->submitted_in);
	free(s->shapes);
	free(s->counts);
	free(s->tensors);
	if (s->locks_ready) {
		pthread_cond_destroy(&s->done);
		pthread_cond_destroy(&s->wake);
		pthread_mutex_destroy(&s->lock);
	}
	free(s);
}
