#include "base/base.h"

#include <psgd/transport.h>

void psgd_transport_destroy(struct psgd_transport *transport)
{
	if (!transport)
		return;
	if (transport->ops && PSGD__HAS(transport->ops, destroy))
		transport->ops->destroy(transport->self);
	*transport = (struct psgd_transport){0};
}
