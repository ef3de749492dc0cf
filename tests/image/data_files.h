/* A folder of small idx files, to be spoilt. */
#ifndef TESTS_IMAGE_DATA_FILES_H
#define TESTS_IMAGE_DATA_FILES_H

#include <stddef.h>
#include <stdint.h>

#define TRAIN_IMAGES "train-images-idx3-ubyte"
#define TRAIN_LABELS "train-labels-idx1-ubyte"
#define TEST_IMAGES "t10k-images-idx3-ubyte"
#define TEST_LABELS "t10k-labels-idx1-ubyte"

/* Bytes of one file, header included. */
struct blob {
	uint8_t bytes[4096];
	size_t n;
};

/* The folder, between create and remove. */
extern char root[64];

/* 12 training and 5 test images of 4 x 6 pixels, two of the four files gzipped. */
void data_files_create(void);
void data_files_remove(void);

void put32(struct blob *blob, uint32_t value);

/* Pixel i is i * 37 modulo 256; label i is i modulo 10. */
struct blob images_blob(uint32_t count, uint32_t rows, uint32_t cols);
struct blob labels_blob(uint32_t count);

void path_of(const char *name, const char *suffix, char out[256]);
void write_plain(const char *name, const char *suffix, const struct blob *blob);
void remove_file(const char *name); /* with and without .gz */

#endif
