/* Folders of small images to be packed, and what was packed. */
#include "pack_files.h"

#include <check.h>
#include <dirent.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <turbojpeg.h>
#include <unistd.h>

char work[64];

void pack_files_create(void)
{
	(void)snprintf(work, sizeof(work), "/tmp/psgd-pack-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(work));
}

static void remove_tree(const char *path)
{
	struct dirent **names;
	int n = scandir(path, &names, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		char child[512];

		if (strcmp(names[i]->d_name, ".") != 0 && strcmp(names[i]->d_name, "..") != 0) {
			(void)snprintf(child, sizeof(child), "%s/%s", path, names[i]->d_name);
			remove_tree(child);
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	(void)remove(path);
}

void pack_files_remove(void)
{
	remove_tree(work);
}

void work_path(const char *name, char out[256])
{
	(void)snprintf(out, 256, "%s/%s", work, name);
}

uint8_t shade(unsigned number, size_t pixel, size_t channel)
{
	size_t row = pixel / CIFAR_SIDE, col = pixel % CIFAR_SIDE;

	return (uint8_t)(number * 13 + row * 2 + col * (channel + 1) + channel * 40);
}

static FILE *create(const char *name)
{
	char path[256];

	work_path(name, path);
	for (char *slash = strchr(path + strlen(work) + 1, '/'); slash;
		slash = strchr(slash + 1, '/')) {
		*slash = 0;
		(void)mkdir(path, 0700);
		*slash = '/';
	}
	return fopen(path, "wb");
}

void write_bytes(const char *name, const void *bytes, size_t n)
{
	FILE *file = create(name);

	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(bytes, 1, n, file), n);
	ck_assert_int_eq(fclose(file), 0);
}

void write_png(const char *name, unsigned side, unsigned format, const void *pixels)
{
	png_image image = {
		.version = PNG_IMAGE_VERSION, .width = side, .height = side, .format = format};
	FILE *file = create(name);

	ck_assert_ptr_nonnull(file);
	ck_assert(png_image_write_to_stdio(&image, file, 0, pixels, 0, NULL));
	ck_assert_int_eq(fclose(file), 0);
}

void write_jpeg(const char *name, unsigned side, bool grey, unsigned number)
{
	static uint8_t pixels[64 * 64 * 3];
	unsigned char *bytes = NULL;
	unsigned long n = 0;
	tjhandle encoder = tjInitCompress();

	for (size_t i = 0; i < (size_t)side * side; i++)
		for (size_t c = 0; c < (grey ? 1 : 3); c++)
			pixels[i * (grey ? 1 : 3) + c] = shade(number, i, c);
	ck_assert_int_eq(
		tjCompress2(encoder, pixels, (int)side, 0, (int)side, grey ? TJPF_GRAY : TJPF_RGB,
			&bytes, &n, grey ? TJSAMP_GRAY : TJSAMP_444, 95, 0),
		0);
	write_bytes(name, bytes, n);
	tjFree(bytes);
	(void)tjDestroy(encoder);
}

void write_shades(const char *name, unsigned number)
{
	uint8_t pixels[CIFAR_BYTES];

	for (size_t i = 0; i < CIFAR_PIXELS; i++)
		for (size_t c = 0; c < CIFAR_CHANNELS; c++)
			pixels[i * CIFAR_CHANNELS + c] = shade(number, i, c);
	write_png(name, CIFAR_SIDE, PNG_FORMAT_RGB, pixels);
}

void write_zoo(void)
{
	static const char *const names[] = {"in/train/ant/1.png", "in/train/ant/10.png",
		"in/train/ant/2.png", "in/train/ant/3.png", "in/train/ant/B.png",
		"in/train/bee/1.png", "in/train/bee/2.png", "in/train/cow/a.png",
		"in/train/cow/b.png", "in/train/cow/c.png", "in/test/ant/x.png",
		"in/test/bee/x.png", "in/test/cow/x.png"};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		write_shades(names[i], i);
}

size_t read_bytes(const char *name, void *out, size_t most)
{
	char path[256];
	FILE *file;
	size_t n;

	work_path(name, path);
	file = fopen(path, "rb");
	ck_assert_ptr_nonnull(file);
	n = fread(out, 1, most, file);
	(void)fclose(file);
	return n;
}

void list_work(char out[512])
{
	struct dirent **names;
	int n = scandir(work, &names, NULL, alphasort);
	size_t used = 0;

	out[0] = 0;
	for (int i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.' && used < 512)
			used += (size_t)snprintf(out + used, 512 - used, "%s ", names[i]->d_name);
		free(names[i]);
	}
	free(names);
}
