#include "support/team.h"

#include <check.h>
#include <string.h>
#include <time.h>

int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void sleep_ns(int64_t ns)
{
	int64_t until = now_ns() + ns;
	struct timespec t = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};

	while (ns > 0 && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
		;
}

void team_meet(struct member *me)
{
	pthread_barrier_wait(&me->team->barrier);
}

static void *run_member(void *user)
{
	struct member *me = user;

	me->status = me->team->work(me, me->team->user);
	psgd_session_error(me->session, me->error, sizeof(me->error));
	psgd_session_close(&me->session);
	return NULL;
}

static void open_member(struct member *me, const struct team_options *o)
{
	struct psgd_session_options session =
		o->session ? *o->session : PSGD_INIT(psgd_session_options);
	char why[256] = "";

	session.transport = &me->local;
	if (o->link) {
		ck_assert_int_eq(psgd_shaper_model(o->link, &me->shaper), PSGD_OK);
		ck_assert_int_eq(
			psgd_transport_shaped(&me->local, &me->shaper, &me->shaped), PSGD_OK);
		session.transport = &me->shaped;
	}
	if (o->without) {
		struct psgd_device_cpu_options cpu = PSGD_INIT(psgd_device_cpu_options);

		cpu.without = o->without[me->worker];
		ck_assert_int_eq(psgd_device_cpu(&cpu, &me->device), PSGD_OK);
		session.device = &me->device;
	}
	if (o->powersgd) {
		ck_assert_int_eq(psgd_compressor_powersgd(o->powersgd, &me->compressor), PSGD_OK);
		session.compressor = &me->compressor;
	}
	if (o->control) {
		ck_assert_msg(psgd_controller_rank_control(
				      o->control, why, sizeof(why), &me->controller) == PSGD_OK,
			"%s", why);
		session.controller = &me->controller;
	}
	ck_assert_int_eq(
		psgd_session_open(o->tensors, o->n_tensors, &session, &me->session), PSGD_OK);
}

void team_run(struct team *team, uint32_t n_workers, const struct team_options *options,
	psgd_status (*work)(struct member *me, void *user), void *user)
{
	struct psgd_transport local[TEAM_MAX];

	memset(team, 0, sizeof(*team));
	team->n_workers = n_workers;
	team->work = work;
	team->user = user;
	ck_assert_int_eq(
		psgd_transport_local(n_workers, options->transport_timeout_ns, local), PSGD_OK);
	pthread_barrier_init(&team->barrier, NULL, n_workers);
	for (uint32_t w = 0; w < n_workers; w++) {
		struct member *me = &team->members[w];

		me->team = team;
		me->worker = w;
		me->local = local[w];
		open_member(me, options);
	}
	for (uint32_t w = 0; w < n_workers; w++)
		ck_assert_int_eq(pthread_create(&team->members[w].thread, NULL, run_member,
					 &team->members[w]),
			0);
	for (uint32_t w = 0; w < n_workers; w++)
		pthread_join(team->members[w].thread, NULL);
	for (uint32_t w = 0; w < n_workers; w++) {
		struct member *me = &team->members[w];

		psgd_transport_destroy(&me->shaped);
		psgd_transport_destroy(&me->local);
		psgd_shaper_destroy(&me->shaper);
		psgd_controller_destroy(&me->controller);
		psgd_compressor_destroy(&me->compressor);
		psgd_device_destroy(&me->device);
	}
	pthread_barrier_destroy(&team->barrier);
}
