/* Folders of small images to be packed, and what was packed. */
#ifndef TESTS_IMAGE_PACK_FILES_H
#define TESTS_IMAGE_PACK_FILES_H

#include "examples/image/cifar.h"

/* The folder of a test: images go to "in", what is packed to "out". */
extern char work[64];

void pack_files_create(void);
void pack_files_remove(void);

/* work/name. */
void work_path(const char *name, char out[256]);

/* Red, green, blue of a pixel of image `number`; smooth, so that JPEG keeps it. */
uint8_t shade(unsigned number, size_t pixel, size_t channel);

/* Files below work; folders on the way are made. format: of libpng. */
void write_bytes(const char *name, const void *bytes, size_t n);
void write_png(const char *name, unsigned side, unsigned format, const void *pixels);
void write_jpeg(const char *name, unsigned side, bool grey, unsigned number);

/* A PNG image of shades. */
void write_shades(const char *name, unsigned number);

/* in/{train,test}/{ant,bee,cow}: 5, 2 and 3 training images, one test image each. */
void write_zoo(void);

size_t read_bytes(const char *name, void *out, size_t most);

/* Names below work, sorted, each followed by a space. */
void list_work(char out[512]);

#endif
