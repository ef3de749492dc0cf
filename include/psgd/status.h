/* Status codes, their names, and the log callback. SPDX-License-Identifier: MIT */
#ifndef PSGD_STATUS_H
#define PSGD_STATUS_H

#include <psgd/version.h>

PSGD_BEGIN

/* Everything that can fail returns one of these. Zero and positive values are not failures. */
#define PSGD_STATUS_MAP(X)                                                                         \
	X(PSGD_OK, 0, "ok")                                                                        \
	X(PSGD_PENDING, 1, "not finished yet")                                                     \
	X(PSGD_WANT_COLLECTIVE, 2, "run the returned collective, then call again")                 \
	X(PSGD_ERR_INVALID, -1, "invalid argument")                                                \
	X(PSGD_ERR_NOMEM, -2, "out of memory")                                                     \
	X(PSGD_ERR_UNSUPPORTED, -3, "not supported by this build or object")                       \
	X(PSGD_ERR_STATE, -4, "call made out of order")                                            \
	X(PSGD_ERR_MISMATCH, -5, "workers disagree")                                               \
	X(PSGD_ERR_TRANSPORT, -6, "collective failed")                                             \
	X(PSGD_ERR_PEER_LOST, -7, "a peer is gone")                                                \
	X(PSGD_ERR_DEVICE, -8, "device call failed")                                               \
	X(PSGD_ERR_TIMEOUT, -9, "timed out")                                                       \
	X(PSGD_ERR_CONFIG, -10, "bad configuration")                                               \
	X(PSGD_ERR_IO, -11, "file or socket error")                                                \
	X(PSGD_ERR_AUTH, -12, "authentication failed")                                             \
	X(PSGD_ERR_FAILED, -13, "session has already failed")                                      \
	X(PSGD_ERR_INTERNAL, -14, "internal error")

typedef enum psgd_status {
#define X(name, value, text) name = value,
	PSGD_STATUS_MAP(X)
#undef X
		PSGD_STATUS_MIN_ = -0x7fffffff /* keeps the enum's type wide; never returned */
} psgd_status;

enum psgd_log_level {
	PSGD_LOG_NONE = 0,
	PSGD_LOG_ERROR = 1,
	PSGD_LOG_WARN = 2,
	PSGD_LOG_INFO = 3,
	PSGD_LOG_DEBUG = 4
};

/*
 * Receives one line of text without a newline. Called from the driver thread or from the
 * library's own threads, never from two at once for one session; must not call the library.
 */
typedef void (*psgd_log_fn)(void *user, enum psgd_log_level level, const char *message);

/* "PSGD_ERR_NOMEM" and "out of memory"; static, never NULL, also for unknown values. Any thread. */
PSGD_API const char *psgd_status_name(psgd_status status);
PSGD_API const char *psgd_status_text(psgd_status status);

PSGD_END
#endif
