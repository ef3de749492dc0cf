#include "experiment/link_check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

#define LEAST_LEFT 0.9
#define MAX_ERROR 0.1

/* A full frame of Ethernet, and what of it is neither header of it, of IPv4 nor of TCP. */
#define FRAME_BYTES 1514.0
#define FRAME_PAYLOAD 1448.0

/*
 * Of what the longest all-reduce should take: a path with more delay leaves TCP no time to find the
 * rate. What it took says less, since not finding the rate is what makes it long.
 */
#define STEADY_DELAY 0.05

static double on_the_wire(double payload)
{
	return payload * FRAME_BYTES / FRAME_PAYLOAD;
}

static double slower_mbps(const struct psgd_link *link)
{
	double out = link->egress_bps ? (double)link->egress_bps / 1e6 : INFINITY;
	double in = link->ingress_bps ? (double)link->ingress_bps / 1e6 : INFINITY;

	return fmin(out, in);
}

void psgd__link_check_rates(struct psgd__link_check *check, const struct psgd_measured *found,
	const struct psgd_link *link, uint64_t burst_bytes)
{
	const struct psgd_measure_point *longest = &found->points[found->n_points - 1];
	double steps = 2.0 * (found->n_workers - 1);
	double wire_bytes = on_the_wire(steps / found->n_workers * (double)longest->bytes);
	/* The bucket may be full again after each step. */
	double limited = fmax(0, wire_bytes - steps * (double)burst_bytes);

	check->sent_bytes = found->sent_bytes;
	check->configured_mbps = slower_mbps(link);
	check->measured_mbps = on_the_wire(found->bandwidth_mbps);
	/* 1 byte/ns is 8000 Mbit/s. */
	check->least_mbps = 8000 * limited / (double)longest->ns;
	check->steady =
		!link->jitter_ns && !link->loss_ppm &&
		found->delay_ns <= STEADY_DELAY * 8000 * wire_bytes / check->configured_mbps;
}

/* Three digits, or all before the point. */
static const char *number(char text[32], double value)
{
	snprintf(text, 32, value < 1000 ? "%.3g" : "%.0f", value);
	return text;
}

static void say_left(const struct psgd__link_check *c, char *why, size_t bytes)
{
	char left[32], sent[32];
	size_t n;

	psgd__text(why, bytes, "%s of %s MB that were sent left by %s",
		number(left, (double)c->left_bytes / 1e6),
		number(sent, (double)c->sent_bytes / 1e6), c->interface_name);
	n = strlen(why);
	if (c->alone)
		psgd__text(why + n, bytes - n,
			": all workers are on this node, and what they send stays in it");
	else if (c->used_name && strcmp(c->used_name, c->interface_name) != 0)
		psgd__text(why + n, bytes - n, ": communication.interface is %s", c->used_name);
	else
		psgd__text(why + n, bytes - n,
			"; the rest went another way: is communication.interface another one?");
}

static void say_rate(
	const struct psgd__link_check *c, double mbps, const char *likely, char *why, size_t bytes)
{
	char measured[32], configured[32];

	psgd__text(why, bytes, "measured %s Mbit/s where %s are configured on %s: %s",
		number(measured, mbps), number(configured, c->configured_mbps), c->interface_name,
		likely);
}

bool psgd__link_check_is_slow(const struct psgd__link_check *c)
{
	return c->steady && isfinite(c->configured_mbps) &&
	       c->measured_mbps < (1 - MAX_ERROR) * c->configured_mbps;
}

psgd_status psgd__link_check_judge(const struct psgd__link_check *c, char *why, size_t bytes)
{
	if ((double)c->left_bytes < LEAST_LEFT * (double)c->sent_bytes)
		say_left(c, why, bytes);
	else if (c->least_mbps > (1 + MAX_ERROR) * c->configured_mbps)
		say_rate(c, c->least_mbps,
			"another process has removed the limit, or the messages pass it by", why,
			bytes);
	else if (psgd__link_check_is_slow(c))
		say_rate(c, c->measured_mbps,
			"the network carries no more, something else limits it, too, or this "
			"machine is too busy",
			why, bytes);
	else
		return PSGD_OK;
	return PSGD_ERR_IO;
}
