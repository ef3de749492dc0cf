/*
 * Fibers: stacks that one thread changes between. Built without sanitizers, which are told of each
 * change instead: what is written here on behalf of the threads of a block is no race of theirs.
 * Nothing of the C++ library in here, for the same reason: its templates would be shared.
 */
#ifndef CUDA_SHIM_FIBERS_H
#define CUDA_SHIM_FIBERS_H

#include <stddef.h>

#if !defined(__x86_64__) || defined(SHIM_UCONTEXT)
#include <ucontext.h>
#endif

struct shim_fiber {
	void *stack;
	size_t stack_bytes;
#if !defined(__x86_64__) || defined(SHIM_UCONTEXT)
	ucontext_t context;
#else
	void *top; /* of what is saved on its stack */
#endif
	void *thread_sanitizer, *fake_stack;
};

/* The thread's own stack as a fiber; not ended. */
void shim_fiber_home(struct shim_fiber *home);

/* Zeros for good, between pages that nothing may touch; ends where the last of them begins. */
void *shim_fiber_map(size_t bytes);

/* `entry` never returns. The stack stays for good. */
void shim_fiber_make(struct shim_fiber *fiber, void (*entry)(void));

/* Returns when something changes back. Orders nothing for the thread sanitizer. */
void shim_fiber_switch(struct shim_fiber *from, struct shim_fiber *to);

/* For the thread sanitizer: what came before a release of the object comes before an acquire. */
void shim_fiber_release(void *object);
void shim_fiber_acquire(void *object);

#endif
