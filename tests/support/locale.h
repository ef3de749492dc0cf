/* Numbers with a decimal comma, in the program's locale. */
#ifndef TESTS_LOCALE_H
#define TESTS_LOCALE_H

#include <locale.h>
#include <stdlib.h>

#include <check.h>

/* LOCPATH is set where the locale could be made. */
static inline void use_decimal_comma(void)
{
	if (!getenv("LOCPATH"))
		return;
	ck_assert_ptr_nonnull(setlocale(LC_ALL, "de_DE.UTF-8"));
	ck_assert_str_eq(localeconv()->decimal_point, ",");
}

#endif
