#include "fibers.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef SHIM_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SHIM_TSAN
#include <sanitizer/tsan_interface.h>
#endif

static void (*start_here)(void);

static void fail(const char *what)
{
	perror(what);
	abort();
}

static void arrived(struct shim_fiber *fiber)
{
#ifdef SHIM_ASAN
	__sanitizer_finish_switch_fiber(fiber->fake_stack, NULL, NULL);
#else
	(void)fiber;
#endif
}

static void begin(void)
{
	struct shim_fiber fresh = {};

	arrived(&fresh);
	start_here();
}

#if !defined(__x86_64__) || defined(SHIM_UCONTEXT)

static void set_up(struct shim_fiber *fiber)
{
	if (getcontext(&fiber->context))
		fail("getcontext");
	fiber->context.uc_stack.ss_sp = fiber->stack;
	fiber->context.uc_stack.ss_size = fiber->stack_bytes;
	makecontext(&fiber->context, begin, 0);
}

static void change(struct shim_fiber *from, struct shim_fiber *to)
{
	if (swapcontext(&from->context, &to->context))
		fail("swapcontext");
}

#else

/* Saves what a call preserves on the old stack, and takes it from the new one. */
extern "C" void shim_fiber_change(void **save_top, void *top);

asm(".text\n"
    ".hidden shim_fiber_change\n"
    ".globl shim_fiber_change\n"
    ".type shim_fiber_change, @function\n"
    "shim_fiber_change:\n"
    "	pushq %rbp\n"
    "	pushq %rbx\n"
    "	pushq %r12\n"
    "	pushq %r13\n"
    "	pushq %r14\n"
    "	pushq %r15\n"
    "	movq %rsp, (%rdi)\n"
    "	movq %rsi, %rsp\n"
    "	popq %r15\n"
    "	popq %r14\n"
    "	popq %r13\n"
    "	popq %r12\n"
    "	popq %rbx\n"
    "	popq %rbp\n"
    "	ret\n"
    ".size shim_fiber_change, . - shim_fiber_change\n");

/* As if `begin` had been called and had changed away: six registers, and where to go on. */
static void set_up(struct shim_fiber *fiber)
{
	uintptr_t end = (uintptr_t)fiber->stack + fiber->stack_bytes;
	void **top = (void **)(end & ~(uintptr_t)15);

	*--top = NULL;
	*--top = (void *)begin;
	for (int i = 0; i < 6; i++)
		*--top = NULL;
	fiber->top = top;
}

static void change(struct shim_fiber *from, struct shim_fiber *to)
{
	shim_fiber_change(&from->top, to->top);
}

#endif

void shim_fiber_home(struct shim_fiber *home)
{
	pthread_attr_t attr;

	if (pthread_getattr_np(pthread_self(), &attr))
		fail("pthread_getattr_np");
	pthread_attr_getstack(&attr, &home->stack, &home->stack_bytes);
	pthread_attr_destroy(&attr);
#ifdef SHIM_TSAN
	home->thread_sanitizer = __tsan_get_current_fiber();
#endif
}

void *shim_fiber_map(size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (bytes + page - 1) / page * page;
	char *memory = (char *)mmap(NULL, pages + 2 * page, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED || mprotect(memory + page, pages, PROT_READ | PROT_WRITE))
		fail("memory for a block of threads");
	return memory + page + pages - bytes;
}

void shim_fiber_make(struct shim_fiber *fiber, void (*entry)(void))
{
	static unsigned number;
	size_t bytes = (size_t)256 << 10;

	start_here = entry;
	fiber->stack = shim_fiber_map(bytes);
	/* If all ended alike, they would share a few lines of the cache. */
	fiber->stack_bytes = bytes - (size_t)number++ * 320 % 4096;
	fiber->fake_stack = NULL;
	set_up(fiber);
#ifdef SHIM_TSAN
	fiber->thread_sanitizer = __tsan_create_fiber(0);
#endif
}

void shim_fiber_switch(struct shim_fiber *from, struct shim_fiber *to)
{
#ifdef SHIM_ASAN
	__sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
#ifdef SHIM_TSAN
	__tsan_switch_to_fiber(to->thread_sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
	change(from, to);
	arrived(from);
}

void shim_fiber_release(void *object)
{
#ifdef SHIM_TSAN
	__tsan_release(object);
#else
	(void)object;
#endif
}

void shim_fiber_acquire(void *object)
{
#ifdef SHIM_TSAN
	__tsan_acquire(object);
#else
	(void)object;
#endif
}
