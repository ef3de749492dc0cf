/*
 * Shaping by the kernel: what may be done and to whom, while the module psgd-tc.so does it. The
 * module is opened for each call; its code stays mapped, so that this costs little.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "base/module.h"
#include "shape/tc_impl.h"

#define REASON_BYTES 512

struct tc {
	struct psgd_tc_options o;
	const struct psgd__tc_module *module;
	void *library;
	char mark[PSGD__TC_MARK_BYTES];
	char reason[REASON_BYTES];
};

static psgd_status refuse(struct tc *t, psgd_status status, const char *text)
{
	psgd__text(t->reason, sizeof(t->reason), "%s", text);
	return status;
}

static psgd_status load(struct tc *t, const char *folder)
{
	const struct psgd__module module = {"traffic control", "psgd-tc.so", PSGD__TC_ENTRY_NAME};
	psgd__tc_entry entry;

	PSGD__TRY(psgd__module_open(
		&module, folder, &t->library, &entry, t->reason, sizeof(t->reason)));
	t->module = entry();
	return PSGD_OK;
}

static psgd_status begin(struct tc *t, const struct psgd_tc_options *options)
{
	memset(t, 0, sizeof(*t));
	return psgd__tc_options_check(&t->o, options, t->reason, sizeof(t->reason));
}

/* Closes, and says why it failed. */
static psgd_status end(struct tc *t, psgd_status status)
{
	if (status < 0 && !t->reason[0])
		refuse(t, status, psgd_status_text(status));
	psgd__text(t->o.error, t->o.error_bytes, "%s", status < 0 ? t->reason : "");
	psgd__module_close(t->library);
	return status;
}

/* The plan for a named interface, all that can be told without the module. */
static psgd_status make_plan(struct tc *t, const struct psgd_link *link, struct psgd__tc_plan *plan)
{
	if (!t->o.interface_name)
		return refuse(t, PSGD_ERR_INVALID, "no interface is named");
	return psgd__tc_plan_make(&t->o, link, plan, t->reason, sizeof(t->reason));
}

static psgd_status look(struct tc *t, struct psgd__tc_found *found)
{
	PSGD__TRY(load(t, t->o.module_dir));
	return t->module->look(t->o.interface_name, found, t->reason, sizeof(t->reason));
}

static bool is_shaped(const struct psgd__tc_found *found)
{
	return found->mark_index || found->root || found->ingress;
}

/* What is not psgd's stays, and so does what a living process still uses. */
static psgd_status may_take(struct tc *t, const struct psgd__tc_found *found)
{
	uint32_t pid, owner;

	if (found->foreign) {
		psgd__text(t->reason, sizeof(t->reason),
			"%s has a qdisc that is not psgd's (%s); it is left alone", found->name,
			found->other);
		return PSGD_ERR_STATE;
	}
	if (!found->mark[0])
		return PSGD_OK;
	owner = psgd__tc_owner(found->mark, &pid);
	if (owner == PSGD_TC_ALIVE && pid != t->o.owner_pid) {
		psgd__text(t->reason, sizeof(t->reason),
			"%s is shaped by process %" PRIu32 ", which is alive", found->name, pid);
		return PSGD_ERR_STATE;
	}
	if (owner == PSGD_TC_UNKNOWN) {
		psgd__text(t->reason, sizeof(t->reason),
			"%s is shaped, and it cannot be told for whom (%s); clear it first",
			found->name, found->mark);
		return PSGD_ERR_STATE;
	}
	return PSGD_OK;
}

/* The interface, the plan with its mark, and whether they may come together. */
static psgd_status prepare(struct tc *t, const struct psgd_link *link, struct psgd__tc_found *found,
	struct psgd__tc_plan *plan)
{
	PSGD__TRY(make_plan(t, link, plan));
	PSGD__TRY(psgd__tc_mark(t->o.owner_pid, t->mark, t->reason, sizeof(t->reason)));
	plan->mark = t->mark;
	PSGD__TRY(look(t, found));
	return may_take(t, found);
}

struct trial {
	const struct psgd__tc_module *module;
	const struct psgd__tc_plan *plan;
	psgd_status status;
	char reason[REASON_BYTES];
};

/*
 * All of it on the loopback of a network namespace that ends with this thread. Who may change
 * interfaces but not make a namespace goes without: what lacks is then found by psgd_tc_apply.
 */
static void *try_all(void *argument)
{
	struct trial *trial = argument;
	struct psgd__tc_found lo = {.size = sizeof(lo)};

	if (unshare(CLONE_NEWNET))
		return NULL;
	trial->status = trial->module->look("lo", &lo, trial->reason, sizeof(trial->reason));
	if (trial->status)
		return NULL;
	trial->status =
		trial->module->apply(&lo, trial->plan, trial->reason, sizeof(trial->reason));
	return NULL;
}

static psgd_status try_elsewhere(struct tc *t, const struct psgd__tc_plan *plan)
{
	struct trial trial = {.module = t->module, .plan = plan};
	pthread_t thread;

	if (pthread_create(&thread, NULL, try_all, &trial))
		return refuse(t, PSGD_ERR_NOMEM, "no thread");
	pthread_join(thread, NULL);
	return trial.status ? refuse(t, trial.status, trial.reason) : PSGD_OK;
}

psgd_status psgd_tc_check(const struct psgd_tc_options *options, const struct psgd_link *link)
{
	struct psgd__tc_found found = {.size = sizeof(found)};
	struct psgd__tc_plan plan;
	struct tc t;
	psgd_status status = begin(&t, options);

	if (!status)
		status = prepare(&t, link, &found, &plan);
	if (!status)
		status = t.module->may(&found, t.reason, sizeof(t.reason));
	if (!status)
		status = try_elsewhere(&t, &plan);
	return end(&t, status);
}

/*
 * In the place of what stands: first all of it elsewhere, so that what the kernel lacks is known
 * while the old limits are still there.
 */
static psgd_status replace(
	struct tc *t, const struct psgd__tc_found *found, const struct psgd__tc_plan *plan)
{
	char reason[REASON_BYTES];
	psgd_status status;

	PSGD__TRY(try_elsewhere(t, plan));
	PSGD__TRY(t->module->clear(found, t->reason, sizeof(t->reason)));
	status = t->module->apply(found, plan, t->reason, sizeof(t->reason));
	if (status) {
		psgd__text(reason, sizeof(reason), "%.400s; the limits that stood on %s are gone",
			t->reason, found->name);
		refuse(t, status, reason);
	}
	return status;
}

psgd_status psgd_tc_apply(const struct psgd_tc_options *options, const struct psgd_link *link)
{
	struct psgd__tc_found found = {.size = sizeof(found)};
	struct psgd__tc_plan plan;
	struct tc t;
	psgd_status status = begin(&t, options);

	if (!status)
		status = prepare(&t, link, &found, &plan);
	if (!status && is_shaped(&found))
		status = replace(&t, &found, &plan);
	else if (!status)
		status = t.module->apply(&found, &plan, t.reason, sizeof(t.reason));
	return end(&t, status);
}

psgd_status psgd_tc_change(const struct psgd_tc_options *options, const struct psgd_link *link)
{
	struct psgd__tc_found found = {.size = sizeof(found)};
	struct psgd__tc_plan plan;
	struct tc t;
	psgd_status status = begin(&t, options);

	if (!status)
		status = make_plan(&t, link, &plan);
	if (!status)
		status = look(&t, &found);
	if (!status && !found.root)
		status = refuse(&t, PSGD_ERR_STATE, "the interface is not shaped");
	else if (!status && !plan.netem.packets != !found.netem.packets)
		status = refuse(
			&t, PSGD_ERR_STATE, "delay and losses can change, but neither come nor go");
	else if (!status && !plan.in.rate_bps != !found.in.rate_bps)
		status = refuse(
			&t, PSGD_ERR_STATE, "an ingress limit can change, but neither come nor go");
	if (!status)
		status = t.module->change(&found, &plan, t.reason, sizeof(t.reason));
	return end(&t, status);
}

static uint64_t limit_of(const struct psgd__tc_side *side)
{
	return side->rate_bps == PSGD__TC_NO_LIMIT_BPS ? 0 : side->rate_bps;
}

static void fill_state(struct psgd_tc_state *to, const struct psgd__tc_found *found)
{
	struct psgd_tc_state s = {
		.size = sizeof(s),
		.link = {.size = sizeof(s.link),
			.egress_bps = limit_of(&found->out),
			.ingress_bps = limit_of(&found->in),
			.delay_ns = found->netem.delay_ns,
			.jitter_ns = found->netem.jitter_ns,
			.loss_ppm = found->netem.loss_ppm},
		.tx_bytes = found->tx_bytes,
		.rx_bytes = found->rx_bytes,
		.shaped_bytes = found->shaped_bytes,
		.shaped_drops = found->shaped_drops,
		.shaped = is_shaped(found),
		.foreign = found->foreign,
	};

	s.link.burst_bytes = s.link.egress_bps	  ? found->out.burst_bytes
			     : s.link.ingress_bps ? found->in.burst_bytes
						  : 0;
	if (found->name[0])
		psgd__text(s.interface_name, sizeof(s.interface_name), "%s", found->name);
	else
		psgd__text(
			s.interface_name, sizeof(s.interface_name), "psgd%" PRIu32, found->index);
	if (s.shaped)
		s.owner = psgd__tc_owner(found->mark, &s.owner_pid);
	psgd__copy_report(to, &s, sizeof(s));
}

/* One interface, or all that psgd shapes; *list is the module's to release. */
static psgd_status gather(struct tc *t, struct psgd__tc_found *one, struct psgd__tc_found **list,
	const struct psgd__tc_found **all, size_t *n)
{
	psgd_status status;

	if (t->o.interface_name) {
		*n = 1;
		*all = one;
		return look(t, one);
	}
	PSGD__TRY(load(t, t->o.module_dir));
	status = t->module->list(list, n, t->reason, sizeof(t->reason));
	*all = *list;
	return status;
}

psgd_status psgd_tc_show(const struct psgd_tc_options *options, struct psgd_tc_state *states,
	size_t n, size_t *found)
{
	struct psgd__tc_found one = {.size = sizeof(one)}, *list = NULL;
	const struct psgd__tc_found *all = NULL;
	size_t n_all = 0, stride = states ? states->size : 0;
	psgd_status status;
	struct tc t;

	if (!found || (n && (!states || !psgd__report_fits(states))))
		return PSGD_ERR_INVALID;
	*found = 0;
	status = begin(&t, options);
	if (!status)
		status = gather(&t, &one, &list, &all, &n_all);
	for (size_t i = 0; !status && i < n_all && i < n; i++) {
		struct psgd_tc_state *state =
			(struct psgd_tc_state *)(void *)((char *)states + i * stride);

		memcpy(state, &stride, sizeof(stride)); /* all of a caller's are of one size */
		fill_state(state, &all[i]);
	}
	if (!status)
		*found = n_all;
	if (list)
		t.module->release(list);
	return end(&t, status);
}

/* With `orphans`, only what belonged to a process that has ended. */
static bool to_be_cleared(const struct psgd__tc_found *found, int orphans)
{
	uint32_t pid;

	return is_shaped(found) && (!orphans || psgd__tc_owner(found->mark, &pid) == PSGD_TC_GONE);
}

psgd_status psgd_tc_clear(const struct psgd_tc_options *options, int orphans, size_t *n_cleared)
{
	struct psgd__tc_found one = {.size = sizeof(one)}, *list = NULL;
	const struct psgd__tc_found *all = NULL;
	size_t n = 0, cleared = 0;
	psgd_status status, first = PSGD_OK;
	char reason[REASON_BYTES] = "";
	struct tc t;

	if (n_cleared)
		*n_cleared = 0;
	status = begin(&t, options);
	if (!status)
		status = gather(&t, &one, &list, &all, &n);
	for (size_t i = 0; !status && i < n; i++) {
		psgd_status one_status;

		if (!to_be_cleared(&all[i], orphans))
			continue;
		one_status = t.module->clear(&all[i], t.reason, sizeof(t.reason));
		cleared += !one_status;
		if (one_status && !first) { /* the others are cleared all the same */
			first = one_status;
			psgd__text(reason, sizeof(reason), "%s", t.reason);
		}
	}
	if (first)
		status = refuse(&t, first, reason);
	if (n_cleared)
		*n_cleared = cleared;
	if (list)
		t.module->release(list);
	return end(&t, status);
}

psgd_status psgd_tc_interface_to(
	const char *address, const char *module_dir, char name[16], char *error, size_t error_bytes)
{
	struct tc t = {.o = {.error = error, .error_bytes = error_bytes}};
	unsigned char numbers[sizeof(struct in6_addr)];
	size_t length = 0;
	psgd_status status;

	if (!address || !name)
		return PSGD_ERR_INVALID;
	name[0] = '\0';
	if (inet_pton(AF_INET, address, numbers) == 1)
		length = sizeof(struct in_addr);
	else if (inet_pton(AF_INET6, address, numbers) == 1)
		length = sizeof(struct in6_addr);
	if (!length) {
		psgd__text(t.reason, sizeof(t.reason), "'%.60s' is no address in numbers", address);
		return end(&t, PSGD_ERR_INVALID);
	}
	status = load(&t, module_dir);
	if (!status)
		status = t.module->route(numbers, length, name, t.reason, sizeof(t.reason));
	return end(&t, status);
}
