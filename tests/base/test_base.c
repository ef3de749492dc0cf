/* The small things that everything stands on. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <psgd/compressor.h>

#include "base/base.h"
#include "base/index.h"
#include "base/slice.h"
#include "support/suite.h"

START_TEST(version_is_one)
{
	char text[32];

	snprintf(text, sizeof(text), "%u.%u.%u", psgd_version() / 10000, psgd_version() / 100 % 100,
		psgd_version() % 100);
	ck_assert_str_eq(text, psgd_version_string());
}
END_TEST

START_TEST(every_status_has_words)
{
	static const psgd_status all[] = {
#define X(name, value, text) name,
		PSGD_STATUS_MAP(X)
#undef X
	};

	for (size_t i = 0; i < PSGD__COUNT(all); i++) {
		ck_assert(strncmp(psgd_status_name(all[i]), "PSGD_", 5) == 0);
		for (size_t k = 0; k < i; k++) {
			ck_assert_int_ne(all[i], all[k]);
			ck_assert_str_ne(psgd_status_name(all[i]), psgd_status_name(all[k]));
			ck_assert_str_ne(psgd_status_text(all[i]), psgd_status_text(all[k]));
		}
	}
	ck_assert_str_eq(psgd_status_name((psgd_status)-999), "PSGD_ERR_UNKNOWN");
	ck_assert_str_eq(psgd_status_text((psgd_status)-999), "unknown status");
}
END_TEST

START_TEST(tensor_shapes)
{
	struct psgd_tensor t = {.n_dims = 4, .dims = {8, 4, 3, 3}};
	int64_t n, m;

	ck_assert_int_eq(psgd_tensor_count(&t), 288);
	ck_assert_int_eq(psgd_tensor_matrix(&t, &n, &m), PSGD_OK);
	ck_assert_int_eq(n, 8);
	ck_assert_int_eq(m, 36);
	t.n_dims = 1;
	ck_assert_int_eq(psgd_tensor_matrix(&t, &n, &m), PSGD_OK);
	ck_assert_int_eq(n, 8);
	ck_assert_int_eq(m, 1);
	t.n_dims = 0;
	ck_assert_int_eq(psgd_tensor_count(&t), 1);
	t.n_dims = 2;
	t.dims[0] = INT64_MAX / 2;
	ck_assert_int_eq(psgd_tensor_count(&t), -1);
	ck_assert_int_eq(psgd_tensor_matrix(&t, &n, &m), PSGD_ERR_INVALID);
	t.dims[0] = -1;
	ck_assert_int_eq(psgd_tensor_count(&t), -1);
	t.n_dims = PSGD_MAX_DIMS + 1;
	ck_assert_int_eq(psgd_tensor_count(&t), -1);
	ck_assert_int_eq(psgd_tensor_count(NULL), -1);
	ck_assert_uint_eq(psgd_dtype_bytes(PSGD_F32), 4);
	ck_assert_uint_eq(psgd_dtype_bytes(PSGD_F64), 8);
	ck_assert_uint_eq(psgd_dtype_bytes(PSGD_U8), 1);
	ck_assert_uint_eq(psgd_dtype_bytes(77), 0);
}
END_TEST

START_TEST(payloads)
{
	static const struct {
		struct psgd_payload payload;
		uint64_t want;
	} cases[] = {
		{{0, 0, 5}, 20},
		{{PSGD_ALLREDUCE_SUM, PSGD_F64, 5}, 40},
		{{PSGD_ALLGATHER, PSGD_U8, 5}, 5},
		{{0, 0, 0}, 0},
		{{0, 0, -1}, 0},
		{{0, 77, 1}, 0},
		{{0, PSGD_F64, INT64_MAX}, 0},
		{{0, PSGD_U8, INT64_MAX}, INT64_MAX},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		ck_assert_uint_eq(psgd_payload_bytes(&cases[i].payload), cases[i].want);
	ck_assert_uint_eq(psgd_payload_bytes(NULL), 0);
}
END_TEST

/* A caller with a shorter or longer struct than ours. */
START_TEST(options_by_size)
{
	struct ours {
		size_t size;
		int a, b;
	} ours;
	struct theirs {
		size_t size;
		int a, b;
		long more;
	} theirs = {sizeof(theirs), 3, 4, 0};

	ck_assert_int_eq(psgd__copy_options(&ours, sizeof(ours), &theirs), PSGD_OK);
	ck_assert_uint_eq(ours.size, sizeof(ours));
	ck_assert_int_eq(ours.b, 4);
	theirs.more = 1;
	ck_assert_int_eq(psgd__copy_options(&ours, sizeof(ours), &theirs), PSGD_ERR_UNSUPPORTED);
	theirs.more = 0;
	theirs.size = offsetof(struct theirs, b);
	ck_assert_int_eq(psgd__copy_options(&ours, sizeof(ours), &theirs), PSGD_OK);
	ck_assert_int_eq(ours.a, 3);
	ck_assert_int_eq(ours.b, 0);
	theirs.size = 0;
	ck_assert_int_eq(psgd__copy_options(&ours, sizeof(ours), &theirs), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd__copy_options(&ours, sizeof(ours), NULL), PSGD_OK);
	ck_assert_int_eq(ours.a, 0);
	theirs.size = sizeof(theirs);
	theirs.a = 0;
	ours.a = 9;
	ours.b = 8;
	psgd__copy_report(&theirs, &ours, sizeof(ours));
	ck_assert_uint_eq(theirs.size, sizeof(theirs));
	ck_assert_int_eq(theirs.a, 9);
	ck_assert_int_eq(theirs.b, 8);
}
END_TEST

START_TEST(memory_that_overflows)
{
	size_t capacity = 0, product;
	int *list = NULL;

	ck_assert_ptr_null(psgd__calloc(SIZE_MAX / 2, 4));
	ck_assert(psgd__mul_overflows(SIZE_MAX / 2, 3, &product));
	ck_assert_int_eq(psgd__grow(&list, &capacity, SIZE_MAX / 2, sizeof(*list)), PSGD_ERR_NOMEM);
	ck_assert_ptr_null(list);
	ck_assert_int_eq(psgd__grow(&list, &capacity, 9, sizeof(*list)), PSGD_OK);
	ck_assert_uint_ge(capacity, 9);
	for (size_t i = 0; i < capacity; i++) {
		ck_assert_int_eq(list[i], 0);
		list[i] = (int)i;
	}
	ck_assert_int_eq(psgd__grow(&list, &capacity, 100, sizeof(*list)), PSGD_OK);
	ck_assert_int_eq(list[8], 8);
	ck_assert_int_eq(list[99], 0);
	free(list);
	ck_assert_ptr_null(psgd__strdup(NULL));
}
END_TEST

START_TEST(ids_are_found)
{
	struct psgd_tensor t[100];
	struct psgd__index index;

	for (uint32_t i = 0; i < 100; i++)
		t[i] = (struct psgd_tensor){.id = i * 2654435761u};
	ck_assert_int_eq(psgd__index_init(&index, t, 100), PSGD_OK);
	for (uint32_t i = 0; i < 100; i++)
		ck_assert_uint_eq(psgd__index_find(&index, t[i].id), i);
	ck_assert_uint_eq(psgd__index_find(&index, 12345), SIZE_MAX);
	psgd__index_finish(&index);
	t[7].id = t[93].id;
	ck_assert_int_eq(psgd__index_init(&index, t, 100), PSGD_ERR_INVALID);
	ck_assert_ptr_null(index.entries);
}
END_TEST

/* In any order, whatever was asked for before, and whether ids are in order or not. */
START_TEST(ids_are_found_nearby)
{
	struct psgd_tensor t[100];
	struct psgd__index index;

	for (uint32_t i = 0; i < 100; i++)
		t[i] = (struct psgd_tensor){.id = _i ? i * 2654435761u : 1000 - 7 * i};
	ck_assert_int_eq(psgd__index_init(&index, t, 100), PSGD_OK);
	for (int step = -3; step <= 3; step++) {
		size_t near = 0;

		for (int i = 0; i < 300; i++) {
			size_t at = (size_t)((i * step % 100 + 100) % 100);

			ck_assert_uint_eq(psgd__index_find_near(&index, t[at].id, &near), at);
			if (i % 50 == 0)
				ck_assert_uint_eq(
					psgd__index_find_near(&index, 12345, &near), SIZE_MAX);
		}
	}
	psgd__index_finish(&index);
}
END_TEST

START_TEST(text_is_bounded)
{
	char text[4] = "???";

	psgd__text(text, sizeof(text), "%s", "long");
	ck_assert_str_eq(text, "lon");
	psgd__text(NULL, 0, "%s", "nowhere");
	ck_assert_uint_eq(psgd__hash(PSGD__HASH_START, "a", 1), UINT64_C(0xaf63dc4c8601ec8c));
	ck_assert_int_gt(psgd__now_ns(), 0);
}
END_TEST

static void *slice_of_thread(void *user)
{
	*(uint64_t *)user = psgd__slice_set(PSGD__SHORT_SLICE_NS);
	return NULL;
}

/* A new thread has the slice of its maker, and what was before can be had again. */
START_TEST(slices_are_inherited_and_given_back)
{
	const uint64_t before = psgd__slice_set(PSGD__SHORT_SLICE_NS);
	const bool known = psgd__slice_set(PSGD__SHORT_SLICE_NS) == PSGD__SHORT_SLICE_NS;
	uint64_t inherited = 0;
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, slice_of_thread, &inherited), 0);
	pthread_join(thread, NULL);
	psgd__slice_set(before);
	/* An older kernel knows none: nothing has changed then. */
	ck_assert_uint_eq(inherited, known ? PSGD__SHORT_SLICE_NS : before);
	ck_assert_uint_eq(psgd__slice_set(before), before);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("base");
	TCase *c = tcase_create("base");

	tcase_add_test(c, version_is_one);
	tcase_add_test(c, every_status_has_words);
	tcase_add_test(c, tensor_shapes);
	tcase_add_test(c, payloads);
	tcase_add_test(c, options_by_size);
	tcase_add_test(c, memory_that_overflows);
	tcase_add_test(c, ids_are_found);
	tcase_add_loop_test(c, ids_are_found_nearby, 0, 2);
	tcase_add_test(c, text_is_bounded);
	tcase_add_test(c, slices_are_inherited_and_given_back);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
