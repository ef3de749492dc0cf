/* psgd-train-image --pack. SPDX-License-Identifier: MIT */
#ifndef IMAGE_PACK_COMMAND_H
#define IMAGE_PACK_COMMAND_H

#include "error.h"

/* Packs, shows progress on a terminal, and says what was packed. Errors: as pack_images. */
psgd_status pack_command(const char *from, const char *to, struct image_error *error);

#endif
