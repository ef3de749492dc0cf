/* The link that a configuration describes, and which part of it is whose. */
#include <string.h>

#include "experiment/config_private.h"

/* A rate that no network has, where tc needs one and there is no limit. */
#define FREE_BPS UINT64_C(1000000000000)

/* The loader's limits keep these products far below what the type holds. */
static uint64_t bits_per_second(double mbps)
{
	return (uint64_t)(mbps * 1e6 + 0.5);
}

static int64_t nanoseconds(double ms)
{
	return (int64_t)(ms * 1e6 + 0.5);
}

enum psgd__link_method psgd__config_method(const struct psgd_config_network *net)
{
	if (strcmp(net->method, "tc") == 0)
		return PSGD__LINK_TC;
	return strcmp(net->method, "tc+model") == 0 ? PSGD__LINK_TC_MODEL : PSGD__LINK_MODEL;
}

/* What the link and its changes have anywhere. */
struct parts {
	bool egress, ingress, delay, loss;
};

static struct parts parts_of(const struct psgd_config_network *net)
{
	struct parts p = {.egress = net->egress_mbps > 0,
		.ingress = net->ingress_mbps > 0,
		.delay = net->latency_ms > 0 || net->jitter_ms > 0,
		.loss = net->loss_pct > 0};

	for (unsigned i = 0; i < net->schedule_count; i++) {
		p.egress = p.egress || net->schedule[i].egress_mbps > 0;
		p.ingress = p.ingress || net->schedule[i].ingress_mbps > 0;
		p.delay = p.delay || net->schedule[i].latency_ms > 0;
	}
	return p;
}

bool psgd__config_limited(const struct psgd_config_network *net)
{
	const struct parts p = parts_of(net);

	return p.egress || p.ingress || p.delay || p.loss;
}

/* All of it, whoever makes it. */
static struct psgd_link whole_after(const struct psgd_config *config, unsigned n)
{
	const struct psgd_config_network *net = &config->network_limits;
	struct psgd_link link = PSGD_INIT(psgd_link);

	link.egress_bps = bits_per_second(n ? net->schedule[n - 1].egress_mbps : net->egress_mbps);
	link.ingress_bps =
		bits_per_second(n ? net->schedule[n - 1].ingress_mbps : net->ingress_mbps);
	link.delay_ns = nanoseconds(n ? net->schedule[n - 1].latency_ms : net->latency_ms);
	link.jitter_ns = nanoseconds(net->jitter_ms);
	link.burst_bytes = net->burst_bytes;
	link.seed = config->seed;
	link.loss_ppm = (uint32_t)(net->loss_pct * 1e4 + 0.5);
	/* So little short of all that it would be rounded to all. */
	if (link.loss_ppm > 999999)
		link.loss_ppm = 999999;
	return link;
}

bool psgd__config_limits_after(const struct psgd_config *config, unsigned n, struct psgd_link *out)
{
	if (!config->network_limits.enable || !psgd__config_limited(&config->network_limits))
		return false;
	*out = whole_after(config, n);
	return true;
}

bool psgd__config_link_after(const struct psgd_config *config, unsigned n, struct psgd_link *out)
{
	const struct psgd_config_network *net = &config->network_limits;
	const enum psgd__link_method method = psgd__config_method(net);
	const struct parts p = parts_of(net);

	if (method == PSGD__LINK_TC || !psgd__config_limits_after(config, n, out))
		return false;
	if (method == PSGD__LINK_MODEL)
		return true;
	out->egress_bps = out->ingress_bps = out->burst_bytes = 0;
	return p.delay || p.loss;
}

bool psgd__config_kernel_link_after(
	const struct psgd_config *config, unsigned n, struct psgd_link *out)
{
	const struct psgd_config_network *net = &config->network_limits;
	const enum psgd__link_method method = psgd__config_method(net);
	const struct parts p = parts_of(net);

	if (method == PSGD__LINK_MODEL || !psgd__config_limits_after(config, n, out))
		return false;
	if (p.egress && !out->egress_bps)
		out->egress_bps = FREE_BPS;
	if (p.ingress && !out->ingress_bps)
		out->ingress_bps = FREE_BPS;
	if (method == PSGD__LINK_TC) {
		if (p.delay && !out->delay_ns)
			out->delay_ns = 1;
		return true;
	}
	out->delay_ns = out->jitter_ns = 0;
	out->loss_ppm = 0;
	return p.egress || p.ingress;
}

typedef bool (*link_fn)(const struct psgd_config *, unsigned, struct psgd_link *);

static psgd_status at_first(
	link_fn link_after, const struct psgd_config *config, struct psgd_link *out, bool *limited)
{
	struct psgd_link link;

	if (!config || !out || !limited)
		return PSGD_ERR_INVALID;
	*limited = link_after(config, 0, &link);
	if (*limited)
		*out = link;
	return PSGD_OK;
}

psgd_status psgd_config_limits(
	const struct psgd_config *config, struct psgd_link *out, bool *limited)
{
	return at_first(psgd__config_limits_after, config, out, limited);
}

psgd_status psgd_config_link(const struct psgd_config *config, struct psgd_link *out, bool *limited)
{
	return at_first(psgd__config_link_after, config, out, limited);
}

psgd_status psgd_config_kernel_link(
	const struct psgd_config *config, struct psgd_link *out, bool *limited)
{
	return at_first(psgd__config_kernel_link_after, config, out, limited);
}
