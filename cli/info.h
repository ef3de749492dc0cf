/* What the files of `psgd info` share. SPDX-License-Identifier: MIT */
#ifndef CLI_INFO_H
#define CLI_INFO_H

#include "cli.h"

/* What info found, for people. */
void cli_info_print(const json_t *all);

#endif
