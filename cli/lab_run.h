/* A run over the nodes of a lab. SPDX-License-Identifier: MIT */
#ifndef CLI_LAB_RUN_H
#define CLI_LAB_RUN_H

#include "lab_flags.h"

struct lab_run {
	struct lab_plan_flags *flags;
	const char *config;
	const char *dir; /* of the nodes' folders; NULL: the lab's name */
	struct cli_strings overrides;
	int64_t n_workers; /* of a node */
	bool overwrite, smoke, resume;
	char **command; /* NULL: the default trainer */
};

/*
 * Runs it over the lab that is up, or one that is made for it. Complains and returns an exit code.
 */
int lab_run(const struct lab_run *run);

#endif
