/* Between the files of psgd_tc_*: the plan for an interface, and the mark of its owner. */
#ifndef PSGD_SHAPE_TC_IMPL_H
#define PSGD_SHAPE_TC_IMPL_H

#include "base/base.h"
#include "shape/link.h"
#include "shape/tc_module.h"

/* Copies the options and checks them; the name of an interface only when there is one. */
psgd_status psgd__tc_options_check(
	struct psgd_tc_options *out, const struct psgd_tc_options *in, char *reason, size_t bytes);

/* What shall be there. Borrows the ports of checked options; the mark is the caller's to set. */
psgd_status psgd__tc_plan_make(const struct psgd_tc_options *options, const struct psgd_link *link,
	struct psgd__tc_plan *plan, char *reason, size_t bytes);

/* The mark of something that is nobody's. */
#define PSGD__TC_NOBODYS "psgd nobody"

/*
 * The mark of a process that lives: its number, when it started, and the namespace of pids in which
 * both say something. pid 0: nobody's. Errors: INVALID (no such process), IO.
 */
psgd_status psgd__tc_mark(uint32_t pid, char mark[PSGD__TC_MARK_BYTES], char *reason, size_t bytes);

/* Whose a mark is: enum psgd_tc_owner. *pid: the process; 0: none is known. */
uint32_t psgd__tc_owner(const char *mark, uint32_t *pid);

#endif
