/*
 * Turns change only at barriers, exchanges and ends. A thread that has not begun takes over the
 * fiber of one that has ended, so a kernel without barriers runs in one fiber; not under the thread
 * sanitizer, where each thread needs its own to race with the others.
 */
#include "block.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fibers.h"

#ifdef SHIM_TSAN
#define OWN_FIBERS true
#else
#define OWN_FIBERS false
#endif

#define WARP 32u
#define WARPS (SHIM_MAX_THREADS / WARP)

enum state { FRESH, READY, AT_BLOCK, AT_WARP, ENDED };
enum call { SYNC, EXCHANGE, VOTE };

struct thread {
	uint3 index;
	struct shim_fiber *fiber;
	enum state state;
	enum call call;
	unsigned mask, from; /* what it asks of its warp */
	unsigned members, rounds;
	uint64_t gives, gets;
};

struct warp {
	unsigned alive, waiting;
	unsigned rounds; /* per lane, which of its two objects comes next */
	char objects[2][WARP];
};

static const struct shim_kernel *running;
static struct thread threads[SHIM_MAX_THREADS];
static struct warp warps[WARPS];
static unsigned count, current, alive, at_block, generation;
static int meeting; /* the line of the barrier that threads are at */
static char started, ended, barrier[2];

/* Ring of the threads that can go on. */
static unsigned queue[SHIM_MAX_THREADS], first, queued;

static struct shim_fiber home, fibers[SHIM_MAX_THREADS], *idle[SHIM_MAX_THREADS];
static unsigned made, n_idle;
static uint64_t random_state;
static char *shared_end, *shared;

const uint3 *shim_thread;
uint3 shim_block;
dim3 shim_block_dim, shim_grid_dim;

static uint64_t draw(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

[[noreturn]] static void die(const char *why)
{
	unsigned in_block = 0, in_warp = 0, not_there = 0;

	for (unsigned i = 0; i < count; i++) {
		in_block += threads[i].state == AT_BLOCK;
		in_warp += threads[i].state == AT_WARP;
		not_there += threads[i].state == ENDED;
	}
	fprintf(stderr,
		"cuda shim: kernel %s, block (%u, %u, %u): %s: of %u threads %u wait at "
		"__syncthreads, %u for their warp, %u have ended\n",
		running->name, shim_block.x, shim_block.y, shim_block.z, why, count, in_block,
		in_warp, not_there);
	abort();
}

static void push(unsigned id)
{
	threads[id].state = threads[id].state == FRESH ? FRESH : READY;
	queue[(first + queued++) % SHIM_MAX_THREADS] = id;
}

static unsigned take(void)
{
	unsigned id;

	if (!queued)
		die("nothing can go on");
	if (running->order == SHIM_RANDOM) {
		unsigned other = (first + (unsigned)(draw() % queued)) % SHIM_MAX_THREADS;

		id = queue[other];
		queue[other] = queue[first];
		queue[first] = id;
	}
	id = queue[first];
	first = (first + 1) % SHIM_MAX_THREADS;
	queued--;
	return id;
}

static void set_turn(unsigned id)
{
	current = id;
	shim_thread = &threads[id].index;
	if (threads[id].state == FRESH)
		threads[id].state = READY;
}

/* The i-th of n in the order in which threads take turns. */
static unsigned in_order(unsigned i, unsigned n)
{
	return running->order == SHIM_REVERSE ? n - 1 - i : i;
}

static void open_block(void)
{
	generation++;
	at_block = 0;
	for (unsigned i = 0; i < count; i++) {
		unsigned id = in_order(i, count);

		if (threads[id].state == AT_BLOCK)
			push(id);
	}
}

static void answer(struct thread *thread, const struct thread *lanes, unsigned members)
{
	if (thread->call == EXCHANGE) {
		bool given = thread->from < WARP && members >> thread->from & 1;

		thread->gets = given ? lanes[thread->from].gives : ~(uint64_t)0;
	} else if (thread->call == VOTE) {
		thread->gets = 0;
		for (unsigned lane = 0; lane < WARP; lane++)
			if (members >> lane & 1 && lanes[lane].gives)
				thread->gets |= (uint64_t)1 << lane;
	}
}

/* Lets the lanes of mask go on if all of them are here that have not ended. */
static void open_warp(unsigned number, unsigned mask)
{
	struct warp *warp = &warps[number];
	struct thread *lanes = &threads[number * WARP], *any = NULL;
	unsigned members = mask & warp->alive;

	if (!members || members & ~warp->waiting)
		return;
	for (unsigned lane = 0; lane < WARP; lane++) {
		if (!(members >> lane & 1))
			continue;
		if (lanes[lane].mask != mask)
			return;
		if (any && any->call != lanes[lane].call)
			die("lanes of a warp meet in different calls");
		any = &lanes[lane];
	}
	for (unsigned lane = 0; lane < WARP; lane++)
		if (members >> lane & 1)
			answer(&lanes[lane], lanes, members);
	for (unsigned i = 0; i < WARP; i++) {
		unsigned lane = in_order(i, WARP);

		if (members >> lane & 1) {
			lanes[lane].members = members;
			lanes[lane].rounds = warp->rounds;
			push(number * WARP + lane);
		}
	}
	warp->waiting &= ~members;
	warp->rounds ^= members;
}

static void fiber_main(void);

static struct shim_fiber *fiber_for(unsigned id)
{
	struct shim_fiber *fiber;

	if (!OWN_FIBERS && n_idle)
		return idle[--n_idle];
	fiber = &fibers[OWN_FIBERS ? id : made++];
	if (!fiber->stack)
		shim_fiber_make(fiber, fiber_main);
	return fiber;
}

/* Changes from the fiber `mine` to the thread `id`; comes back when it is resumed. */
static void resume(struct shim_fiber *mine, unsigned id)
{
	if (threads[id].state == FRESH)
		threads[id].fiber = fiber_for(id);
	set_turn(id);
	shim_fiber_switch(mine, threads[id].fiber);
}

static void pass_turn(void)
{
	unsigned self = current, id = take();

	if (id != self)
		resume(threads[self].fiber, id);
	else
		set_turn(self);
}

static void end_thread(void)
{
	struct warp *warp = &warps[current / WARP];

	threads[current].state = ENDED;
	alive--;
	warp->alive &= ~(1u << current % WARP);
	if (alive && at_block == alive)
		open_block();
	for (unsigned lane = 0; lane < WARP && warp->waiting; lane++)
		if (warp->waiting >> lane & 1)
			open_warp(current / WARP, threads[current / WARP * WARP + lane].mask);
}

/* A fiber whose thread has ended looks for another to run. */
static void next_thread(void)
{
	struct shim_fiber *mine = threads[current].fiber;
	unsigned id;

	if (!alive) {
		idle[n_idle++] = mine;
		shim_fiber_switch(mine, &home);
		return;
	}
	id = take();
	if (threads[id].state == FRESH && !OWN_FIBERS) {
		threads[id].fiber = mine;
		set_turn(id);
		return;
	}
	idle[n_idle++] = mine;
	resume(mine, id);
}

static void fiber_main(void)
{
	for (;;) {
		shim_fiber_acquire(&started);
		running->body(running->user);
		shim_fiber_release(&ended);
		end_thread();
		next_thread();
	}
}

void shim_sync_block(int place)
{
	void *object = &barrier[generation & 1];

	shim_fiber_release(object);
	threads[current].state = AT_BLOCK;
	if (at_block && place != meeting)
		die("threads meet in different barriers");
	meeting = place;
	if (++at_block == alive)
		open_block();
	pass_turn();
	shim_fiber_acquire(object);
}

static uint64_t meet_warp(enum call call, unsigned mask, uint64_t gives, unsigned from)
{
	struct thread *thread = &threads[current];
	struct warp *warp = &warps[current / WARP];
	unsigned lane = current % WARP;

	if (!(mask >> lane & 1))
		die("a lane is not in its own mask");
	/* Only __syncwarp orders memory. */
	if (call == SYNC)
		shim_fiber_release(&warp->objects[warp->rounds >> lane & 1][lane]);
	thread->call = call;
	thread->mask = mask;
	thread->gives = gives;
	thread->from = from;
	thread->state = AT_WARP;
	warp->waiting |= 1u << lane;
	open_warp(current / WARP, mask);
	pass_turn();
	for (unsigned other = 0; OWN_FIBERS && call == SYNC && other < WARP; other++)
		if (thread->members >> other & 1)
			shim_fiber_acquire(&warp->objects[thread->rounds >> other & 1][other]);
	return thread->gets;
}

void shim_sync_warp(unsigned mask)
{
	meet_warp(SYNC, mask, 0, 0);
}

uint64_t shim_exchange(unsigned mask, uint64_t value, unsigned from)
{
	return meet_warp(EXCHANGE, mask, value, from);
}

unsigned shim_vote(unsigned mask, int yes)
{
	return (unsigned)meet_warp(VOTE, mask, yes != 0, 0);
}

unsigned shim_lane(void)
{
	return current % WARP;
}

void *shim_dynamic_shared(void)
{
	return shared;
}

static void run_block(void)
{
	alive = count;
	at_block = first = queued = n_idle = made = 0;
	memset(shared, 0xff, running->shared);
	for (unsigned i = 0; i < WARPS; i++)
		warps[i].alive = warps[i].waiting = 0;
	for (unsigned i = 0; i < count; i++) {
		threads[i].state = FRESH;
		warps[i / WARP].alive |= 1u << i % WARP;
		push(in_order(i, count));
	}
	shim_fiber_release(&started);
	resume(&home, take());
	shim_fiber_acquire(&ended);
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

void shim_run_kernel(const struct shim_kernel *kernel)
{
	dim3 block = kernel->block, grid = kernel->grid;
	uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z, step = 1, at = 0;

	if (!shared_end) {
		shared_end = (char *)shim_fiber_map(SHIM_MAX_SHARED) + SHIM_MAX_SHARED;
		shim_fiber_home(&home);
	}
	running = kernel;
	random_state = kernel->seed;
	count = block.x * block.y * block.z;
	shared = shared_end - (kernel->shared + 15) / 16 * 16;
	shim_block_dim = block;
	shim_grid_dim = grid;
	for (unsigned i = 0; i < count; i++) {
		threads[i].index.x = i % block.x;
		threads[i].index.y = i / block.x % block.y;
		threads[i].index.z = i / block.x / block.y;
	}
	if (kernel->order == SHIM_REVERSE) {
		at = blocks - 1;
		step = blocks - 1;
	} else if (kernel->order == SHIM_RANDOM) {
		/* A stride without common divisor comes by every block once. */
		at = draw() % blocks;
		do
			step = draw() % blocks;
		while (blocks > 1 && common_divisor(blocks, step) != 1);
	}
	for (uint64_t i = 0; i < blocks; i++, at = (at + step) % blocks) {
		shim_block.x = (unsigned)(at % grid.x);
		shim_block.y = (unsigned)(at / grid.x % grid.y);
		shim_block.z = (unsigned)(at / grid.x / grid.y);
		run_block();
	}
	running = NULL;
	shim_thread = NULL;
}
