// Datagrams that wait for a decision or a slot, each with its worker.
#ifndef UDPPROXY_HELD_H
#define UDPPROXY_HELD_H

#include "state.h"

bool may_hold(const struct worker *worker, const struct arrival *arrival, uint32_t size);
bool hold_datagram(struct worker *worker, const struct arrival *arrival, const void *data,
                   uint32_t size, bool asked, struct held *held);
bool has_answers(const struct worker *worker);
bool waits_already(const struct worker *worker, const struct arrival *arrival);
struct held *take_held(struct worker *worker);
void unlink_held(struct worker *worker, struct held **link);
void free_held(struct held *held);
void drop_held(struct worker *worker, const struct listener *listener);

#endif
