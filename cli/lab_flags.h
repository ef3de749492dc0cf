/* The flags that say what a lab is. SPDX-License-Identifier: MIT */
#ifndef CLI_LAB_FLAGS_H
#define CLI_LAB_FLAGS_H

#include "lab.h"

#define LAB_DEFAULT_NAME "lab"

/* A lab as flags say it. */
struct lab_plan_flags {
	struct lab_plan plan;
	bool given;	    /* something was said about it beside its name */
	bool both, one_way; /* --mbps; --egress or --ingress */
};

#define LAB_PLAN_FLAGS_INIT                                                                        \
	{                                                                                          \
		.plan = {                                                                          \
			.name = LAB_DEFAULT_NAME,                                                  \
			.n = 2,                                                                    \
			.range = 0x0a4d0000, /* 10.77.0.0 */                                       \
			.bits = 24,                                                                \
			.link = PSGD_INIT(psgd_link)                                               \
		}                                                                                  \
	}

/* The flags; the input is a lab_plan_flags. */
extern const struct argp lab_plan_argp;

/* There are addresses for all nodes; complains. */
bool lab_check_plan(const struct lab_plan *plan);

/* A name of a lab; a bad one ends the program with the usage. */
const char *lab_check_name(struct argp_state *state, const char *name);

/* Cuts the arguments at "--"; what stands behind it, NULL: nothing. */
char **lab_cut_command(int *argc, char **argv);

#endif
