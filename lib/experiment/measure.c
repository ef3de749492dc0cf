/* Latency and bandwidth by all-reduces of several sizes, all workers in step. */
#include <psgd/experiment/measure.h>

#include <math.h>
#include <string.h>

#include "base/base.h"

#define BUDGET_NS INT64_C(1000000000)
#define MAX_REPEATS 5
#define SECOND_LOOK 8 /* of the budget: at most so much for it */
#define SHARES 16     /* of the budget, one for the repetitions of a size */

#define SMALL 1024 /* bytes up to which a message is all delay */
#define N_SLOPES 3

/* The outline first: a slow network has no time for the rest. One size twice: its first time is
 * that of a network that nothing is known of. */
static const uint64_t sizes[] = {
	8, 64 << 10, 1 << 20, 4 << 20, 256 << 10, 16 << 10, 4 << 10, 1 << 10, 256, 64, 64 << 10};

/* --- the line --- */

/* The least of the small ones: messages may be late, never early. */
static double delay_of(const struct psgd_measure_point *points, size_t n)
{
	const struct psgd_measure_point *first = &points[0], *last = &points[n - 1];
	double least = INFINITY, per_byte = 0.0;

	for (size_t i = 0; i < n && points[i].bytes <= SMALL; i++)
		least = fmin(least, (double)points[i].ns);
	if (isfinite(least))
		return least;
	if (n > 1)
		per_byte = (double)(last->ns - first->ns) / (double)(last->bytes - first->bytes);
	return fmax(0.0, (double)first->ns - per_byte * (double)first->bytes);
}

/* The median of what the largest ones show. */
static double per_byte_of(const struct psgd_measure_point *points, size_t n, double delay)
{
	double slopes[N_SLOPES];
	size_t n_slopes = 0;

	for (size_t i = n; i > 0 && n_slopes < N_SLOPES && points[i - 1].bytes > SMALL; i--) {
		double slope =
			fmax(0.0, (double)points[i - 1].ns - delay) / (double)points[i - 1].bytes;
		size_t at = n_slopes++;

		for (; at > 0 && slopes[at - 1] > slope; at--)
			slopes[at] = slopes[at - 1];
		slopes[at] = slope;
	}
	return n_slopes ? slopes[n_slopes / 2] : 0.0;
}

static bool are_good(const struct psgd_measure_point *points, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!points[i].bytes || points[i].ns <= 0)
			return false;
		for (size_t k = 0; k < i; k++) {
			if (points[k].bytes == points[i].bytes)
				return false;
		}
	}
	return true;
}

static void insert(struct psgd_measured *m, struct psgd_measure_point point)
{
	size_t at;

	for (size_t i = 0; i < m->n_points; i++) {
		if (m->points[i].bytes != point.bytes)
			continue;
		if (point.ns < m->points[i].ns)
			m->points[i].ns = point.ns;
		return;
	}
	for (at = m->n_points++; at > 0 && m->points[at - 1].bytes > point.bytes; at--)
		m->points[at] = m->points[at - 1];
	m->points[at] = point;
}

psgd_status psgd_measure_fit(const struct psgd_measure_point *points, size_t n_points,
	uint32_t n_workers, struct psgd_measured *out)
{
	struct psgd_measured m = {.size = sizeof(m), .n_workers = n_workers};
	double steps;

	if (!points || !n_points || n_points > PSGD_MEASURE_MAX_POINTS || n_workers < 2 || !out ||
		!psgd__report_fits(out) || !are_good(points, n_points))
		return PSGD_ERR_INVALID;
	for (size_t i = 0; i < n_points; i++)
		insert(&m, points[i]);
	steps = 2.0 * (n_workers - 1);
	m.delay_ns = delay_of(m.points, n_points);
	m.ns_per_byte = per_byte_of(m.points, n_points, m.delay_ns);
	m.latency_ms = m.delay_ns / steps / 1e6;
	/* 1 byte/ns is 8000 Mbit/s. */
	m.bandwidth_mbps =
		m.ns_per_byte > 0 ? 8000.0 * steps / n_workers / m.ns_per_byte : INFINITY;
	psgd__copy_report(out, &m, sizeof(m));
	return PSGD_OK;
}

/* --- the measuring --- */

/* What a worker tells of one size. */
struct told {
	int32_t status;
	uint32_t reserved;
	int64_t elapsed_ns;
	int64_t ns[MAX_REPEATS];
};

struct measuring {
	const struct psgd_transport *transport;
	const struct psgd_oob *oob;
	float *data;
	struct told *told; /* of all workers */
	int64_t budget_ns, begin_ns, elapsed_ns;
	uint64_t tag, sent_bytes;
	struct psgd_measured found;
};

/* What an all-reduce will about take: as smaller ones did, and no more than larger ones. */
static int64_t foretell(const struct measuring *m, uint64_t bytes)
{
	const struct psgd_measure_point *smallest = m->found.points;
	int64_t expected = smallest->ns;

	for (size_t i = 0; i < m->found.n_points; i++) {
		const struct psgd_measure_point *p = &smallest[i];
		double more = p->ns > smallest->ns ? (double)(p->ns - smallest->ns) : 0.0;

		if (p->bytes < bytes)
			expected =
				smallest->ns + (int64_t)(more * (double)bytes / (double)p->bytes);
		else if (p->ns < expected)
			return p->ns;
	}
	return expected;
}

static psgd_status all_reduce(struct measuring *m, uint64_t bytes, int64_t *ns)
{
	const struct psgd_transport *t = m->transport;
	struct psgd_collective c = PSGD_INIT(psgd_collective);
	struct psgd_transfer transfer = PSGD_INIT(psgd_transfer);
	void *request = NULL;
	psgd_status status;

	c.kind = PSGD_ALLREDUCE_SUM;
	c.dtype = PSGD_F32;
	c.count = (int64_t)(bytes / sizeof(float));
	c.data = m->data;
	c.tag = ++m->tag;
	PSGD__TRY(t->ops->post(t->self, &c, &request));
	do
		status = t->ops->test(t->self, request, BUDGET_NS, &transfer);
	while (status == PSGD_PENDING);
	*ns = transfer.end_ns - transfer.start_ns;
	m->sent_bytes += transfer.sent_bytes;
	return status;
}

/* Every worker hears how all fared. */
static psgd_status tell(struct measuring *m, struct told *mine)
{
	mine->elapsed_ns = psgd__now_ns() - m->begin_ns;
	PSGD__TRY(m->oob->allgather(m->oob->self, mine, m->told, sizeof(*mine)));
	for (uint32_t w = 0; w < m->oob->n_workers; w++) {
		if (m->told[w].status < 0)
			return (psgd_status)m->told[w].status;
		if (m->told[w].elapsed_ns > m->elapsed_ns)
			m->elapsed_ns = m->told[w].elapsed_ns;
	}
	return PSGD_OK;
}

static int64_t fastest(const struct measuring *m, int n_repeats)
{
	int64_t least = INT64_MAX;

	for (uint32_t w = 0; w < m->oob->n_workers; w++) {
		for (int i = 0; i < n_repeats; i++) {
			if (m->told[w].ns[i] < least)
				least = m->told[w].ns[i];
		}
	}
	return least > 0 ? least : 1;
}

static int repeats(const struct measuring *m, uint64_t bytes, int64_t expected)
{
	int64_t share = m->budget_ns / SHARES;

	/* How fast the network is nobody knows yet. */
	if (bytes > SMALL && m->found.points[m->found.n_points - 1].bytes <= SMALL)
		return 1;
	if (expected > share)
		return 1;
	return expected < share / MAX_REPEATS ? MAX_REPEATS : (int)(share / expected);
}

static psgd_status measure_size(struct measuring *m, uint64_t bytes, int n_repeats)
{
	struct told mine = {0};

	for (int i = 0; i < n_repeats && !mine.status; i++)
		mine.status = all_reduce(m, bytes, &mine.ns[i]);
	PSGD__TRY(tell(m, &mine));
	insert(&m->found, (struct psgd_measure_point){bytes, fastest(m, n_repeats)});
	return PSGD_OK;
}

static psgd_status measure_all(struct measuring *m)
{
	struct told mine = {0};

	/* Who has no memory says so before others wait for it; and nobody comes late to the first.
	 */
	if (!m->data)
		mine.status = PSGD_ERR_NOMEM;
	PSGD__TRY(tell(m, &mine));
	/* The first message of a connection is not the fastest, but it says how many there may be.
	 */
	PSGD__TRY(measure_size(m, sizes[0], 1));
	for (size_t i = 0; i < PSGD__COUNT(sizes); i++) {
		int64_t expected = foretell(m, sizes[i]);
		int n_repeats = repeats(m, sizes[i], expected);

		/* The delay is worth a second look, where that leaves time for the rest. */
		if (!i && expected > m->budget_ns / SECOND_LOOK)
			continue;
		if (expected <= m->budget_ns - m->elapsed_ns)
			PSGD__TRY(measure_size(m, sizes[i], n_repeats));
	}
	return PSGD_OK;
}

psgd_status psgd_measure_network(const struct psgd_transport *transport, const struct psgd_oob *oob,
	int64_t budget_ns, struct psgd_measured *out)
{
	struct measuring m = {.transport = transport,
		.oob = oob,
		.begin_ns = psgd__now_ns(),
		.found.size = sizeof(m.found)};
	psgd_status status;

	if (!transport || !transport->ops || !oob || !oob->allgather || oob->n_workers < 2 ||
		oob->n_workers != transport->n_workers || budget_ns < 0 || !out ||
		!psgd__report_fits(out))
		return PSGD_ERR_INVALID;
	m.budget_ns = budget_ns ? budget_ns : BUDGET_NS;
	m.told = psgd__calloc(oob->n_workers, sizeof(*m.told));
	if (!m.told)
		return PSGD_ERR_NOMEM;
	m.data = psgd__calloc(1, 4 << 20);
	status = measure_all(&m);
	if (!status)
		status = psgd_measure_fit(
			m.found.points, m.found.n_points, oob->n_workers, &m.found);
	m.found.elapsed_ns = m.elapsed_ns;
	m.found.sent_bytes = m.sent_bytes;
	if (!status)
		psgd__copy_report(out, &m.found, sizeof(m.found));
	free(m.data);
	free(m.told);
	return status;
}
