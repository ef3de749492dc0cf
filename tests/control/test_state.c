/*
 * Saved after any step and loaded into a new controller, the decisions that follow are the same
 * bit for bit: for every cap under every choice. What cannot be a state is refused, whole.
 */
#include "base/state.h"
#include "control/control.h"
#include "support/suite.h"

#include "layers.h"

#define STEPS 70
#define CAPS 3
#define CHOICES 9
#define CALIBRATED 9 /* the step before which rows are handed over */

static const uint32_t candidates[] = {1, 2, 4, 8, PSGD_RANK_DENSE};

static struct psgd_controller make(uint32_t cap, uint32_t choice)
{
	static const struct psgd_schedule_range range = {1, 2, 2, 0};
	static const struct psgd_replay_entry entries[] = {{0, 3, 0}, {20, 2, 0}, {44, 8, 0}};
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);
	struct psgd_epochnorm_options epochnorm = PSGD_INIT(psgd_epochnorm_options);
	struct psgd_live_options live = PSGD_INIT(psgd_live_options);
	struct psgd_calibration_options calibration = PSGD_INIT(psgd_calibration_options);
	struct psgd_ema_options ema = PSGD_INIT(psgd_ema_options);
	struct psgd_accordion_options accordion = PSGD_INIT(psgd_accordion_options);
	struct psgd_lgreco_options lgreco = PSGD_INIT(psgd_lgreco_options);
	struct psgd_entropy_options entropy = PSGD_INIT(psgd_entropy_options);

	epochnorm.stride = 1;
	epochnorm.force_max = 2;
	epochnorm.rank_cooldown = epochnorm.lr_cooldown = 1;
	live.dwell_steps = 6;
	live.prior_ns_per_byte = 300;
	calibration.start_step = CALIBRATED;
	ema.interval_steps = 7;
	accordion.in_steps = 1;
	accordion.stride = 7;
	accordion.threshold = 0.3;
	lgreco.adjust_steps = 7;
	lgreco.sample_steps = 2;
	entropy.window_steps = 7;
	entropy.sample_every = 2;
	options = (struct psgd_rank_control_options){.size = sizeof(options),
		.cap = cap,
		.choice = choice,
		.max_rank = 8,
		.fixed_rank = 3,
		.candidates = candidates,
		.n_candidates = 5,
		.ranges = &range,
		.n_ranges = 1,
		.replay = entries,
		.n_replay = 3,
		.epochnorm = &epochnorm,
		.live = &live,
		.calibration = &calibration,
		.ema = &ema,
		.accordion = &accordion,
		.lgreco = &lgreco,
		.entropy = &entropy};
	return scene_control(&options);
}

/* Everything outside of the controller, before a step. */
struct outside {
	struct scene scene;
	uint64_t grads, own; /* in the two sums */
	uint32_t ranks[LAYERS];
};

static double wave(uint64_t step, double period)
{
	return 1.5 + sin((double)step * 6.2832 / period);
}

static psgd_status errors(void *user, size_t i, uint32_t n, double *out)
{
	const struct scene *s = user;

	for (uint32_t k = 0; k < n; k++)
		out[k] = exp2(-(double)(k + 1) * (double)(i + 1) / 4 * wave(s->state % 1000, 1000));
	return PSGD_OK;
}

/* The decision after a step; step UINT64_MAX: before the first one. regime NULL: not asked. */
static struct psgd_decision decide(
	struct psgd_controller *control, struct outside *o, uint64_t step)
{
	const uint64_t epoch = step == UINT64_MAX ? 0 : step / 10;
	const bool end = step % 10 == 9, first = step == UINT64_MAX;
	struct layers l = layers_new(10, 1);
	struct psgd_decision d = PSGD_INIT(psgd_decision);
	struct psgd_observation seen;
	double norms[LAYERS];
	uint32_t needs = PSGD_NEED_DECISION, ranks[LAYERS], in_force[LAYERS], rank;

	if (!first)
		needs = control->ops->needs(control->self, step, epoch, end);
	o->grads += (needs & PSGD_NEED_GRAD_SUM) != 0;
	o->own += (needs & PSGD_NEED_LOCAL_SUM) != 0;
	scene_link(&o->scene, step % 40 < 20 ? 200 : 20, 1e5);
	seen = first ? scene_first(&rank) : scene_observe(&o->scene, step, &rank);
	if (!(needs & PSGD_NEED_DECISION))
		return d;
	seen.epoch = epoch;
	seen.epoch_end = end;
	seen.learning_rate = step < 43 || first ? 0.1 : 0.01;
	seen.grad_sum_steps = o->grads;
	seen.local_sum_steps = o->own;
	seen.entropy = NAN;
	seen.tensors = l.tensors;
	seen.n_tensors = LAYERS;
	seen.ranks = in_force;
	for (size_t i = 0; i < LAYERS; i++)
		/* Layer 0 travels dense where its rank is large. */
		in_force[i] = i == 0 && o->ranks[i] > 5 ? 0 : o->ranks[i];
	for (size_t i = 0; i < LAYERS; i++)
		norms[i] = (double)o->own * wave(step, 20 + (double)i * 9);
	if (needs & PSGD_NEED_GRAD_NORM)
		seen.grad_sum_norm = (double)o->grads * wave(step, 30);
	if (needs & PSGD_NEED_LOCAL_NORMS)
		seen.local_norms = norms;
	if (needs & PSGD_NEED_SPECTRUM)
		seen.errors = errors;
	if (needs & PSGD_NEED_ENTROPY)
		seen.entropy = wave(step, 60) + 0.05 * wave(step, 7);
	ck_assert_int_eq(control->ops->decide(control->self, &seen, ranks, &d), PSGD_OK);
	memcpy(o->ranks, ranks, sizeof(ranks));
	o->scene.rank = d.rank;
	o->grads = d.reset_grad_sum ? 0 : o->grads;
	o->own = d.reset_local_sum ? 0 : o->own;
	return d;
}

static void hand_rows(struct psgd_controller *control, uint32_t cap, uint64_t step)
{
	static const struct psgd_calibration_row rows[] = {
		{.rank = 1, .step_ns = 10, .exposed_ns = 1},
		{.rank = 2, .step_ns = 10, .exposed_ns = 2},
		{.rank = 4, .step_ns = 10, .exposed_ns = 3},
		{.rank = 8, .step_ns = 10, .exposed_ns = 4}};

	if (cap == PSGD_CAP_CALIBRATION && step == CALIBRATED)
		ck_assert_int_eq(psgd_controller_calibrate(control, rows, 4), PSGD_OK);
}

static bool same(const struct psgd_decision *a, const struct psgd_decision *b)
{
	return a->rank == b->rank && a->cap == b->cap && a->choice == b->choice &&
	       a->reset_grad_sum == b->reset_grad_sum && a->reset_local_sum == b->reset_local_sum &&
	       !a->regime == !b->regime && (!a->regime || !strcmp(a->regime, b->regime)) &&
	       !memcmp(&a->value, &b->value, sizeof(double)) &&
	       !memcmp(&a->threshold, &b->threshold, sizeof(double)) &&
	       !memcmp(&a->link_delay_ns, &b->link_delay_ns, sizeof(double)) &&
	       !memcmp(&a->link_ns_per_byte, &b->link_ns_per_byte, sizeof(double)) &&
	       !memcmp(&a->predicted_exposed, &b->predicted_exposed, sizeof(double));
}

static struct {
	struct outside outside[STEPS + 1]; /* before a step */
	struct psgd__kept kept[STEPS + 1];
	struct psgd_decision after[STEPS]; /* a step */
} whole;

static void run_whole(uint32_t cap, uint32_t choice)
{
	struct psgd_controller control = make(cap, choice);
	struct outside o = {.scene = scene_new(7)};

	o.scene.noise = 0.05;
	decide(&control, &o, UINT64_MAX);
	for (uint64_t i = 0; i < STEPS; i++) {
		struct psgd_state_writer writer;

		hand_rows(&control, cap, i);
		whole.outside[i] = o;
		whole.kept[i] = (struct psgd__kept){0};
		writer = psgd__kept_writer(&whole.kept[i]);
		ck_assert_int_eq(control.ops->save(control.self, &writer), PSGD_OK);
		whole.after[i] = decide(&control, &o, i);
	}
	whole.outside[STEPS] = o;
	psgd_controller_destroy(&control);
}

/* Goes on from before a step; the number of decisions that differ from the whole run's. */
static size_t go_on(struct psgd_controller *control, uint32_t cap, uint64_t from)
{
	struct outside o = whole.outside[from];
	size_t differ = 0;

	for (uint64_t i = from; i < STEPS; i++) {
		struct psgd_decision d;

		if (i > from)
			hand_rows(control, cap, i);
		d = decide(control, &o, i);
		differ += !same(&d, &whole.after[i]);
	}
	return differ + (memcmp(o.ranks, whole.outside[STEPS].ranks, sizeof(o.ranks)) != 0);
}

/* A controller that has seen the first decision, as a session that loads has. */
static struct psgd_controller begun(uint32_t cap, uint32_t choice)
{
	struct psgd_controller control = make(cap, choice);
	struct outside o = {.scene = scene_new(7)};

	decide(&control, &o, UINT64_MAX);
	return control;
}

static void forget_whole(void)
{
	for (size_t i = 0; i < STEPS; i++)
		psgd__kept_free(&whole.kept[i]);
}

START_TEST(same_decisions)
{
	const uint32_t cap = (uint32_t)_i / CHOICES, choice = (uint32_t)_i % CHOICES;
	const bool has_state = cap != PSGD_CAP_NONE || choice == PSGD_CHOICE_EPOCHNORM ||
			       choice >= PSGD_CHOICE_EMA;
	size_t differ = 0;

	run_whole(cap, choice);
	for (uint64_t k = 0; k < STEPS; k++) {
		struct psgd_state_reader reader = psgd__kept_reader(&whole.kept[k]);
		struct psgd_controller control = k % 2 ? begun(cap, choice) : make(cap, choice);

		ck_assert_int_eq(control.ops->load(control.self, &reader), PSGD_OK);
		ck_assert_uint_eq(go_on(&control, cap, k), 0);
		psgd_controller_destroy(&control);
		control = begun(cap, choice);
		differ += go_on(&control, cap, k) != 0;
		psgd_controller_destroy(&control);
	}
	/* And without its state it would not have been the same. */
	ck_assert_int_eq(differ > 0, has_state);
	forget_whole();
}
END_TEST

/* Gives what was kept, with one array missing, shorter, or of other bytes. */
struct spoiled {
	struct psgd__kept *kept;
	size_t array;
	enum { MISSING, SHORT, OTHER_TYPE, ALL_ONES, FAILS, N_SPOILED } how;
};

static psgd_status find(void *user, const char *name, struct psgd_state_array *out)
{
	const struct spoiled *s = user;
	struct psgd_state_reader reader = psgd__kept_reader(s->kept);
	psgd_status status = reader.find(reader.user, name, out);

	if (strcmp(name, s->kept->arrays[s->array].array.name))
		return status;
	if (s->how == MISSING)
		return PSGD_ERR_INVALID;
	if (s->how == SHORT)
		out->dims[1]--;
	if (s->how == OTHER_TYPE)
		out->dtype = PSGD_F32;
	return status;
}

static psgd_status read_spoiled(void *user, const char *name, void *to, size_t bytes)
{
	const struct spoiled *s = user;
	struct psgd_state_reader reader = psgd__kept_reader(s->kept);
	bool here = !strcmp(name, s->kept->arrays[s->array].array.name);

	if (here && s->how == FAILS)
		return PSGD_ERR_IO;
	if (here && s->how == ALL_ONES) {
		memset(to, 0xff, bytes);
		return PSGD_OK;
	}
	return reader.read(reader.user, name, to, bytes);
}

/* Arrays whose bytes may be anything: all of them are numbers that are only compared. */
static bool any_bytes_do(const char *name)
{
	return !strcmp(name, "control/past") || !strcmp(name, "control/accordion/layers");
}

START_TEST(refuses)
{
	const uint32_t cap = (uint32_t)_i / CHOICES, choice = (uint32_t)_i % CHOICES;
	const uint64_t at = 40;

	run_whole(cap, choice);
	for (size_t array = 0; array < whole.kept[at].n; array++) {
		for (int how = 0; how < N_SPOILED; how++) {
			struct spoiled spoiled = {&whole.kept[at - 10], array, (unsigned)how};
			struct psgd_state_reader bad = {find, read_spoiled, &spoiled};
			struct psgd_state_reader good = psgd__kept_reader(&whole.kept[at]);
			struct psgd_controller control = make(cap, choice);
			psgd_status status;

			ck_assert_int_eq(control.ops->load(control.self, &good), PSGD_OK);
			status = control.ops->load(control.self, &bad);
			if (how == ALL_ONES &&
				any_bytes_do(spoiled.kept->arrays[array].array.name)) {
				/* It goes on somehow. */
				ck_assert_int_eq(status, PSGD_OK);
				go_on(&control, cap, at);
			} else {
				ck_assert_int_eq(status, how == MISSING ? PSGD_ERR_INVALID
							 : how == FAILS ? PSGD_ERR_IO
									: PSGD_ERR_MISMATCH);
				ck_assert_uint_eq(go_on(&control, cap, at), 0);
			}
			psgd_controller_destroy(&control);
		}
	}
	forget_whole();
}
END_TEST

/* The state of other tensors is found out when the tensors are seen. */
START_TEST(other_tensors)
{
	struct psgd_controller control = make(PSGD_CAP_NONE, PSGD_CHOICE_ACCORDION);
	struct psgd_state_reader reader;
	struct layers l = layers_new(10, 1);
	struct psgd_decision d = PSGD_INIT(psgd_decision);
	uint32_t ranks[LAYERS], in_force[LAYERS];
	double norms[LAYERS];
	struct psgd_observation seen;

	run_whole(PSGD_CAP_NONE, PSGD_CHOICE_ACCORDION);
	reader = psgd__kept_reader(&whole.kept[40]);
	ck_assert_int_eq(control.ops->load(control.self, &reader), PSGD_OK);
	seen = layers_observe(&l, 0, 0, false, 0, norms, in_force);
	seen.n_tensors = LAYERS - 1;
	ck_assert_int_eq(control.ops->decide(control.self, &seen, ranks, &d), PSGD_ERR_MISMATCH);
	psgd_controller_destroy(&control);
	forget_whole();
}
END_TEST

static struct psgd__kept_array *array_of(struct psgd__kept *kept, const char *name)
{
	for (size_t i = 0; i < kept->n; i++) {
		if (!strcmp(kept->arrays[i].array.name, name))
			return &kept->arrays[i];
	}
	ck_abort_msg("no %s", name);
}

/* Where the own layers are known, those of another model are refused at once. */
START_TEST(other_layers)
{
	const uint32_t choice = _i ? PSGD_CHOICE_LGRECO : PSGD_CHOICE_ACCORDION;
	struct psgd_controller control = begun(PSGD_CAP_NONE, choice);
	struct psgd__kept_array *layers;
	struct psgd_state_reader reader;

	run_whole(PSGD_CAP_NONE, choice);
	reader = psgd__kept_reader(&whole.kept[40]);
	layers = array_of(
		&whole.kept[40], _i ? "control/lgreco/layers" : "control/accordion/layers");
	layers->array.dims[0]--;
	layers->bytes -= (size_t)layers->array.dims[1];
	ck_assert_int_eq(control.ops->load(control.self, &reader), PSGD_ERR_MISMATCH);
	layers->array.dims[0]++;
	layers->bytes += (size_t)layers->array.dims[1];
	ck_assert_int_eq(control.ops->load(control.self, &reader), PSGD_OK);
	ck_assert_uint_eq(go_on(&control, PSGD_CAP_NONE, 40), 0);
	psgd_controller_destroy(&control);
	forget_whole();
}
END_TEST

/* Times below zero are none, but how long a bucket is ready before the end can be. */
START_TEST(negative_times)
{
	struct psgd_controller control = begun(PSGD_CAP_LIVE, PSGD_CHOICE_MAX);
	struct psgd_state_reader reader;
	double *compute, *lead;

	run_whole(PSGD_CAP_LIVE, PSGD_CHOICE_MAX);
	reader = psgd__kept_reader(&whole.kept[40]);
	/* The times of compute come behind the fit, and those of codecs behind 48 leads. */
	compute = (double *)((char *)array_of(&whole.kept[40], "control/live")->data +
			     sizeof(struct psgd__link_fit));
	lead = array_of(&whole.kept[40], "control/live/buckets")->data;
	*compute *= -1;
	ck_assert_int_eq(control.ops->load(control.self, &reader), PSGD_ERR_MISMATCH);
	*compute *= -1;
	lead[48] *= -1;
	ck_assert_int_eq(control.ops->load(control.self, &reader), PSGD_ERR_MISMATCH);
	lead[48] *= -1;
	lead[0] = -5;
	ck_assert_int_eq(control.ops->load(control.self, &reader), PSGD_OK);
	psgd_controller_destroy(&control);
	forget_whole();
}
END_TEST

/* One share that is no number would be the fit of all. */
START_TEST(shares_that_are_no_numbers)
{
	struct psgd_controller control = begun(PSGD_CAP_CALIBRATION, PSGD_CHOICE_MAX);
	struct psgd_state_reader reader;
	double *share, was;

	run_whole(PSGD_CAP_CALIBRATION, PSGD_CHOICE_MAX);
	reader = psgd__kept_reader(&whole.kept[40]);
	share = array_of(&whole.kept[40], "control/calibration")->data;
	was = share[1];
	share[1] = NAN;
	ck_assert_int_eq(control.ops->load(control.self, &reader), PSGD_ERR_MISMATCH);
	share[1] = INFINITY;
	ck_assert_int_eq(control.ops->load(control.self, &reader), PSGD_ERR_MISMATCH);
	share[1] = was;
	ck_assert_int_eq(control.ops->load(control.self, &reader), PSGD_OK);
	psgd_controller_destroy(&control);
	forget_whole();
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("state");
	TCase *t = tcase_create("state");

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, same_decisions, 0, CAPS * CHOICES);
	tcase_add_loop_test(t, refuses, 0, CAPS * CHOICES);
	tcase_add_test(t, other_tensors);
	tcase_add_loop_test(t, other_layers, 0, 2);
	tcase_add_test(t, negative_times);
	tcase_add_test(t, shares_that_are_no_numbers);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
