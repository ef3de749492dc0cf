/* A lazy device, and a transport that respects its streams, for every worker of a crew. */
#ifndef TESTS_ENGINE_RIG_H
#define TESTS_ENGINE_RIG_H

#include "crew.h"
#include "lazy_transport.h"

struct rig {
	struct psgd_device device[TEAM_MAX];
	struct lazy_transport lazy[TEAM_MAX];
	struct psgd_transport transport[TEAM_MAX];
};

void rig_open(struct rig *rig, uint64_t seed);
void rig_close(struct rig *rig); /* nothing may be left on the devices */

/* Starts a crew on the rig, lets it go, and does not wait. */
void rig_start(struct rig *rig, struct crew *crew, const struct crew_variant *variant);

/* The parts of a step are the whole, and none is less than nothing. */
void times_add_up(const struct psgd_report *report);

#endif
