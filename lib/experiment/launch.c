#include <psgd/experiment/launch.h>

#include <limits.h>
#include <string.h>

#include "base/base.h"
#include "experiment/rendezvous_impl.h"

enum field { RANK, SIZE, LOCAL_RANK, LOCAL_SIZE, ADDR, PORT, N_FIELDS };

/* One way of being told who one is. A NULL name: this source has no such field. */
struct source {
	const char *label;
	const char *name[N_FIELDS];
	const char *only_with; /* counts only when this variable is set */
	bool launcher;	       /* starts agents as well as workers */
};

static const struct source sources[] = {
	{.label = "flags",
		.name = {"--rank", "--world-size", "--local-rank", "--local-size", "--master-addr",
			"--master-port"}},
	{.label = "PSGD_*",
		.name = {"PSGD_RANK", "PSGD_WORLD_SIZE", "PSGD_LOCAL_RANK", "PSGD_LOCAL_SIZE",
			"PSGD_MASTER_ADDR", "PSGD_MASTER_PORT"}},
	{.label = "torchrun",
		.name = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
			"MASTER_PORT"}},
	{.label = "Open MPI",
		.name = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
			"OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
		.launcher = true},
	{.label = "Hydra",
		.name = {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
		.launcher = true},
	{.label = "Slurm",
		.name = {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"},
		.only_with = "SLURM_STEP_ID",
		.launcher = true},
};

#define N_SOURCES PSGD__COUNT(sources)
#define FLAGS 0

/* What a source says. */
struct told {
	bool has[N_FIELDS];
	int64_t number[N_FIELDS];
	const char *addr;
};

struct message {
	char *text;
	size_t bytes;
};

static const struct {
	int64_t min, max;
} limits[N_FIELDS] = {
	[RANK] = {0, PSGD__MAX_WORKERS - 1},
	[SIZE] = {1, PSGD__MAX_WORKERS},
	[LOCAL_RANK] = {0, PSGD__MAX_WORKERS - 1},
	[LOCAL_SIZE] = {1, PSGD__MAX_WORKERS},
	[PORT] = {1, UINT16_MAX},
};

/* Digits only: what strtoll would forgive (spaces, signs, "0x") is a typing error here. */
static bool parse_number(const char *text, int64_t *out)
{
	int64_t value = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, 10, &value) ||
			__builtin_add_overflow(value, *text - '0', &value))
			return false;
	}
	*out = value;
	return true;
}

static psgd_status read_flags(const struct psgd_launch_flags *flags, struct told *told)
{
	const int64_t number[N_FIELDS] = {
		[RANK] = flags->rank,
		[SIZE] = flags->world_size,
		[LOCAL_RANK] = flags->local_rank,
		[LOCAL_SIZE] = flags->local_size,
		[ADDR] = -1,
		[PORT] = flags->master_port,
	};

	for (int f = 0; f < N_FIELDS; f++) {
		told->has[f] = number[f] != -1;
		told->number[f] = told->has[f] ? number[f] : 0;
	}
	told->addr = flags->master_addr;
	told->has[ADDR] = told->addr != NULL;
	return PSGD_OK;
}

static psgd_status read_environment(
	const struct source *source, struct told *told, struct message error)
{
	if (source->only_with && !getenv(source->only_with))
		return PSGD_OK;
	for (int f = 0; f < N_FIELDS; f++) {
		const char *text = source->name[f] ? getenv(source->name[f]) : NULL;

		if (!text)
			continue;
		told->has[f] = true;
		if (f == ADDR) {
			told->addr = text;
		} else if (!parse_number(text, &told->number[f])) {
			psgd__text(error.text, error.bytes, "%s is \"%.40s\", which is no number",
				source->name[f], text);
			return PSGD_ERR_CONFIG;
		}
	}
	return PSGD_OK;
}

static psgd_status check_ranges(
	const struct source *source, const struct told *told, struct message error)
{
	for (int f = 0; f < N_FIELDS; f++) {
		if (f == ADDR || !told->has[f])
			continue;
		if (told->number[f] < limits[f].min || told->number[f] > limits[f].max) {
			psgd__text(error.text, error.bytes,
				"%s %lld is out of range (%lld .. %lld)", source->name[f],
				(long long)told->number[f], (long long)limits[f].min,
				(long long)limits[f].max);
			return PSGD_ERR_CONFIG;
		}
	}
	if (told->has[ADDR] && (!*told->addr || strlen(told->addr) > 255)) {
		psgd__text(error.text, error.bytes, "%s is %s", source->name[ADDR],
			*told->addr ? "longer than 255 bytes" : "empty");
		return PSGD_ERR_CONFIG;
	}
	return PSGD_OK;
}

/* A worker number and the size that it is below, of the job or of the node. */
static psgd_status check_below(const struct source *source, const struct told *told,
	enum field rank, enum field size, struct message error)
{
	if (!told->has[rank] || !told->has[size] || told->number[rank] < told->number[size])
		return PSGD_OK;
	psgd__text(error.text, error.bytes, "%s %lld is out of range: %s is %lld (0 .. %lld)",
		source->name[rank], (long long)told->number[rank], source->name[size],
		(long long)told->number[size], (long long)told->number[size] - 1);
	return PSGD_ERR_CONFIG;
}

static bool is_whole(const struct told *told)
{
	return told->has[RANK] && told->has[SIZE];
}

static psgd_status half_set(const struct source *source, const struct told *told, const char *verb,
	struct message error)
{
	psgd__text(error.text, error.bytes, "%s is %s but %s is not",
		source->name[told->has[RANK] ? RANK : SIZE], verb,
		source->name[told->has[RANK] ? SIZE : RANK]);
	return PSGD_ERR_CONFIG;
}

static psgd_status check_agreement(const struct source *a, const struct told *told_a,
	const struct source *b, const struct told *told_b, struct message error)
{
	for (int f = 0; f < N_FIELDS; f++) {
		if (!told_a->has[f] || !told_b->has[f])
			continue;
		if (f == ADDR) {
			if (strcmp(told_a->addr, told_b->addr) == 0)
				continue;
			psgd__text(error.text, error.bytes, "%s is %.80s but %s is %.80s",
				a->name[f], told_a->addr, b->name[f], told_b->addr);
			return PSGD_ERR_CONFIG;
		}
		if (told_a->number[f] == told_b->number[f])
			continue;
		psgd__text(error.text, error.bytes, "%s is %lld but %s is %lld", a->name[f],
			(long long)told_a->number[f], b->name[f], (long long)told_b->number[f]);
		return PSGD_ERR_CONFIG;
	}
	return PSGD_OK;
}

static psgd_status check_source(
	const struct source *source, const struct told *told, struct message error)
{
	PSGD__TRY(check_ranges(source, told, error));
	PSGD__TRY(check_below(source, told, RANK, SIZE, error));
	PSGD__TRY(check_below(source, told, LOCAL_RANK, LOCAL_SIZE, error));
	return check_below(source, told, LOCAL_RANK, SIZE, error);
}

/*
 * Reads and checks every source; *first is the strongest one with an identity, or N_SOURCES.
 * A variable alone (WORLD_SIZE exported in a shell, say) is no error when a stronger source is
 * whole and the two agree.
 */
static psgd_status read_all(const struct psgd_launch_flags *flags, struct told told[N_SOURCES],
	size_t *first, struct message error)
{
	/* A torchrun agent is itself started by mpirun or srun: their numbers are the agent's. */
	const bool agent = getenv("TORCHELASTIC_RUN_ID") && getenv("RANK") && getenv("WORLD_SIZE");

	*first = N_SOURCES;
	for (size_t s = 0; s < N_SOURCES; s++) {
		const struct source *source = &sources[s];

		if (source->launcher && agent)
			continue;
		if (s == FLAGS) {
			if (flags)
				read_flags(flags, &told[s]);
		} else {
			PSGD__TRY(read_environment(source, &told[s], error));
		}
		PSGD__TRY(check_source(source, &told[s], error));
		if (*first == N_SOURCES && (told[s].has[RANK] || told[s].has[SIZE])) {
			if (!is_whole(&told[s]))
				return half_set(
					source, &told[s], s == FLAGS ? "given" : "set", error);
			*first = s;
		}
		for (size_t earlier = 0; earlier < s; earlier++)
			PSGD__TRY(check_agreement(
				&sources[earlier], &told[earlier], source, &told[s], error));
	}
	return PSGD_OK;
}

/* The strongest source that has the field; N_SOURCES if none. */
static size_t who_has(const struct told told[N_SOURCES], enum field field)
{
	size_t s = 0;

	while (s < N_SOURCES && !told[s].has[field])
		s++;
	return s;
}

static void fill(struct psgd_launch *launch, const struct told told[N_SOURCES], size_t first)
{
	static const struct told alone = {.number = {[SIZE] = 1}};
	const struct told *identity = first < N_SOURCES ? &told[first] : &alone;
	size_t addr = who_has(told, ADDR), port = who_has(told, PORT);

	launch->worker = (uint32_t)identity->number[RANK];
	launch->n_workers = (uint32_t)identity->number[SIZE];
	launch->local_rank = (uint32_t)identity->number[LOCAL_RANK];
	launch->local_size = launch->local_rank + 1;
	if (identity->has[LOCAL_SIZE])
		launch->local_size = (uint32_t)identity->number[LOCAL_SIZE];
	launch->master_port = port < N_SOURCES ? (uint16_t)told[port].number[PORT] : 29500;
	psgd__text(launch->master_addr, sizeof(launch->master_addr), "%s",
		addr < N_SOURCES ? told[addr].addr : "127.0.0.1");
	psgd__text(launch->source, sizeof(launch->source), "%s",
		first < N_SOURCES ? sources[first].label : "default");
}

psgd_status psgd_launch_resolve(const struct psgd_launch_flags *flags, struct psgd_launch *out,
	char *error, size_t error_bytes)
{
	struct message message = {error, error_bytes};
	struct told told[N_SOURCES] = {0};
	struct psgd_launch launch = PSGD_INIT(psgd_launch);
	struct psgd_launch_flags copy;
	size_t first;

	psgd__text(error, error_bytes, "%s", "");
	if (!out)
		return PSGD_ERR_INVALID;
	if (flags)
		PSGD__TRY(psgd__copy_options(&copy, sizeof(copy), flags));
	PSGD__TRY(read_all(flags ? &copy : NULL, told, &first, message));
	fill(&launch, told, first);
	psgd__copy_report(out, &launch, sizeof(launch));
	return PSGD_OK;
}
