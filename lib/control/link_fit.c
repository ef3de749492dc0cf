/*
 * The line a + b * bytes through the messages of the last steps. Late messages are common and must
 * not move it, so residuals are relative and weighed down the further out they are (Cauchy).
 * A link that really changes puts several whole steps off in the same direction; then everything
 * before them is forgotten at once, but for the delay: large messages say nothing of it, and a link
 * that becomes slower seldom becomes longer. A delay that is known from before, or from a prior,
 * holds until the messages are better explained by another one.
 * Where a token bucket lets the first bytes of a message through, the line begins below 0: a is
 * then -b times those free bytes, and they are what holds when the rate changes.
 */
#include "control/control.h"

#include <math.h>
#include <string.h>

#define FORGET 0.9	  /* weight of a step against that of the step after it */
#define ROUNDS 8	  /* of reweighting */
#define SCALE_FLOOR 0.02  /* relative residuals below this are all equally good */
#define CAUCHY 2.385	  /* of the scale: 95 % efficient for normal residuals */
#define PRIOR 0.05	  /* messages' worth of evidence that the delay is 0 */
#define MOST_FREE 0.8	  /* of the smallest message: few messages can make a steep line */
#define LEAST 0.05	  /* of the time at the full rate, where the line is lower */
#define ANCHOR_WEIGHT 0.5 /* of a remembered message against a new one */
#define ANCHOR_PACE 0.05  /* at which it follows what is observed: one late message is nothing */
#define ANCHOR_SEEN 4	  /* messages before it counts */
#define KNOWN_SLACK 1.15  /* residuals of what is known, against those of the best line; */
#define FEW_MESSAGES 10.0 /* of which little can be said: a line through few fits by chance */
#define KNOWN_OFF 3	  /* steps in a row in which it is worse: not known any more */
#define CHANGE_STEPS 3	  /* in a row */
#define CHANGE_FACTOR 0.25
#define CHANGE_SPREADS 4.0 /* of what steps usually are off */

#define MAX_SAMPLES ((size_t)PSGD__FIT_STEPS * PSGD__FIT_MESSAGES + PSGD__FIT_ANCHORS)

/* Hoare's FIND. */
double psgd__nth(double *values, size_t n, size_t k)
{
	ptrdiff_t left = 0, right = (ptrdiff_t)n - 1, at = (ptrdiff_t)k;

	while (left < right) {
		double pivot = values[at];
		ptrdiff_t i = left, j = right;

		while (i <= j) {
			while (values[i] < pivot)
				i++;
			while (values[j] > pivot)
				j--;
			if (i <= j) {
				double swap = values[i];
				values[i++] = values[j];
				values[j--] = swap;
			}
		}
		if (j < at)
			left = i;
		if (at < i)
			right = j;
	}
	return values[at];
}

/* The samples, in units near 1 so that the normal equations are well conditioned. */
struct cloud {
	size_t n, n_recent; /* the rest are anchors, whose weight is fixed */
	double x[MAX_SAMPLES], y[MAX_SAMPLES];
	double age[MAX_SAMPLES];    /* weight by age */
	double weight[MAX_SAMPLES]; /* by age and by residual */
	double scale[MAX_SAMPLES];  /* what residuals are relative to */
	double scratch[MAX_SAMPLES];
	double x_unit, y_unit, x_least;
	double a, b;
};

static size_t octave(double bytes)
{
	size_t k = 0;

	for (; bytes >= 2.0 && k + 1 < PSGD__FIT_ANCHORS; k++)
		bytes /= 2.0;
	return k;
}

static void remember(struct psgd__link_fit *fit, double bytes, double ns)
{
	struct psgd__fit_anchor *anchor = &fit->anchor[octave(bytes)];

	if (anchor->bytes != bytes)
		*anchor = (struct psgd__fit_anchor){bytes, ns, 0, 0};
	/* Messages are late, never early: the first few give the least. */
	if (anchor->seen < ANCHOR_SEEN)
		anchor->ns = fmin(anchor->ns, ns);
	else
		anchor->ns *= ns > anchor->ns ? 1.0 + ANCHOR_PACE : 1.0 - ANCHOR_PACE;
	anchor->seen += anchor->seen < ANCHOR_SEEN;
}

static void gather(const struct psgd__link_fit *fit, struct cloud *c)
{
	bool recent[PSGD__FIT_ANCHORS] = {false};
	double age = 1.0, x = 0.0, y = 0.0;

	c->n = 0;
	for (size_t k = fit->n_steps; k-- > 0; age *= FORGET) {
		for (size_t i = 0; i < fit->step[k].n; i++, c->n++) {
			c->x[c->n] = fit->step[k].bytes[i];
			c->y[c->n] = fit->step[k].ns[i];
			c->age[c->n] = age;
			x += c->x[c->n];
			y += c->y[c->n];
			recent[octave(c->x[c->n])] = true;
		}
	}
	c->n_recent = c->n;
	c->x_unit = x / (double)c->n;
	c->y_unit = y / (double)c->n;
	for (size_t k = 0; k < PSGD__FIT_ANCHORS; k++) {
		if (recent[k] || fit->anchor[k].seen < ANCHOR_SEEN)
			continue;
		c->x[c->n] = fit->anchor[k].bytes;
		c->y[c->n] = fit->anchor[k].ns;
		c->age[c->n++] = ANCHOR_WEIGHT;
	}
	c->x_least = INFINITY;
	for (size_t i = 0; i < c->n; i++) {
		c->x[i] /= c->x_unit;
		c->y[i] /= c->y_unit;
		c->x_least = fmin(c->x_least, c->x[i]);
	}
}

/* Where a line begins: a delay, or bytes that are free of time. */
struct start {
	double delay, free;
};

/*
 * Least squares of (y - a - b x) / scale, and of the prior; b at least 0. known: where the line
 * begins, so that b alone is sought; NULL: a is sought too.
 */
static void solve(struct cloud *c, const struct start *known)
{
	double aa = 0.0, ab = 0.0, bb = 0.0, ya = 0.0, yb = 0.0, det;
	struct start most = {0.0, MOST_FREE * c->x_least};

	for (size_t i = 0; i < c->n; i++) {
		double w = c->weight[i] / (c->scale[i] * c->scale[i]);

		aa += w;
		ab += w * c->x[i];
		bb += w * c->x[i] * c->x[i];
		ya += w * c->y[i];
		yb += w * c->x[i] * c->y[i];
	}
	if (!known) {
		/* Messages of one size say nothing about the delay: the prior keeps it regular. */
		det = (aa + PRIOR * aa / (double)c->n) * bb - ab * ab;
		c->a = (ya * bb - yb * ab) / det;
		c->b = (yb - c->a * ab) / bb;
		if (c->b < 0.0) {
			c->b = 0.0;
			c->a = ya / aa;
		}
		if (c->a >= -c->b * most.free)
			return;
		known = &most;
	}
	/* y - delay = b (x - free) */
	bb += known->free * (known->free * aa - 2.0 * ab);
	yb += known->free * (known->delay * aa - ya) - known->delay * ab;
	c->b = fmax(0.0, yb / bb);
	c->a = known->delay - known->free * c->b;
}

static double line(double a, double b, double x)
{
	return fmax(a + b * x, LEAST * b * x);
}

/* The median of the recent residuals, relative to the line. */
static double spread_of(struct cloud *c)
{
	for (size_t i = 0; i < c->n; i++) {
		c->scale[i] = line(c->a, c->b, c->x[i]);
		c->scratch[i] = fabs(c->y[i] - c->scale[i]) / c->scale[i];
	}
	return fmax(1.4826 * psgd__nth(c->scratch, c->n_recent, c->n_recent / 2), SCALE_FLOOR);
}

/* The best line; with `known`, of those that begin there. Returns its spread. */
static double best_line(struct cloud *c, const struct start *known)
{
	/* Relative to what was observed, a late message counts little from the start. */
	memcpy(c->scale, c->y, c->n * sizeof(*c->y));
	memcpy(c->weight, c->age, c->n * sizeof(*c->age));
	solve(c, known);
	for (int round = 0; round < ROUNDS; round++) {
		double spread = spread_of(c);

		for (size_t i = 0; i < c->n_recent; i++) {
			double off = (c->y[i] - c->scale[i]) / (c->scale[i] * CAUCHY * spread);

			c->weight[i] = c->age[i] / (1.0 + off * off);
		}
		solve(c, known);
	}
	return spread_of(c);
}

/* Where the line that was taken begins. */
static void keep_start(struct psgd__link_fit *fit)
{
	fit->known = true;
	fit->known_off = 0;
	fit->known_delay_ns = fmax(0.0, fit->delay_ns);
	fit->known_free_bytes = fit->delay_ns < 0.0 ? -fit->delay_ns / fit->ns_per_byte : 0.0;
}

static void take(struct psgd__link_fit *fit, const struct cloud *c)
{
	fit->delay_ns = c->a * c->y_unit;
	fit->ns_per_byte = c->b * c->y_unit / c->x_unit;
}

static void refit(struct psgd__link_fit *fit)
{
	struct cloud c;
	struct start known;
	double limit;

	gather(fit, &c);
	limit = KNOWN_SLACK * best_line(&c, NULL) * (1.0 + FEW_MESSAGES / (double)c.n_recent);
	take(fit, &c);
	if (!fit->known)
		return;
	known.delay = fit->known_delay_ns / c.y_unit;
	known.free = fmin(fit->known_free_bytes / c.x_unit, MOST_FREE * c.x_least);
	c.a = known.delay;
	c.b = fit->prior_ns_per_byte * c.x_unit / c.y_unit;
	if (fit->taken <= PSGD__FIT_STEPS && c.b > 0.0 && spread_of(&c) <= limit) {
		take(fit, &c);
	} else if (best_line(&c, &known) <= limit) {
		take(fit, &c);
	} else if (++fit->known_off == KNOWN_OFF) {
		fit->known = false;
	} else {
		return;
	}
	fit->known_off = 0;
}

void psgd__link_fit_prior(struct psgd__link_fit *fit, double delay_ns, double ns_per_byte)
{
	fit->delay_ns = delay_ns;
	fit->prior_ns_per_byte = fit->ns_per_byte = ns_per_byte;
	keep_start(fit);
}

/* The (lower) median over a step's messages of observed time / the line's. */
static double step_ratio(const struct psgd__link_fit *fit, const struct psgd__fit_step *step)
{
	double ratio[PSGD__FIT_MESSAGES];

	for (size_t i = 0; i < step->n; i++)
		ratio[i] = step->ns[i] / line(fit->delay_ns, fit->ns_per_byte, step->bytes[i]);
	return psgd__nth(ratio, step->n, (step->n - 1) / 2);
}

static double off_by(double ratio)
{
	return fmax(ratio, 1.0 / ratio) - 1.0;
}

/* Are the last steps all slower, or all faster, by more than steps usually differ? */
static bool has_changed(const struct psgd__link_fit *fit)
{
	double usual[PSGD__FIT_STEPS], limit;
	size_t older = fit->n_steps - CHANGE_STEPS;
	size_t slower = 0, faster = 0;

	if (fit->n_steps <= CHANGE_STEPS)
		return false;
	for (size_t k = 0; k < older; k++)
		usual[k] = off_by(step_ratio(fit, &fit->step[k]));
	limit = fmax(CHANGE_FACTOR, CHANGE_SPREADS * psgd__nth(usual, older, older / 2));
	for (size_t k = older; k < fit->n_steps; k++) {
		double ratio = step_ratio(fit, &fit->step[k]);

		slower += ratio > 1.0 && off_by(ratio) > limit;
		faster += ratio < 1.0 && off_by(ratio) > limit;
	}
	return slower == CHANGE_STEPS || faster == CHANGE_STEPS;
}

static void forget_oldest(struct psgd__link_fit *fit, size_t steps)
{
	fit->n_steps -= steps;
	memmove(fit->step, fit->step + steps, fit->n_steps * sizeof(fit->step[0]));
}

bool psgd__link_fit_add(
	struct psgd__link_fit *fit, const struct psgd_message_time *messages, size_t n)
{
	struct psgd__fit_step step = {0};
	size_t most = n < PSGD__FIT_MESSAGES ? n : PSGD__FIT_MESSAGES;

	for (size_t i = 0; i < most; i++) {
		/* The start moves on with every step: P and Q alternate, and both must be seen. */
		size_t at = (i * n / most + (most < n ? fit->taken : 0)) % n;

		if (!messages[at].bytes || messages[at].ns <= 0)
			continue;
		step.bytes[step.n] = (double)messages[at].bytes;
		/* An all-gather is half an all-reduce, by the bytes of all workers together. */
		step.ns[step.n++] =
			(messages[at].kind == PSGD_ALLGATHER ? 2.0 : 1.0) * (double)messages[at].ns;
	}
	if (!step.n)
		return false;
	fit->taken++;
	for (size_t i = 0; i < step.n; i++)
		remember(fit, step.bytes[i], step.ns[i]);
	if (fit->n_steps == PSGD__FIT_STEPS)
		forget_oldest(fit, 1);
	fit->step[fit->n_steps++] = step;
	refit(fit);
	if (!has_changed(fit))
		return false;
	/* The delay by the steps before the change. */
	fit->n_steps -= CHANGE_STEPS;
	refit(fit);
	fit->n_steps += CHANGE_STEPS;
	keep_start(fit);
	fit->prior_ns_per_byte = 0.0;
	forget_oldest(fit, fit->n_steps - CHANGE_STEPS);
	memset(fit->anchor, 0, sizeof(fit->anchor));
	refit(fit);
	return true;
}

static bool are_positive(const double *values, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!(values[i] > 0.0 && values[i] < 1e19))
			return false;
	}
	return true;
}

bool psgd__link_fit_possible(const struct psgd__link_fit *fit)
{
	if (fit->n_steps > PSGD__FIT_STEPS || fit->known > 1 || fit->known_off >= KNOWN_OFF ||
		!(fit->delay_ns > -1e18 && fit->delay_ns < 1e18) ||
		!(fit->known_delay_ns >= 0.0 && fit->known_delay_ns < 1e18) ||
		!(fit->known_free_bytes >= 0.0 && fit->known_free_bytes < 1e19) ||
		!(fit->prior_ns_per_byte >= 0.0 && fit->prior_ns_per_byte < 1e18) ||
		!(fit->ns_per_byte >= 0.0 && fit->ns_per_byte < 1e18) ||
		(fit->delay_ns < 0.0 && fit->ns_per_byte == 0.0))
		return false;
	for (size_t k = 0; k < fit->n_steps; k++) {
		const struct psgd__fit_step *step = &fit->step[k];

		if (!step->n || step->n > PSGD__FIT_MESSAGES ||
			!are_positive(step->bytes, step->n) || !are_positive(step->ns, step->n))
			return false;
	}
	for (size_t k = 0; k < PSGD__FIT_ANCHORS; k++) {
		const struct psgd__fit_anchor *anchor = &fit->anchor[k];

		if (anchor->seen &&
			(!are_positive(&anchor->bytes, 1) || !are_positive(&anchor->ns, 1)))
			return false;
	}
	return true;
}
