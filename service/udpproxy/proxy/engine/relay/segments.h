// UDP_SEGMENT: a run of equal datagrams of one session goes to the kernel in one piece.
#ifndef UDPPROXY_SEGMENTS_H
#define UDPPROXY_SEGMENTS_H

#include "state.h"

bool may_segment(const struct relay *relay, const struct session *session);
uint32_t run_of(const struct iovec *iov, uint32_t count);
void add_segment(struct msghdr *message, uint8_t *control, size_t size);
bool means_unsegmented(int problem);
void refuse_segments(struct relay *relay, struct session *session, int problem);

#endif
