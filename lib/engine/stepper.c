/* The driver that is the caller: exchanges one by one, in a session without a transport. */
#include "engine/core.h"

psgd_status psgd_exchange_begin(
	psgd_session *s, const struct psgd_bucket *bucket, psgd_stream ready, psgd_exchange **out)
{
	if (!s || !out)
		return PSGD_ERR_INVALID;
	*out = NULL;
	if (s->transport.ops)
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__bucket_new(s, bucket, ready, out));
	(*out)->owned = true;
	psgd__queue_push(s, *out);
	return PSGD_OK;
}

/* True while a caller's exchange is not done. The first decision has no caller. */
static bool any_owned(const psgd_session *s)
{
	const struct psgd_exchange *x = s->head;

	while (x && !x->owned)
		x = x->next;
	return x;
}

psgd_status psgd_exchange_begin_finish(psgd_session *s, const struct psgd_step_info *info,
	struct psgd_report *report, psgd_exchange **out)
{
	struct psgd_exchange *control;
	struct psgd_step_info whole;
	psgd_status status;

	if (!s || !out)
		return PSGD_ERR_INVALID;
	*out = NULL;
	if (s->transport.ops || any_owned(s))
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__session_status(s));
	PSGD__TRY(psgd__step_info(info, report, &whole));
	status = psgd__step_end(s, &whole, psgd__now_ns(), report, &control);
	/* Nothing to say: an exchange that is done at once keeps the caller's loop alike. */
	if (status >= 0 && !control) {
		status = psgd__exchange_new(s, PSGD__SUM, &control);
		if (status >= 0)
			psgd__finish_exchange(control);
	} else if (status >= 0) {
		psgd__queue_push(s, control);
	}
	/* The step has ended, and could not be ended again. */
	if (status < 0)
		return psgd__session_fail_as(s, status);
	control->owned = true;
	*out = control;
	return PSGD_OK;
}

/* One exchange, in a session without a transport. */
static psgd_status next_of(struct psgd_exchange *x, struct psgd_collective *out)
{
	psgd_session *s = x->session;
	bool worked = false;
	psgd_status status;

	if (x->in_flight) {
		struct psgd_transfer unknown = {
			.size = sizeof(unknown),
			.payload_bytes = (uint64_t)x->collective.count *
					 psgd_dtype_bytes(x->collective.dtype),
		};

		x->in_flight = false;
		status = psgd__record_transfer(x, &unknown);
		if (status < 0)
			return psgd__session_fail(s, status, "%s", psgd_status_text(status));
	}
	status = psgd__exchange_advance(x, &worked);
	if (status == PSGD_WANT_COLLECTIVE)
		*out = x->collective;
	if (status == PSGD_OK)
		psgd__queue_remove(s, x);
	return status;
}

static psgd_status next_in_turn(struct psgd_exchange *x, struct psgd_collective *out)
{
	psgd_session *s = x->session;
	psgd_status status;

	PSGD__TRY(psgd__session_status(s));
	if (x->done)
		return PSGD_OK;
	/* The first decision has no owner: whoever is next carries it. */
	while (s->head && !s->head->owned && s->head != x) {
		struct psgd_exchange *first = s->head;

		/* Another exchange's caller may be running its collective. */
		if (first->in_flight && first->carrier != x)
			return PSGD_PENDING;
		first->carrier = x;
		status = next_of(first, out);
		if (status != PSGD_OK)
			return status;
		psgd__exchange_free(first);
	}
	return next_of(x, out);
}

psgd_status psgd_exchange_next(psgd_exchange *x, struct psgd_collective *out)
{
	int64_t start = psgd__now_ns();
	psgd_status status;

	if (!x || !out)
		return PSGD_ERR_INVALID;
	status = next_in_turn(x, out);
	if (status >= 0)
		PSGD__TRY(psgd__record_wait(x->session, start, psgd__now_ns()));
	return status;
}

void psgd_exchange_end(psgd_exchange **exchange)
{
	struct psgd_exchange *x;

	if (!exchange || !*exchange)
		return;
	x = *exchange;
	*exchange = NULL;
	if (!x->done) {
		psgd__session_fail(
			x->session, PSGD_ERR_STATE, "an exchange was ended before it was done");
		psgd__device_quiet(x->session);
		psgd__queue_remove(x->session, x);
	}
	psgd__exchange_free(x);
}
