/* Do the limits of the kernel act? What was seen before training, and what it means. */
#ifndef PSGD_EXPERIMENT_LINK_CHECK_H
#define PSGD_EXPERIMENT_LINK_CHECK_H

#include <psgd/experiment/measure.h>
#include <psgd/shaper.h>

struct psgd__link_check {
	const char *interface_name; /* that the kernel limits */
	const char *used_name;	    /* that gradients shall go by; NULL: by the master's address */
	bool alone;		    /* all workers are on this node */
	bool steady;		    /* TCP has no reasons of its own to stay below the rate */
	uint64_t sent_bytes;	    /* by this worker, in all-reduces */
	uint64_t left_bytes;	    /* by the interface meanwhile, whoever sent them */
	/* Of what is on the wire, which is more than the payload by the headers of its frames. */
	double configured_mbps; /* of the slower direction; INFINITY: no limit */
	double measured_mbps;	/* INFINITY: too fast to tell */
	double least_mbps; /* that the longest all-reduce had when a burst went beside the limit */
};

/* Fills what follows from the measuring. `link` is all that is configured. Pure. */
void psgd__link_check_rates(struct psgd__link_check *check, const struct psgd_measured *found,
	const struct psgd_link *link, uint64_t burst_bytes);

/* The rate is too low: worth another try, since a busy machine may be why. Alike on all workers. */
bool psgd__link_check_is_slow(const struct psgd__link_check *check);

/*
 * IO, with a reason that names what is likely: less than 90 % of the bytes left by the interface
 * (beside other workers of this node it may have more), or the rate is off by more than 10 %. Pure.
 */
psgd_status psgd__link_check_judge(const struct psgd__link_check *check, char *why, size_t bytes);

#endif
