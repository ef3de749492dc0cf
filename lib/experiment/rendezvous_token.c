#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "experiment/rendezvous_impl.h"

static bool is_space(uint8_t c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static void trim(struct psgd__token *token)
{
	size_t from = 0;

	while (token->bytes && is_space(token->data[token->bytes - 1]))
		token->bytes--;
	while (from < token->bytes && is_space(token->data[from]))
		from++;
	token->bytes -= from;
	memmove(token->data, token->data + from, token->bytes);
}

/* Fills token->data; one byte more than allowed would be an error, so ask for it. */
static psgd_status read_whole(int fd, struct psgd__token *token)
{
	uint8_t more;

	while (token->bytes < sizeof(token->data)) {
		ssize_t n =
			read(fd, token->data + token->bytes, sizeof(token->data) - token->bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return PSGD_ERR_IO;
		if (n == 0)
			return PSGD_OK;
		token->bytes += (size_t)n;
	}
	return read(fd, &more, 1) == 0 ? PSGD_OK : PSGD_ERR_CONFIG;
}

/* A file that cannot be one's token is a wrong setting, whatever is wrong with it: CONFIG. */
static psgd_status read_checked(
	int fd, const char *path, struct psgd__token *out, char *error, size_t error_bytes)
{
	struct stat info;
	psgd_status status;

	if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
		psgd__text(error, error_bytes, "token file %s is no regular file", path);
		return PSGD_ERR_CONFIG;
	}
	if (info.st_mode & (S_IRWXG | S_IRWXO)) {
		psgd__text(error, error_bytes,
			"token file %s is open to other users (mode %04o): chmod 600 it", path,
			(unsigned)(info.st_mode & 07777));
		return PSGD_ERR_CONFIG;
	}
	status = read_whole(fd, out);
	if (status == PSGD_ERR_IO) {
		psgd__text(error, error_bytes, "cannot read token file %s: %s", path,
			strerrordesc_np(errno));
		return PSGD_ERR_CONFIG;
	}
	if (status) {
		psgd__text(error, error_bytes, "token file %s is longer than %d bytes", path,
			PSGD__TOKEN_MAX);
		return PSGD_ERR_CONFIG;
	}
	trim(out);
	if (out->bytes < PSGD__TOKEN_MIN) {
		psgd__text(error, error_bytes, "token file %s is too short: %zu bytes, at least %d",
			path, out->bytes, PSGD__TOKEN_MIN);
		return PSGD_ERR_CONFIG;
	}
	return PSGD_OK;
}

psgd_status psgd__token_read(
	const char *path, struct psgd__token *out, char *error, size_t error_bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	psgd_status status;

	out->bytes = 0;
	if (fd < 0) {
		psgd__text(error, error_bytes, "cannot open token file %s: %s", path,
			strerrordesc_np(errno));
		return PSGD_ERR_CONFIG;
	}
	status = read_checked(fd, path, out, error, error_bytes);
	close(fd);
	if (status)
		psgd__token_clear(out);
	return status;
}

void psgd__token_clear(struct psgd__token *token)
{
	OPENSSL_cleanse(token, sizeof(*token));
}

psgd_status psgd__token_mac(const struct psgd__token *token, enum psgd__role role,
	const uint8_t nonce[PSGD__NONCE_BYTES], const uint8_t hello[PSGD__HELLO_BYTES],
	uint8_t out[PSGD__MAC_BYTES])
{
	/* Both labels have the same length, and differ: a proof cannot be sent back as one. */
	static const char label[2][24] = {
		[PSGD__ROLE_WORKER] = "psgd rendezvous worker ",
		[PSGD__ROLE_MASTER] = "psgd rendezvous master ",
	};
	uint8_t message[sizeof(label[0]) + PSGD__NONCE_BYTES + PSGD__HELLO_BYTES];
	size_t bytes = 0;

	memcpy(message, label[role], sizeof(label[0]));
	memcpy(message + sizeof(label[0]), nonce, PSGD__NONCE_BYTES);
	memcpy(message + sizeof(label[0]) + PSGD__NONCE_BYTES, hello, PSGD__HELLO_BYTES);
	if (!EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, token->data, token->bytes, message,
		    sizeof(message), out, PSGD__MAC_BYTES, &bytes) ||
		bytes != PSGD__MAC_BYTES)
		return PSGD_ERR_INTERNAL;
	return PSGD_OK;
}

bool psgd__mac_equal(const uint8_t a[PSGD__MAC_BYTES], const uint8_t b[PSGD__MAC_BYTES])
{
	return CRYPTO_memcmp(a, b, PSGD__MAC_BYTES) == 0;
}

psgd_status psgd__nonce(uint8_t out[PSGD__NONCE_BYTES])
{
	return getrandom(out, PSGD__NONCE_BYTES, 0) == PSGD__NONCE_BYTES ? PSGD_OK : PSGD_ERR_IO;
}
