/* safetensors files, room-private. */
#ifndef PSGD_EXPERIMENT_SAFETENSORS_H
#define PSGD_EXPERIMENT_SAFETENSORS_H

#include <jansson.h>

#include <psgd/experiment/checkpoint.h>

struct psgd__safetensors_type {
	char name[8];
	uint32_t bytes;
	uint32_t dtype; /* enum psgd_dtype; 0: it has none */
};

struct psgd__safetensors_entry {
	const char *name; /* in the header */
	const struct psgd__safetensors_type *type;
	uint32_t n_dims;
	int64_t dims[PSGD_MAX_DIMS];
	uint64_t begin, end; /* in the data */
	uint64_t count;
};

struct psgd_safetensors {
	int fd;
	json_t *header;
	struct psgd__safetensors_entry *entries; /* in the order of the data */
	size_t n_entries;
	uint64_t data_at; /* of the data in the file */
};

/* By the name in the file, or, when that is NULL, by the dtype. NULL: unknown. */
const struct psgd__safetensors_type *psgd__safetensors_type(const char *name, uint32_t dtype);

/* write() until all is written. IO with errno. */
psgd_status psgd__write_all(int fd, const void *bytes, size_t n);

/* pread() of all n bytes; IO with errno, also at the end of the file. */
psgd_status psgd__read_at(int fd, void *to, size_t n, uint64_t at);

#endif
