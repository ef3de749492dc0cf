/* The plan for an interface as commands of ip and tc. */
#include <inttypes.h>
#include <stdio.h>

#include "shape/tc_impl.h"

#define REASON_BYTES 256

/* Text that may not fit: `used` goes on counting. */
struct text {
	char *to;
	size_t bytes, used;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *t, const char *format, ...)
{
	size_t left = t->used < t->bytes ? t->bytes - t->used : 0;
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(left ? t->to + t->used : NULL, left, format, args);
	va_end(args);
	t->used += n > 0 ? (size_t)n : 0;
}

/* Exact to the nanosecond, of which tc makes ticks of 64; every version of it knows this unit. */
static void add_us(struct text *t, int64_t ns)
{
	add(t, " %" PRId64 ".%03dus", ns / 1000, (int)(ns % 1000));
}

static void add_class(
	struct text *t, const char *device, unsigned minor, uint64_t rate_bps, uint64_t burst)
{
	add(t, "tc class add dev %s parent %x: classid %x:%x htb", device, PSGD_TC_HANDLE,
		PSGD_TC_HANDLE, minor);
	add(t, " rate %" PRIu64 "bit ceil %" PRIu64 "bit", rate_bps, rate_bps);
	add(t, " burst %" PRIu64 "b cburst %" PRIu64 "b quantum %u\n", burst, burst,
		PSGD__TC_QUANTUM);
}

static void add_leaf(struct text *t, const char *device, unsigned minor, unsigned handle)
{
	add(t, "tc qdisc add dev %s parent %x:%x handle %x:", device, PSGD_TC_HANDLE, minor,
		handle);
}

static void add_netem(struct text *t, const struct psgd__tc_netem *netem)
{
	add(t, " netem limit %" PRIu32, netem->packets);
	if (netem->delay_ns) {
		add(t, " delay");
		add_us(t, netem->delay_ns);
		if (netem->jitter_ns)
			add_us(t, netem->jitter_ns);
	}
	if (netem->loss_ppm)
		add(t, " loss %" PRIu32 ".%04" PRIu32 "%%", netem->loss_ppm / 10000,
			netem->loss_ppm % 10000);
	add(t, "\n");
}

static void add_filter(struct text *t, const char *device, int ipv6, const char *end, uint16_t port)
{
	add(t, "tc filter add dev %s parent %x: protocol %s prio %u", device, PSGD_TC_HANDLE,
		ipv6 ? "ipv6" : "ip", ipv6 ? PSGD__TC_PRIO_IPV6 : PSGD__TC_PRIO_IPV4);
	add(t, " u32 match %s protocol 6 0xff match %s %s %u 0xffff", ipv6 ? "ip6" : "ip",
		ipv6 ? "ip6" : "ip", end, port);
	add(t, " flowid %x:%x\n", PSGD_TC_HANDLE, PSGD__TC_UNSHAPED);
}

/* The root qdisc, and all below it. */
static void add_tree(struct text *t, const char *device, const struct psgd__tc_plan *plan,
	const struct psgd__tc_side *side)
{
	add(t, "tc qdisc add dev %s root handle %x: htb default %x\n", device, PSGD_TC_HANDLE,
		PSGD__TC_SHAPED);
	add_class(t, device, PSGD__TC_SHAPED, side->rate_bps, side->burst_bytes);
	add_class(t, device, PSGD__TC_UNSHAPED, PSGD__TC_NO_LIMIT_BPS, plan->free_burst_bytes);
	add_leaf(t, device, PSGD__TC_SHAPED, PSGD__TC_SHAPED_LEAF);
	if (side->fifo_bytes)
		add(t, " bfifo limit %" PRIu64 "\n", side->fifo_bytes);
	else
		add_netem(t, &plan->netem);
	add_leaf(t, device, PSGD__TC_UNSHAPED, PSGD__TC_UNSHAPED_LEAF);
	add(t, " bfifo limit %u\n", PSGD__TC_NO_LIMIT_FIFO);
	for (size_t i = 0; i < plan->n_ports; i++) {
		for (int ipv6 = 0; ipv6 < 2; ipv6++) {
			add_filter(t, device, ipv6, "sport", plan->ports[i]);
			add_filter(t, device, ipv6, "dport", plan->ports[i]);
		}
	}
}

static void add_all(
	struct text *t, const char *device, uint32_t index, const struct psgd__tc_plan *plan)
{
	char mark[PSGD__TC_NAME_BYTES];

	psgd__text(mark, sizeof(mark), "psgd%" PRIu32, index);
	add(t, "ip link add name %s type ifb\n", mark);
	add(t, "ip link set dev %s alias '%s' up\n", mark, PSGD__TC_NOBODYS);
	if (plan->in.rate_bps)
		add_tree(t, mark, plan, &plan->in);
	add_tree(t, device, plan, &plan->out);
	if (!plan->in.rate_bps)
		return;
	add(t, "tc qdisc add dev %s handle ffff: ingress\n", device);
	add(t, "tc filter add dev %s parent ffff: protocol all prio %u u32 match u32 0 0", device,
		PSGD__TC_PRIO_INGRESS);
	add(t, " action mirred egress redirect dev %s\n", mark);
}

psgd_status psgd_tc_commands(const struct psgd_tc_options *options, const struct psgd_link *link,
	uint32_t index, char *text, size_t bytes)
{
	char reason[REASON_BYTES] = "";
	struct text t = {text, bytes, 0};
	struct psgd__tc_plan plan;
	struct psgd_tc_options o;
	psgd_status status;

	if (!text || !bytes)
		return PSGD_ERR_INVALID;
	*text = '\0';
	status = psgd__tc_options_check(&o, options, reason, sizeof(reason));
	if (!status && !o.interface_name) {
		psgd__text(reason, sizeof(reason), "no interface is named");
		status = PSGD_ERR_INVALID;
	}
	if (!status)
		status = psgd__tc_plan_make(&o, link, &plan, reason, sizeof(reason));
	if (!status) {
		add_all(&t, o.interface_name, index, &plan);
		if (t.used >= bytes) {
			*text = '\0';
			psgd__text(reason, sizeof(reason), "the commands are %zu bytes long",
				t.used + 1);
			status = PSGD_ERR_INVALID;
		}
	}
	psgd__text(o.error, o.error_bytes, "%s", reason);
	return status;
}
