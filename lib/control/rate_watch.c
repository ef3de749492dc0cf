/*
 * A drop of the learning rate is sudden: a fall to below DROP of what it was at the decision
 * before, and by more than the fall over the whole epoch before to the power of SUDDEN. The last
 * epochs of a cosine fall as steeply, but each little more than the one before it.
 */
#include "control/control.h"

#include <math.h>

#define DROP 0.8
#define SUDDEN 4

bool psgd__rate_dropped(struct psgd__rate_watch *rate, const struct psgd_observation *seen)
{
	double now = seen->learning_rate, fall, before = 1.0, sudden = 1.0;

	if (!isfinite(now) || now <= 0.0)
		return false;
	if (rate->last > 0.0 && seen->epoch != rate->epoch) {
		rate->epoch_end_before = rate->epoch_end;
		rate->epoch_end = rate->last;
	}
	fall = rate->last > 0.0 ? now / rate->last : 1.0;
	if (rate->epoch_end_before > 0.0)
		before = fmin(rate->epoch_end / rate->epoch_end_before, 1.0);
	for (int i = 0; i < SUDDEN; i++)
		sudden *= before;
	rate->last = now;
	rate->epoch = seen->epoch;
	return fall < DROP && fall < sudden;
}
