#include "support/fault.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/base.h"

/*
 * Relaxed throughout: what the library does not order must stay unordered, or the thread sanitizer
 * would not see it.
 */
struct site {
	_Atomic(void *) caller;
	_Atomic(const char *) kind;
	atomic_long seen; /* since fault_arm */
	atomic_bool failed;
};

static struct site sites[FAULT_SITES];
static atomic_bool armed, fired;
static atomic_long count, target, device_blocks;
static _Atomic size_t target_site;
#define RELAXED memory_order_relaxed
#define ANY_SITE FAULT_SITES

static void arm(size_t site, long k)
{
	atomic_store_explicit(&count, 0, RELAXED);
	for (size_t i = 0; i < FAULT_SITES; i++)
		atomic_store_explicit(&sites[i].seen, 0, RELAXED);
	atomic_store_explicit(&target, k, RELAXED);
	atomic_store_explicit(&target_site, site, RELAXED);
	atomic_store_explicit(&fired, false, RELAXED);
	atomic_store_explicit(&armed, true, RELAXED);
}

void fault_arm(long k)
{
	arm(ANY_SITE, k);
}

void fault_arm_at(size_t site, long k)
{
	arm(site, k);
}

bool fault_disarm(void)
{
	atomic_store_explicit(&armed, false, RELAXED);
	return atomic_load_explicit(&fired, RELAXED);
}

long fault_count(void)
{
	return atomic_load_explicit(&count, RELAXED);
}

size_t fault_n_sites(void)
{
	size_t n = 0;

	while (n < FAULT_SITES && atomic_load_explicit(&sites[n].caller, RELAXED))
		n++;
	return n;
}

bool fault_has_failed(size_t site)
{
	return atomic_load_explicit(&sites[site].failed, RELAXED);
}

const char *fault_kind(size_t site)
{
	return atomic_load_explicit(&sites[site].kind, RELAXED);
}

static size_t site_of(void *caller, const char *kind)
{
	for (size_t i = 0; i < FAULT_SITES; i++) {
		void *there = NULL;

		if (atomic_compare_exchange_strong_explicit(
			    &sites[i].caller, &there, caller, RELAXED, RELAXED)) {
			atomic_store_explicit(&sites[i].kind, kind, RELAXED);
			return i;
		}
		if (there == caller)
			return i;
	}
	abort(); /* FAULT_SITES is too small */
}

static bool hit(void *caller, const char *kind)
{
	size_t site, wanted;
	long k, n;

	if (!atomic_load_explicit(&armed, RELAXED))
		return false;
	site = site_of(caller, kind);
	wanted = atomic_load_explicit(&target_site, RELAXED);
	k = atomic_fetch_add_explicit(&count, 1, RELAXED);
	n = atomic_fetch_add_explicit(&sites[site].seen, 1, RELAXED);
	if (wanted != ANY_SITE)
		k = site == wanted ? n : -1;
	if (k < 0 || k != atomic_load_explicit(&target, RELAXED))
		return false;
	atomic_store_explicit(&sites[site].failed, true, RELAXED);
	atomic_store_explicit(&fired, true, RELAXED);
	return true;
}

#define CALLER __builtin_return_address(0)

void *__real_psgd__calloc(size_t n, size_t size);
void *__wrap_psgd__calloc(size_t n, size_t size);
void *__wrap_psgd__calloc(size_t n, size_t size)
{
	return hit(CALLER, "calloc") ? NULL : __real_psgd__calloc(n, size);
}

psgd_status __real_psgd__grow(void *array, size_t *capacity, size_t n, size_t size);
psgd_status __wrap_psgd__grow(void *array, size_t *capacity, size_t n, size_t size);
psgd_status __wrap_psgd__grow(void *array, size_t *capacity, size_t n, size_t size)
{
	if (n > *capacity && hit(CALLER, "grow"))
		return PSGD_ERR_NOMEM;
	return __real_psgd__grow(array, capacity, n, size);
}

char *__real_psgd__strdup(const char *text);
char *__wrap_psgd__strdup(const char *text);
char *__wrap_psgd__strdup(const char *text)
{
	return text && hit(CALLER, "strdup") ? NULL : __real_psgd__strdup(text);
}

int __real_pthread_create(
	pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *user);
int __wrap_pthread_create(
	pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *user);
int __wrap_pthread_create(
	pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *user)
{
	return hit(CALLER, "thread") ? EAGAIN
				     : __real_pthread_create(thread, attributes, run, user);
}

void *fault_alloc(void *user, size_t bytes)
{
	void *memory;

	(void)user;
	if (hit(CALLER, "device"))
		return NULL;
	memory = aligned_alloc(64, bytes);
	if (memory)
		atomic_fetch_add_explicit(&device_blocks, 1, RELAXED);
	return memory;
}

void fault_free(void *user, void *memory, size_t bytes)
{
	(void)user;
	(void)bytes;
	free(memory);
	atomic_fetch_sub_explicit(&device_blocks, 1, RELAXED);
}

long fault_device_blocks(void)
{
	return atomic_load_explicit(&device_blocks, RELAXED);
}
