/* From a link to the numbers that the kernel is given, so that text and module cannot differ. */
#include <inttypes.h>
#include <string.h>

#include "shape/tc_impl.h"

#define MAX_PORTS 256
#define MIN_FIFO_BYTES (256u << 10)
#define MAX_FIFO_BYTES (1u << 30)
#define FIFO_NS 100000000
#define MIN_PACKETS 1000
#define MAX_PACKETS 10000000
#define NS_PER_S 1000000000
/* The kernel counts a burst as a time, in 32 bits of 64 ns each. */
#define MAX_BURST_NS (64 * (uint64_t)UINT32_MAX)

typedef unsigned __int128 wide;

/* What goes into a command of a shell as it is. The kernel would take more. */
static bool plain_name(const char *name)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				"0123456789_.-+@");

	return n && n < PSGD__TC_NAME_BYTES && !name[n] && name[0] != '-';
}

psgd_status psgd__tc_options_check(
	struct psgd_tc_options *out, const struct psgd_tc_options *in, char *reason, size_t bytes)
{
	psgd_status status = psgd__copy_options(out, sizeof(*out), in);

	if (status) {
		memset(out, 0, sizeof(*out));
		psgd__text(reason, bytes, "the options are of another version");
		return status;
	}
	if (out->reserved || (out->n_unshaped_ports && !out->unshaped_ports)) {
		psgd__text(reason, bytes, "bad options");
		return PSGD_ERR_INVALID;
	}
	if (out->interface_name && !plain_name(out->interface_name)) {
		psgd__text(reason, bytes, "'%.40s' is no name of a network interface",
			out->interface_name);
		return PSGD_ERR_INVALID;
	}
	if (out->n_unshaped_ports > MAX_PORTS) {
		psgd__text(reason, bytes, "%zu unshaped ports; at most %d", out->n_unshaped_ports,
			MAX_PORTS);
		return PSGD_ERR_INVALID;
	}
	for (size_t i = 0; i < out->n_unshaped_ports; i++) {
		if (!out->unshaped_ports[i]) {
			psgd__text(reason, bytes, "an unshaped port is 0");
			return PSGD_ERR_INVALID;
		}
	}
	return PSGD_OK;
}

uint64_t psgd_tc_burst(const struct psgd_link *link, uint64_t rate_bps)
{
	struct psgd_link l;

	if (psgd__copy_options(&l, sizeof(l), link))
		l.burst_bytes = 0;
	return l.burst_bytes ? l.burst_bytes : PSGD__FULL_FRAMES_BYTES + rate_bps / 80000;
}

/* How many bytes a rate carries in a time, within bounds. */
static uint64_t carried(uint64_t rate_bps, int64_t ns, uint64_t low, uint64_t high)
{
	wide bytes = (wide)rate_bps * (uint64_t)ns / NS_PER_S / 8;

	return bytes < low ? low : bytes > high ? high : (uint64_t)bytes;
}

static psgd_status make_side(const struct psgd_link *link, uint64_t rate_bps,
	struct psgd__tc_side *side, char *reason, size_t bytes)
{
	side->rate_bps = rate_bps ? rate_bps : PSGD__TC_NO_LIMIT_BPS;
	side->burst_bytes = rate_bps ? psgd_tc_burst(link, rate_bps)
				     : psgd_tc_burst(NULL, PSGD__TC_NO_LIMIT_BPS);
	side->fifo_bytes = rate_bps ? carried(rate_bps, FIFO_NS, MIN_FIFO_BYTES, MAX_FIFO_BYTES)
				    : PSGD__TC_NO_LIMIT_FIFO;
	if (side->rate_bps < 8 || side->rate_bps > PSGD__TC_NO_LIMIT_BPS) {
		psgd__text(reason, bytes,
			"a rate of %" PRIu64 " bit/s; expected 8 to %" PRIu64 ", or 0 for no limit",
			rate_bps, PSGD__TC_NO_LIMIT_BPS);
		return PSGD_ERR_INVALID;
	}
	if ((wide)side->burst_bytes * 8 * NS_PER_S / side->rate_bps > MAX_BURST_NS) {
		psgd__text(reason, bytes,
			"a burst of %" PRIu64 " bytes is more than the kernel's 274 s at %" PRIu64
			" bit/s",
			side->burst_bytes, side->rate_bps);
		return PSGD_ERR_INVALID;
	}
	return PSGD_OK;
}

/*
 * netem is also the queue before the rate: beside what is on its way, twice over, it holds what a
 * fifo would. Its limit counts packets, and one of them may be many frames.
 */
static void make_netem(const struct psgd_link *link, uint64_t rate_bps, struct psgd__tc_netem *out)
{
	wide ns = ((wide)link->delay_ns + (wide)link->jitter_ns) * 2 + FIFO_NS;
	wide packets = (wide)rate_bps * ns / NS_PER_S / 8 / PSGD__FRAME_BYTES;

	out->delay_ns = link->delay_ns;
	out->jitter_ns = link->jitter_ns;
	out->loss_ppm = link->loss_ppm;
	out->packets = packets < MIN_PACKETS   ? MIN_PACKETS
		       : packets > MAX_PACKETS ? MAX_PACKETS
					       : (uint32_t)packets;
}

static psgd_status check_link(
	struct psgd_link *out, const struct psgd_link *in, char *reason, size_t bytes)
{
	psgd_status status = psgd__link_check(out, in);

	if (!status && out->egress_bps == 0 && out->ingress_bps == 0 && !out->delay_ns &&
		!out->loss_ppm) {
		psgd__text(reason, bytes, "a link without rate, delay or loss limits nothing");
		return PSGD_ERR_INVALID;
	}
	if (!status && out->jitter_ns > INT32_MAX) {
		psgd__text(reason, bytes, "a jitter of more than 2.1 s, which netem cannot do");
		return PSGD_ERR_INVALID;
	}
	if (!status)
		return PSGD_OK;
	if (out->loss_ppm >= PSGD__PPM)
		psgd__text(reason, bytes, "a link that loses all frames");
	else
		psgd__text(reason, bytes, "bad link: delay, jitter within the delay, losses");
	return status;
}

psgd_status psgd__tc_plan_make(const struct psgd_tc_options *options, const struct psgd_link *link,
	struct psgd__tc_plan *plan, char *reason, size_t bytes)
{
	struct psgd_link l;

	*plan = (struct psgd__tc_plan){
		.size = sizeof(*plan),
		.free_burst_bytes = psgd_tc_burst(NULL, PSGD__TC_NO_LIMIT_BPS),
		.ports = options->unshaped_ports,
		.n_ports = options->n_unshaped_ports,
	};
	PSGD__TRY(check_link(&l, link, reason, bytes));
	PSGD__TRY(make_side(&l, l.egress_bps, &plan->out, reason, bytes));
	if (l.ingress_bps)
		PSGD__TRY(make_side(&l, l.ingress_bps, &plan->in, reason, bytes));
	if (l.delay_ns || l.loss_ppm) {
		make_netem(&l, plan->out.rate_bps, &plan->netem);
		plan->out.fifo_bytes = 0;
	}
	return PSGD_OK;
}
