// Copies of what a server gets, for others.
#ifndef UDPPROXY_COPIES_H
#define UDPPROXY_COPIES_H

#include "state.h"

void send_copies(struct worker *worker, struct session *session, const struct iovec *iov);

#endif
