/* Choices that follow from the options alone: one rank, a schedule by epochs, a replay by steps. */
#include "control/control.h"

#include <math.h>
#include <string.h>

struct fixed {
	uint32_t rank;
	const char *regime;
};

static uint32_t fixed_needs(const void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)self, (void)step, (void)epoch, (void)epoch_end;
	return 0;
}

static psgd_status fixed_decide(
	void *self, const struct psgd_observation *seen, struct psgd__choice_verdict *out)
{
	const struct fixed *fixed = self;

	(void)seen;
	out->rank = fixed->rank;
	out->regime = fixed->regime;
	return PSGD_OK;
}

psgd_status psgd__choice_fixed(uint32_t rank, const char *regime, struct psgd__choice *out)
{
	static const struct psgd__choice_ops ops = {fixed_needs, fixed_decide, free, NULL};
	struct fixed *fixed = psgd__calloc(1, sizeof(*fixed));

	if (!fixed)
		return PSGD_ERR_NOMEM;
	*fixed = (struct fixed){rank, regime};
	*out = (struct psgd__choice){&ops, fixed};
	return PSGD_OK;
}

struct schedule {
	uint32_t default_rank;
	uint32_t reserved;
	size_t n;
	struct psgd_schedule_range range[];
};

static uint32_t schedule_needs(const void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)self, (void)step, (void)epoch;
	return epoch_end ? PSGD_NEED_DECISION : 0;
}

static psgd_status schedule_decide(
	void *self, const struct psgd_observation *seen, struct psgd__choice_verdict *out)
{
	const struct schedule *schedule = self;
	uint64_t epoch = psgd__next_epoch(seen);

	out->rank = schedule->default_rank;
	out->regime = "schedule";
	for (size_t i = 0; i < schedule->n; i++) {
		const struct psgd_schedule_range *range = &schedule->range[i];

		if (epoch >= range->start_epoch && epoch <= range->end_epoch)
			out->rank = psgd__comparable(range->rank);
	}
	return PSGD_OK;
}

static psgd_status check_ranges(
	const struct psgd_schedule_range *range, size_t n, const struct psgd__refusal *refusal)
{
	if (!range && n)
		return psgd__refuse(refusal, "ranges is NULL, but n_ranges is %zu", n);
	for (size_t i = 0; i < n; i++) {
		if (range[i].reserved)
			return psgd__refuse(refusal, "ranges[%zu].reserved is not 0", i);
		if (range[i].end_epoch < range[i].start_epoch)
			return psgd__refuse(refusal,
				"ranges[%zu] ends at epoch %llu, before it starts at epoch %llu", i,
				(unsigned long long)range[i].end_epoch,
				(unsigned long long)range[i].start_epoch);
		for (size_t j = 0; j < i; j++) {
			if (range[i].start_epoch > range[j].end_epoch ||
				range[j].start_epoch > range[i].end_epoch)
				continue;
			return psgd__refuse(refusal,
				"ranges[%zu] (epochs %llu to %llu) overlaps ranges[%zu] (epochs "
				"%llu to %llu)",
				i, (unsigned long long)range[i].start_epoch,
				(unsigned long long)range[i].end_epoch, j,
				(unsigned long long)range[j].start_epoch,
				(unsigned long long)range[j].end_epoch);
		}
	}
	return PSGD_OK;
}

/* An object with n elements behind it; NULL as well when the size overflows. */
static void *object_with(size_t head, size_t n, size_t size)
{
	size_t bytes;

	if (psgd__mul_overflows(n, size, &bytes) || __builtin_add_overflow(bytes, head, &bytes))
		return NULL;
	return psgd__calloc(1, bytes);
}

psgd_status psgd__choice_schedule(const struct psgd_rank_control_options *options,
	const struct psgd__refusal *refusal, struct psgd__choice *out)
{
	static const struct psgd__choice_ops ops = {schedule_needs, schedule_decide, free, NULL};
	size_t n = options->n_ranges;
	struct schedule *schedule;

	PSGD__TRY(check_ranges(options->ranges, n, refusal));
	schedule = object_with(sizeof(*schedule), n, sizeof(schedule->range[0]));
	if (!schedule)
		return PSGD_ERR_NOMEM;
	schedule->default_rank = options->default_rank ? options->default_rank : 1;
	schedule->n = n;
	if (n)
		memcpy(schedule->range, options->ranges, n * sizeof(schedule->range[0]));
	*out = (struct psgd__choice){&ops, schedule};
	return PSGD_OK;
}

struct replay {
	uint32_t *ranks; /* n rows, comparable; NULL: one rank for all tensors */
	size_t n_tensors;
	size_t n;
	struct psgd_replay_entry entry[];
};

/* The entry in force at a step; the first one is at step 0. */
static const struct psgd_replay_entry *entry_at(const struct replay *replay, uint64_t step)
{
	size_t low = 0, high = replay->n;

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (replay->entry[middle].step <= step)
			low = middle;
		else
			high = middle;
	}
	return &replay->entry[low];
}

static uint32_t replay_needs(const void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)epoch, (void)epoch_end;
	return entry_at(self, step + 1)->step == step + 1 ? PSGD_NEED_DECISION : 0;
}

static psgd_status replay_decide(
	void *self, const struct psgd_observation *seen, struct psgd__choice_verdict *out)
{
	const struct replay *replay = self;
	const struct psgd_replay_entry *entry = entry_at(replay, psgd__next_step(seen));

	out->rank = psgd__comparable(entry->rank);
	out->regime = "replay";
	if (!replay->ranks)
		return PSGD_OK;
	if (replay->n_tensors != seen->n_tensors)
		return PSGD_ERR_MISMATCH; /* the recorded run was of another model */
	out->ranks = replay->ranks + (size_t)(entry - replay->entry) * replay->n_tensors;
	out->moved = entry != replay->entry && entry->step == psgd__next_step(seen) &&
		     memcmp(out->ranks, out->ranks - replay->n_tensors,
			     replay->n_tensors * sizeof(*out->ranks)) != 0;
	return PSGD_OK;
}

static void replay_destroy(void *self)
{
	free(((struct replay *)self)->ranks);
	free(self);
}

static uint32_t *copy_ranks(const uint32_t *ranks, size_t rows, size_t columns)
{
	uint32_t *copy;
	size_t n;

	if (psgd__mul_overflows(rows, columns, &n))
		return NULL;
	copy = psgd__calloc(n, sizeof(*copy));
	for (size_t i = 0; copy && i < n; i++)
		copy[i] = psgd__comparable(ranks[i]);
	return copy;
}

static psgd_status check_replay(
	const struct psgd_replay_entry *entry, size_t n, const struct psgd__refusal *refusal)
{
	if (!entry || !n)
		return psgd__refuse(refusal, "replay has no entries");
	if (entry[0].step)
		return psgd__refuse(refusal, "replay[0].step is %llu; a replay begins at step 0",
			(unsigned long long)entry[0].step);
	for (size_t i = 0; i < n; i++) {
		if (entry[i].reserved)
			return psgd__refuse(refusal, "replay[%zu].reserved is not 0", i);
		if (i && entry[i].step <= entry[i - 1].step)
			return psgd__refuse(refusal,
				"replay[%zu].step is %llu, not above replay[%zu].step, which is "
				"%llu",
				i, (unsigned long long)entry[i].step, i - 1,
				(unsigned long long)entry[i - 1].step);
	}
	return PSGD_OK;
}

psgd_status psgd__choice_replay(const struct psgd_rank_control_options *options,
	const struct psgd__refusal *refusal, struct psgd__choice *out)
{
	static const struct psgd__choice_ops ops = {
		replay_needs, replay_decide, replay_destroy, NULL};
	size_t n = options->n_replay;
	struct replay *replay;

	PSGD__TRY(check_replay(options->replay, n, refusal));
	if (!options->replay_ranks != !options->n_replay_tensors)
		return psgd__refuse(refusal, "replay_ranks and n_replay_tensors go together");
	replay = object_with(sizeof(*replay), n, sizeof(replay->entry[0]));
	if (!replay)
		return PSGD_ERR_NOMEM;
	replay->n = n;
	replay->n_tensors = options->n_replay_tensors;
	if (options->replay_ranks) {
		replay->ranks = copy_ranks(options->replay_ranks, n, replay->n_tensors);
		if (!replay->ranks) {
			free(replay);
			return PSGD_ERR_NOMEM;
		}
	}
	memcpy(replay->entry, options->replay, n * sizeof(replay->entry[0]));
	*out = (struct psgd__choice){&ops, replay};
	return PSGD_OK;
}
