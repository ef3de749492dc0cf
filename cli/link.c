/* A link in words. SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdio.h>

#include "net_limits.h"

const char *cli_rate_text(char *to, size_t bytes, double mbps)
{
	if (isfinite(mbps) && mbps > 0)
		snprintf(to, bytes, "%.4g Mbit/s", mbps);
	else
		snprintf(to, bytes, "unlimited");
	return to;
}

const char *cli_link_text(char *to, size_t bytes, const struct psgd_link *link)
{
	char out[32], in[32], jitter[40] = "", loss[40] = "";

	if (link->jitter_ns > 0)
		snprintf(jitter, sizeof(jitter), ", jitter %g ms", (double)link->jitter_ns / 1e6);
	if (link->loss_ppm > 0)
		snprintf(loss, sizeof(loss), ", loss %g %%", (double)link->loss_ppm / 1e4);
	snprintf(to, bytes, "egress %s, ingress %s, latency %g ms%s%s",
		cli_rate_text(out, sizeof(out), (double)link->egress_bps / 1e6),
		cli_rate_text(in, sizeof(in), (double)link->ingress_bps / 1e6),
		(double)link->delay_ns / 1e6, jitter, loss);
	return to;
}

/* Of each direction that has a rate; one number where both have the same. */
const char *cli_burst_text(char *to, size_t bytes, const struct psgd_link *link)
{
	unsigned long long out = 0, in = 0;

	if (link->egress_bps)
		out = psgd_tc_burst(link, link->egress_bps);
	if (link->ingress_bps)
		in = psgd_tc_burst(link, link->ingress_bps);
	if (out && in && out != in)
		snprintf(to, bytes, ", burst %llu bytes out and %llu in", out, in);
	else if (out || in)
		snprintf(to, bytes, ", burst %llu bytes", out ? out : in);
	else if (bytes > 0)
		*to = '\0';
	return to;
}
