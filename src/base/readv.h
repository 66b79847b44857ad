/*
 * readv.h - bytes handed out in place: a vector into pinned memory
 *
 * What a read gives, from whoever answered it: iov[0..n_iov) point into memory that stays as it is
 * until readv_release().  The maker says how to release it, and how to keep a piece of it longer.
 */
#pragma once

#include <string.h>
#include <sys/uio.h>

#include "base/compiler.h"

struct readv;

/* One piece of memory, kept beyond the readv that it was taken from. */
struct readv_pin {
	const uint8_t *data; /* constant while the pin is held */
	void (*release)(struct readv_pin *pin);
	void *priv[2];
};

struct readv_ops {
	void (*release)(struct readv *rv);
	/*
	 * Pins the `len` bytes at byte `off` of the vector where they lie in one piece and will
	 * never change; -EOPNOTSUPP where they may (dirty data) or are only made for this read.
	 */
	int (*pin)(const struct readv *rv, size_t off, size_t len, struct readv_pin *ret_pin);
};

struct readv {
	struct iovec *iov; /* owned by the readv */
	int n_iov;
	size_t len;                  /* bytes of all */
	const struct readv_ops *ops; /* NULL: nothing to release, nothing can be pinned */
	void *priv;
};

static inline void readv_release(struct readv *rv)
{
	if (rv->ops)
		rv->ops->release(rv);
	*rv = (struct readv){0};
}

static inline void readv_pin_release(struct readv_pin *pin)
{
	if (pin->release)
		pin->release(pin);
	*pin = (struct readv_pin){0};
}

/* Copies bytes [off, off + len) of the vector. */
static inline void readv_copy(const struct readv *rv, size_t off, void *buf, size_t len)
{
	uint8_t *to = buf;

	for (int i = 0; i < rv->n_iov && len > 0; i++) {
		const size_t have = rv->iov[i].iov_len;
		if (off >= have) {
			off -= have;
			continue;
		}
		const size_t n = MIN(have - off, len);
		memcpy(to, (const uint8_t *)rv->iov[i].iov_base + off, n);
		to += n;
		len -= n;
		off = 0;
	}
}
