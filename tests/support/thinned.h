/*
 * Under the thread sanitizer everything takes ten times as long, and it sees a race in whatever
 * order things happen: what tests repeat for the sake of values, they repeat less there.
 */
#ifndef TESTS_THINNED_H
#define TESTS_THINNED_H

#if defined(__SANITIZE_THREAD__)
#define THINNED(all, few) (few)
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THINNED(all, few) (few)
#endif
#endif
#ifndef THINNED
#define THINNED(all, few) (all)
#endif

/* Of calls that are made to fail in turn: every one, or every seventh. */
#define CALLS_APART THINNED(1, 7)

#endif
