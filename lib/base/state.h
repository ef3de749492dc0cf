/* State as named arrays: writing and reading them safely, and keeping them in memory. */
#ifndef PSGD_BASE_STATE_H
#define PSGD_BASE_STATE_H

#include <psgd/state.h>

/* Puts an array of rows by cols values. */
psgd_status psgd__state_put(const struct psgd_state_writer *writer, const char *name,
	uint32_t dtype, int64_t rows, int64_t cols, const void *data);

/*
 * Fills `to` with the array of that name. INVALID: there is none; MISMATCH: it is not of this type
 * with this many values.
 */
psgd_status psgd__state_get(const struct psgd_state_reader *reader, const char *name,
	uint32_t dtype, int64_t count, void *to);

/* Puts "prefix/" before every name. The struct must outlive what is made from it. */
struct psgd__state_prefix {
	const char *prefix;
	const struct psgd_state_writer *writer;
	const struct psgd_state_reader *reader;
};
struct psgd_state_writer psgd__state_prefixed_writer(struct psgd__state_prefix *prefix);
struct psgd_state_reader psgd__state_prefixed_reader(struct psgd__state_prefix *prefix);

/* Arrays in memory; zeros are an empty one. */
struct psgd__kept {
	struct psgd__kept_array {
		struct psgd_state_array array; /* name is owned */
		void *data;
		size_t bytes;
	} * arrays;
	size_t n, capacity;
};
struct psgd_state_writer psgd__kept_writer(struct psgd__kept *kept);
struct psgd_state_reader psgd__kept_reader(struct psgd__kept *kept);
void psgd__kept_free(struct psgd__kept *kept);

#endif
