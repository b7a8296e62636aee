// The DSCP of datagrams, as the byte of the IP header that it stands in.
#ifndef UDPPROXY_DSCP_H
#define UDPPROXY_DSCP_H

#include "state.h"

uint8_t told_tos(struct msghdr *message);
void add_tos(struct msghdr *message, uint8_t *control, bool v6, uint8_t tos);

void see_socket(const struct relay *relay, struct session *session);
void mark_by_rule(struct relay *relay, struct session *session);
void keep_tos(struct session *session, uint8_t tos);
void unmark(struct session *session);
void unmark_unknown(const struct relay *relay, int fd, bool v6);

#endif
