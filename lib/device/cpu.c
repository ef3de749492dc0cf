#include "device/cpu.h"

#include <string.h>

#include "base/base.h"

#define CPU_ALIGN 64
#define MAX_THREADS 1024

/* What is really asked for, and given back: aligned_alloc wants multiples. 0: too much. */
static size_t whole_of(size_t bytes)
{
	size_t whole;

	if (__builtin_add_overflow(bytes ? bytes : 1, CPU_ALIGN - 1, &whole))
		return 0;
	return whole - whole % CPU_ALIGN;
}

static psgd_status cpu_alloc(void *self, size_t bytes, void **out)
{
	struct psgd__cpu *cpu = self;
	size_t whole = whole_of(bytes);

	*out = NULL;
	if (!whole)
		return PSGD_ERR_NOMEM;
	if (cpu->options.alloc)
		*out = cpu->options.alloc(cpu->options.alloc_user, whole);
	else
		*out = aligned_alloc(CPU_ALIGN, whole);
	return *out ? PSGD_OK : PSGD_ERR_NOMEM;
}

static void cpu_free(void *self, void *memory, size_t bytes)
{
	struct psgd__cpu *cpu = self;

	if (!memory)
		return;
	if (cpu->options.free)
		cpu->options.free(cpu->options.alloc_user, memory, whole_of(bytes));
	else
		free(memory);
}

static psgd_status cpu_copy(
	void *self, void *dst, const void *src, size_t bytes, psgd_stream stream)
{
	(void)self;
	(void)stream;
	memcpy(dst, src, bytes);
	return PSGD_OK;
}

static psgd_status cpu_zero(void *self, void *dst, size_t bytes, psgd_stream stream)
{
	(void)self;
	(void)stream;
	memset(dst, 0, bytes);
	return PSGD_OK;
}

static const char *cpu_variant(void *self)
{
	return ((struct psgd__cpu *)self)->isa->name;
}

static void cpu_destroy(void *self)
{
	struct psgd__cpu *cpu = self;

	psgd__pool_close(cpu->pool);
	free(cpu);
}

static const struct psgd_device_ops cpu_ops = {
	.size = sizeof(cpu_ops),
	.name = "cpu",
	.alloc = cpu_alloc,
	.free = cpu_free,
	.copy = cpu_copy,
	.zero = cpu_zero,
	.kernels = &psgd__cpu_kernels,
	.destroy = cpu_destroy,
	.variant = cpu_variant,
};

psgd_status psgd_device_cpu(const struct psgd_device_cpu_options *options, struct psgd_device *out)
{
	struct psgd_device_cpu_options mine;
	struct psgd__cpu *cpu;

	if (!out)
		return PSGD_ERR_INVALID;
	memset(out, 0, sizeof(*out));
	PSGD__TRY(psgd__copy_options(&mine, sizeof(mine), options));
	if (!mine.alloc != !mine.free || mine.threads > MAX_THREADS ||
		(mine.without & ~(uint32_t)PSGD_CPU_FEATURES))
		return PSGD_ERR_INVALID;
	cpu = psgd__calloc(1, sizeof(*cpu));
	if (!cpu)
		return PSGD_ERR_NOMEM;
	cpu->options = mine;
	cpu->isa = psgd__cpu_best(mine.without);
	if (mine.threads > 1) {
		psgd_status status = psgd__pool_open(mine.threads, &cpu->pool);

		if (status < 0) {
			free(cpu);
			return status;
		}
	}
	out->ops = &cpu_ops;
	out->self = cpu;
	return PSGD_OK;
}

psgd_status psgd_device_cpu_without(const char *name, uint32_t *without)
{
	static const struct {
		const char *name;
		uint32_t without;
	} known[] = {
		{"avx512", 0},
		{"avx2", PSGD_CPU_AVX512},
		{"plain", PSGD_CPU_FEATURES},
	};

	if (!name || !without)
		return PSGD_ERR_INVALID;
	*without = 0;
	if (!strcmp(name, "auto"))
		return PSGD_OK;
	for (size_t i = 0; i < PSGD__COUNT(known); i++) {
		if (strcmp(name, known[i].name) != 0)
			continue;
		*without = known[i].without;
		return strcmp(psgd__cpu_best(*without)->name, name) ? PSGD_ERR_UNSUPPORTED
								    : PSGD_OK;
	}
	return PSGD_ERR_INVALID;
}

void psgd_device_destroy(struct psgd_device *device)
{
	if (!device || !device->ops)
		return;
	if (PSGD__HAS(device->ops, destroy))
		device->ops->destroy(device->self);
	memset(device, 0, sizeof(*device));
}
