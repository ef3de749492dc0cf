/*
 * A transport for the memory of a lazy device, over another one: a message is read when its stream
 * gets there, and is posted then.
 */
#ifndef TESTS_ENGINE_LAZY_TRANSPORT_H
#define TESTS_ENGINE_LAZY_TRANSPORT_H

#include <psgd/transport.h>

#include "lazy_device.h"

struct lazy_transport {
	const struct psgd_device *device;
	const struct psgd_transport *inner;
};

/* Both are borrowed; self must outlive the transport, which needs no end. */
struct psgd_transport lazy_transport(struct lazy_transport *self);

#endif
