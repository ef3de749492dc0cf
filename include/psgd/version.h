/* Version of libpsgd, and the macros that every public header uses. SPDX-License-Identifier: MIT */
#ifndef PSGD_VERSION_H
#define PSGD_VERSION_H

#include <stdint.h>

#if defined(__GNUC__)
#define PSGD_API __attribute__((visibility("default")))
#else
#define PSGD_API
#endif

#ifdef __cplusplus
#define PSGD_BEGIN extern "C" {
#define PSGD_END }
#else
#define PSGD_BEGIN
#define PSGD_END
#endif

/* The build reads the package version and the soname from these three lines. */
#define PSGD_VERSION_MAJOR 0
#define PSGD_VERSION_MINOR 1
#define PSGD_VERSION_PATCH 0

PSGD_BEGIN

/* Version of the library that is loaded: major * 10000 + minor * 100 + patch. Any thread. */
PSGD_API uint32_t psgd_version(void);

/* The same as text, "0.1.0"; static, never NULL. Any thread. */
PSGD_API const char *psgd_version_string(void);

PSGD_END
#endif
