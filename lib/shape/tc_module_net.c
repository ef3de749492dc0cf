/* The netlink socket, and the kernel's refusals in words. */
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "shape/tc_module_impl.h"

void psgd__tc_say(struct psgd__tc_net *net, const char *format, ...)
{
	va_list args;

	if (net->told || !net->reason || !net->bytes)
		return;
	va_start(args, format);
	vsnprintf(net->reason, net->bytes, format, args);
	va_end(args);
}

/* The extended acknowledgement: attributes behind the request that the kernel sends back. */
static void keep_words(struct psgd__tc_net *net, struct nlmsgerr *refusal)
{
	struct nlmsghdr *header = (struct nlmsghdr *)(void *)((char *)refusal - NLMSG_HDRLEN);
	size_t skip = sizeof(*refusal), total = header->nlmsg_len - NLMSG_HDRLEN;
	struct nlattr *text;

	if (!(header->nlmsg_flags & NLM_F_ACK_TLVS))
		return;
	if (!(header->nlmsg_flags & NLM_F_CAPPED))
		skip += NLMSG_ALIGN(refusal->msg.nlmsg_len) - sizeof(refusal->msg);
	if (skip >= total)
		return;
	text = nla_find((struct nlattr *)(void *)((char *)refusal + skip), (int)(total - skip),
		NLMSGERR_ATTR_MSG);
	if (text)
		nla_strlcpy(net->words, text, sizeof(net->words));
}

static int on_refusal(struct sockaddr_nl *from, struct nlmsgerr *refusal, void *user)
{
	struct psgd__tc_net *net = user;

	(void)from;
	net->error = -refusal->error;
	keep_words(net, refusal);
	return NL_STOP;
}

psgd_status psgd__tc_open(struct psgd__tc_net *net, char *reason, size_t bytes)
{
	const int on = 1;
	int code;

	*net = (struct psgd__tc_net){.reason = reason, .bytes = bytes};
	net->socket = nl_socket_alloc();
	if (!net->socket)
		return PSGD_ERR_NOMEM;
	code = nl_connect(net->socket, NETLINK_ROUTE);
	if (code < 0) {
		psgd__tc_say(net, "no netlink socket: %s", nl_geterror(code));
		psgd__tc_close(net);
		return PSGD_ERR_IO;
	}
	/* Without, refusals have a number and no words: that is no failure. */
	setsockopt(nl_socket_get_fd(net->socket), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
	nl_socket_modify_err_cb(net->socket, NL_CB_CUSTOM, on_refusal, net);
	return PSGD_OK;
}

void psgd__tc_close(struct psgd__tc_net *net)
{
	nl_socket_free(net->socket);
	net->socket = NULL;
}

static psgd_status status_of(int error, const struct psgd__tc_part *part)
{
	switch (error) {
	case EPERM:
	case EACCES:
	case EOPNOTSUPP:
		return PSGD_ERR_UNSUPPORTED;
	case ENOENT:
		return part ? PSGD_ERR_UNSUPPORTED : PSGD_ERR_IO;
	case EEXIST:
		return PSGD_ERR_STATE;
	case ENOMEM:
	case ENOBUFS:
		return PSGD_ERR_NOMEM;
	default:
		return PSGD_ERR_IO;
	}
}

psgd_status psgd__tc_refused(struct psgd__tc_net *net, int code, const struct psgd__tc_part *part,
	const char *doing, const char *device)
{
	const char *before = net->words[0] ? " (" : "", *behind = net->words[0] ? ")" : "";
	psgd_status status = status_of(net->error, part);

	if (net->error == EPERM || net->error == EACCES)
		psgd__tc_say(net,
			"no right to %s %s: shaping needs CAP_NET_ADMIN, which root has%s%s%s",
			doing, device, before, net->words, behind);
	else if (status == PSGD_ERR_UNSUPPORTED && part)
		psgd__tc_say(net, "this kernel has no %s (%s): it is needed for %s%s%s%s",
			part->kind, part->module, part->needed_for, before, net->words, behind);
	else if (status == PSGD_ERR_STATE)
		psgd__tc_say(net, "cannot %s %s: somebody else has just done so%s%s%s", doing,
			device, before, net->words, behind);
	else
		psgd__tc_say(net, "cannot %s %s: %s%s%s%s", doing, device,
			net->error ? strerror(net->error) : nl_geterror(code), before, net->words,
			behind);
	return status;
}

psgd_status psgd__tc_send(struct psgd__tc_net *net, struct nl_msg *message,
	const struct psgd__tc_part *part, const char *doing, const char *device)
{
	int code;

	net->error = 0;
	net->words[0] = '\0';
	if (!message) {
		psgd__tc_say(net, "out of memory");
		return PSGD_ERR_NOMEM;
	}
	code = nl_send_sync(net->socket, message);
	return code < 0 ? psgd__tc_refused(net, code, part, doing, device) : PSGD_OK;
}
