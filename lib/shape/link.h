/* What every shaper asks of a link. */
#ifndef PSGD_SHAPE_LINK_H
#define PSGD_SHAPE_LINK_H

#include <psgd/shaper.h>

#define PSGD__FULL_FRAMES_BYTES 3028 /* two of Ethernet */
#define PSGD__FRAME_BYTES 1500
#define PSGD__PPM 1000000

/* Copies a link and checks it. Errors: INVALID (as psgd_shaper_model), UNSUPPORTED. */
psgd_status psgd__link_check(struct psgd_link *out, const struct psgd_link *in);

#endif
