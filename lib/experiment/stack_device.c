/* Where gradients live: on the CPU or on CUDA devices, by what the workers say together. */
#include <string.h>

#include "experiment/stack_impl.h"

/* What a worker tells the others. Zeros: it computes on the CPU. */
struct told {
	uint32_t cuda;
	uint32_t major, minor, reserved;
	char name[sizeof(((struct psgd_cuda_device *)0)->name)];
	char bus[sizeof(((struct psgd_cuda_device *)0)->bus)];
	char boot[PSGD__BOOT_BYTES]; /* of its host */
	char why_not[PSGD__WHY_BYTES];
};

enum wish { WISH_CPU, WISH_AUTO, WISH_CUDA };

/* A transport that is named says which device it carries. */
static enum wish wish_of(const struct psgd_config *config)
{
	const char *device = config->device, *transport = config->communication.transport;

	if (strcmp(device, "cuda") == 0 || strcmp(transport, "nccl") == 0)
		return WISH_CUDA;
	if (strcmp(device, "cpu") == 0 || strcmp(transport, "gloo") == 0)
		return WISH_CPU;
	return WISH_AUTO;
}

/* --- this worker alone --- */

static psgd_status open_cpu(struct psgd_stack *stack)
{
	struct psgd_device_cpu_options options = PSGD_INIT(psgd_device_cpu_options);

	options.without = stack->cpu_without;
	options.threads = stack->config->threads;
	return psgd__stack_failed(stack, psgd_device_cpu(&options, &stack->device));
}

/* Also where it is not the CPU that computes: what the variable says is right or wrong. */
static psgd_status read_cpu(struct psgd_stack *stack)
{
	const char *cpu = stack->settings.cpu ? stack->settings.cpu : "auto";
	psgd_status status = psgd_device_cpu_without(cpu, &stack->cpu_without);

	if (status == PSGD_ERR_UNSUPPORTED)
		return psgd__stack_fail(
			stack, status, "PSGD_CPU is \"%s\", which this processor lacks", cpu);
	if (status)
		return psgd__stack_fail(stack, PSGD_ERR_CONFIG,
			"PSGD_CPU is \"%.40s\", expected auto, plain, avx2 or avx512", cpu);
	return PSGD_OK;
}

static psgd_status find_cuda(struct psgd_stack *stack)
{
	char *why = stack->why_not_cuda;
	psgd_status status = psgd_launch_cuda(
		&stack->launch, stack->settings.module_dir, &stack->cuda, why, PSGD__WHY_BYTES);

	if (!status && !stack->probe) {
		psgd__text(why, PSGD__WHY_BYTES, "this trainer computes on the CPU only");
		status = PSGD_ERR_UNSUPPORTED;
	} else if (!status) {
		status = stack->probe(stack->probe_user, stack->cuda.ordinal, why, PSGD__WHY_BYTES);
	}
	if (status && !*why)
		psgd__text(why, PSGD__WHY_BYTES, "%s", psgd_status_text(status));
	return status;
}

static psgd_status refuse_cuda(struct psgd_stack *stack, psgd_status status)
{
	return psgd__stack_fail(stack, status, "%s: %s",
		strcmp(stack->config->device, "cuda") == 0 ? "device: cuda"
							   : "communication.transport: nccl",
		stack->why_not_cuda);
}

psgd_status psgd__stack_find_device(struct psgd_stack *stack)
{
	enum wish wish = wish_of(stack->config);
	psgd_status status;

	PSGD__TRY(read_cpu(stack));
	stack->cuda = PSGD_INIT(psgd_cuda_device);
	if (wish == WISH_CPU)
		return PSGD_OK;
	status = find_cuda(stack);
	stack->on_cuda = !status;
	if (!status || wish == WISH_AUTO)
		return PSGD_OK;
	return refuse_cuda(stack, status == PSGD_ERR_NOMEM ? status : PSGD_ERR_UNSUPPORTED);
}

/* --- all workers --- */

static bool same_model(const struct told *a, const struct told *b)
{
	return a->major == b->major && a->minor == b->minor && strcmp(a->name, b->name) == 0;
}

static psgd_status refuse_models(struct psgd_stack *stack, const struct told *all, uint32_t other)
{
	return psgd__stack_fail(stack, PSGD_ERR_MISMATCH,
		"worker 0 computes on %s (%u.%u), worker %u on %s (%u.%u): their bits may differ, "
		"allow_mixed: true allows it",
		all[0].name, all[0].major, all[0].minor, other, all[other].name, all[other].major,
		all[other].minor);
}

static psgd_status refuse_kinds(
	struct psgd_stack *stack, const struct told *all, uint32_t cuda, uint32_t cpu)
{
	const char *why = all[cpu].why_not;

	return psgd__stack_fail(stack, PSGD_ERR_MISMATCH,
		"worker %u would compute on %s, worker %u on the CPU%s%s: device: cpu, or "
		"allow_mixed: true, has all on the CPU",
		cuda, all[cuda].name, cpu, *why ? ", " : "", why);
}

/* Two workers that see one device, as each its own, cannot share it. */
static bool find_shared(const struct told *all, uint32_t n, uint32_t *one, uint32_t *other)
{
	for (*other = 1; *other < n; ++*other) {
		for (*one = 0; *one < *other; ++*one) {
			const struct told *a = &all[*one], *b = &all[*other];

			if (*a->bus && strcmp(a->bus, b->bus) == 0 && strcmp(a->boot, b->boot) == 0)
				return true;
		}
	}
	return false;
}

static psgd_status judge_shared(struct psgd_stack *stack, const struct told *all, uint32_t n)
{
	uint32_t one, other;

	if (!find_shared(all, n, &one, &other))
		return PSGD_OK;
	psgd__text(stack->why_not_cuda, PSGD__WHY_BYTES,
		"workers %u and %u are both on CUDA device %s: each needs one of its own", one,
		other, all[one].bus);
	if (wish_of(stack->config) == WISH_CUDA)
		return refuse_cuda(stack, PSGD_ERR_UNSUPPORTED);
	stack->on_cuda = false;
	return PSGD_OK;
}

/* No transport carries both kinds, so one worker without a device has all go without. */
static psgd_status judge(struct psgd_stack *stack, const struct told *all, uint32_t n)
{
	bool allowed = stack->config->allow_mixed;
	uint32_t n_cuda = 0, cuda = 0, cpu = 0;

	for (uint32_t w = n; w-- > 0;) {
		n_cuda += all[w].cuda;
		*(all[w].cuda ? &cuda : &cpu) = w;
	}
	if (n_cuda > 0 && n_cuda < n && !allowed)
		return refuse_kinds(stack, all, cuda, cpu);
	for (uint32_t w = 1; n_cuda == n && w < n && !allowed; w++) {
		if (!same_model(&all[w], &all[0]))
			return refuse_models(stack, all, w);
	}
	if (stack->on_cuda && n_cuda < n)
		psgd__text(stack->why_not_cuda, PSGD__WHY_BYTES, "worker %u has none", cpu);
	stack->on_cuda = n_cuda == n;
	return stack->on_cuda ? judge_shared(stack, all, n) : PSGD_OK;
}

static psgd_status agree(struct psgd_stack *stack)
{
	struct psgd_oob oob = psgd_rendezvous_oob(stack->rendezvous);
	uint32_t n = stack->launch.n_workers;
	struct told mine = {.cuda = stack->on_cuda}, *all;
	psgd_status status;

	if (n == 1)
		return PSGD_OK;
	if (stack->on_cuda) {
		mine.major = stack->cuda.major;
		mine.minor = stack->cuda.minor;
		psgd__text(mine.name, sizeof(mine.name), "%s", stack->cuda.name);
		psgd__text(mine.bus, sizeof(mine.bus), "%s", stack->cuda.bus);
		psgd__boot_id(mine.boot);
	}
	psgd__text(mine.why_not, sizeof(mine.why_not), "%s", stack->why_not_cuda);
	all = psgd__calloc(n, sizeof(*all));
	/* Who has no memory says so before others wait for it. */
	status =
		psgd__stack_agree(stack, all ? PSGD_OK : psgd__stack_failed(stack, PSGD_ERR_NOMEM));
	if (!status) {
		status = oob.allgather(oob.self, &mine, all, sizeof(mine));
		status = status ? psgd__stack_rendezvous_failed(stack, status)
				: judge(stack, all, n);
	}
	free(all);
	return status;
}

static void tell(struct psgd_stack *stack)
{
	const struct psgd_cuda_device *cuda = &stack->cuda;

	if (stack->on_cuda)
		psgd__stack_tell(stack, PSGD_LOG_INFO,
			"device: cuda %u, %s (%u.%u), %.1f GiB; CUDA %u.%u", cuda->ordinal,
			cuda->name, cuda->major, cuda->minor,
			(double)cuda->memory_bytes / (1 << 30), cuda->runtime / 1000,
			cuda->runtime % 1000 / 10);
	/* Where there is no CUDA at all nobody has expected it. */
	else if (wish_of(stack->config) == WISH_AUTO && cuda->runtime)
		psgd__stack_tell(
			stack, PSGD_LOG_INFO, "device: cpu, not cuda: %s", stack->why_not_cuda);
}

static psgd_status open_cuda(struct psgd_stack *stack)
{
	struct psgd_device_cuda_options options = PSGD_INIT(psgd_device_cuda_options);
	char why[PSGD__WHY_BYTES] = "";
	psgd_status status;

	options.ordinal = stack->cuda.ordinal;
	options.module_dir = stack->settings.module_dir;
	options.error = why;
	options.error_bytes = sizeof(why);
	status = psgd_device_cuda(&options, &stack->device);
	return status ? psgd__stack_fail(stack, status, "CUDA device %u: %s", options.ordinal,
				*why ? why : psgd_status_text(status))
		      : PSGD_OK;
}

psgd_status psgd__stack_open_device(struct psgd_stack *stack)
{
	PSGD__TRY(agree(stack));
	tell(stack);
	return psgd__stack_agree(stack, stack->on_cuda ? open_cuda(stack) : open_cpu(stack));
}

/* --- for the trainer --- */

const struct psgd_device *psgd_stack_device(const psgd_stack *stack)
{
	return &stack->device;
}

const struct psgd_cuda_device *psgd_stack_cuda(const psgd_stack *stack, uint32_t *ordinal)
{
	if (ordinal)
		*ordinal = stack->on_cuda ? stack->cuda.ordinal : 0;
	return stack->on_cuda ? &stack->cuda : NULL;
}
