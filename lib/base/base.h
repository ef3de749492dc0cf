/*
 * What every room uses: checked memory, options by size, text, clock, hash.
 * Names with a double underscore are private to the library.
 */
#ifndef PSGD_BASE_H
#define PSGD_BASE_H

#include <stdarg.h>
#include <stdlib.h>

#include <psgd/types.h>

/* Ends the enclosing function with a failed status. */
#define PSGD__TRY(call)                                                                            \
	do {                                                                                       \
		psgd_status try_ = (call);                                                         \
		if (try_ < 0)                                                                      \
			return try_;                                                               \
	} while (0)

#define PSGD__COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* True when a table of operations reaches to the end of the member, and it is set. */
#define PSGD__HAS(ops, member)                                                                     \
	((ops)->size >= (size_t)((const char *)(&(ops)->member + 1) - (const char *)(ops)) &&      \
		(ops)->member)

/* True when a * b does not fit; else *out is the product. */
static inline bool psgd__mul_overflows(size_t a, size_t b, size_t *out)
{
	return __builtin_mul_overflow(a, b, out);
}

/* Zeroed array of n elements, at least one byte; NULL when n * size overflows or memory ends. */
void *psgd__calloc(size_t n, size_t size);

/* Grows *array to hold at least n elements of `size` bytes, by doubling; new ones are zero. */
psgd_status psgd__grow(void *array, size_t *capacity, size_t n, size_t size);

char *psgd__strdup(const char *text); /* NULL gives NULL */

/*
 * Copies the caller's options over zeros. Both begin with their size. A caller that knows more
 * than this library must have left the rest zero. NULL options: all zero.
 */
psgd_status psgd__copy_options(void *to, size_t to_size, const void *from);

/* False when the size that a caller's report begins with cannot be one. NULL is fine. */
bool psgd__report_fits(const void *report);

/* Fills the caller's report of whatever size it has; keeps its size field. */
void psgd__copy_report(void *to, const void *from, size_t from_size);

#define PSGD__BOOT_BYTES 40

/* What tells the kernels of hosts apart: two containers on one host have one. Text. */
void psgd__boot_id(char out[PSGD__BOOT_BYTES]);

/* CLOCK_MONOTONIC. */
int64_t psgd__now_ns(void);

/* snprintf into a buffer that may be NULL or of size 0. */
void psgd__text(char *to, size_t bytes, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void psgd__vtext(char *to, size_t bytes, const char *format, va_list args);

/* FNV-1a, 64 bits. Chain by passing the previous value; begin with PSGD__HASH_START. */
#define PSGD__HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t psgd__hash(uint64_t hash, const void *bytes, size_t n);
static inline uint64_t psgd__hash_u64(uint64_t hash, uint64_t value)
{
	return psgd__hash(hash, &value, sizeof(value));
}

#endif
