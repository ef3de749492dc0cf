/*
 * What a configuration file may hold: libcyaml's schema for names and types, and a table for what
 * it cannot say: defaults, limits, words.
 */
#ifndef PSGD_CONFIG_SCHEMA_H
#define PSGD_CONFIG_SCHEMA_H

#include <cyaml/cyaml.h>

#include <psgd/experiment/config.h>

/* What the library allocates for a psgd_config, which comes first. */
struct psgd__config_box {
	struct psgd_config config;
	char *source, *notices;
};

enum psgd__key_flags {
	PSGD__KEY_REQUIRED = 1 << 0,
	PSGD__KEY_ABOVE = 1 << 1,    /* the minimum itself is refused */
	PSGD__KEY_BELOW = 1 << 2,    /* the maximum itself is refused */
	PSGD__KEY_RANK = 1 << 3,     /* a matrix rank */
	PSGD__KEY_DENSE = 1 << 4,    /* a matrix rank, or the word dense, which is 0 */
	PSGD__KEY_FILENAME = 1 << 5, /* one name, not a path, nor hidden */
};

/* Room for what a file is called while it is written: ".NAME.new". */
#define PSGD__MOST_FILENAME 250

struct psgd__key {
	const char *path;   /* [] stands for any index of a list */
	const char *preset; /* of an absent key; NULL: none */
	double min, max;    /* of numbers; max 0: what the type holds */
	unsigned flags;	    /* enum psgd__key_flags */
	const char *words;  /* allowed ones, each followed by ", " or the end; NULL: any text */
};

extern const cyaml_schema_value_t psgd__config_schema;

/* The entry of a scalar or list; NULL when there is none. */
const struct psgd__key *psgd__config_key(const char *path);

/* True when a number is not within the limits of its key. */
bool psgd__config_outside(const struct psgd__key *key, double value);

/* The key that was probably meant by one that is not there, or NULL. */
const char *psgd__config_nearest(const cyaml_schema_field_t *fields, const char *key);

/* True when `word` is one of `words`, which are separated by ", ". */
bool psgd__config_word(const char *words, const char *word);

#endif
