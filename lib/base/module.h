/* Modules: parts of the library that link something, found and opened when they are asked for. */
#ifndef PSGD_BASE_MODULE_H
#define PSGD_BASE_MODULE_H

#include "base/base.h"

/* What is to be opened. */
struct psgd__module {
	const char *what;  /* in messages: "Gloo" */
	const char *file;  /* "psgd-gloo.so" */
	const char *entry; /* the one exported function; another version has another name */
};

/*
 * Opens the module's file in `folder`; NULL: in psgd/ beside this library, or beside it. *entry, a
 * pointer to a function, is the exported one, and *library is for psgd__module_close. Errors:
 * UNSUPPORTED, with the reason in words and *library NULL.
 */
psgd_status psgd__module_open(const struct psgd__module *module, const char *folder, void **library,
	void *entry, char *reason, size_t bytes);

void psgd__module_close(void *library); /* NULL is fine */

#endif
