#include "rig.h"

#include <check.h>

static void dress(void *user, uint32_t worker, struct psgd_session_options *options)
{
	struct rig *rig = user;

	rig->lazy[worker] = (struct lazy_transport){&rig->device[worker], options->transport};
	rig->transport[worker] = lazy_transport(&rig->lazy[worker]);
	options->device = &rig->device[worker];
	options->transport = &rig->transport[worker];
}

void rig_open(struct rig *rig, uint64_t seed)
{
	for (uint32_t w = 0; w < TEAM_MAX; w++)
		ck_assert_int_eq(lazy_open(LAZY_DELAYED, seed + w, &rig->device[w]), PSGD_OK);
}

void rig_close(struct rig *rig)
{
	for (uint32_t w = 0; w < TEAM_MAX; w++) {
		ck_assert_int_eq(lazy_leaks(&rig->device[w]), 0);
		psgd_device_destroy(&rig->device[w]);
	}
}

void rig_start(struct rig *rig, struct crew *crew, const struct crew_variant *variant)
{
	crew_start(crew, variant);
	crew->dress = dress;
	crew->user = rig;
	crew_go(crew);
}

void times_add_up(const struct psgd_report *r)
{
	ck_assert_int_eq(r->step_ns, r->compute_ns + r->exposed_encode_ns + r->exposed_wire_ns +
					     r->exposed_decode_ns + r->sync_ns);
	ck_assert_int_ge(r->compute_ns, 0);
	ck_assert_int_ge(r->exposed_encode_ns, 0);
	ck_assert_int_ge(r->exposed_wire_ns, 0);
	ck_assert_int_ge(r->exposed_decode_ns, 0);
	ck_assert_int_ge(r->encode_ns, r->exposed_encode_ns);
	ck_assert_int_ge(r->decode_ns, r->exposed_decode_ns);
}
