// What clients have used of their rates, and all of them of the relay's.
#ifndef UDPPROXY_METERS_H
#define UDPPROXY_METERS_H

#include "state.h"

bool make_meters(struct meters *meters, uint32_t sessions);
void free_meters(struct meters *meters);

// With the book locked.
bool may_come(const struct relay *relay, uint64_t now);
bool may_open(struct relay *relay, const union address *client, const struct verdict *verdict,
              uint64_t now);
bool pay_opening(struct relay *relay, const union address *client, const struct verdict *verdict,
                 uint64_t now);
void release_meter(struct relay *relay, uint32_t slot);

bool may_send(struct worker *worker, const struct session *session, uint32_t count);

// Does a rule want its clients' datagrams counted?
static inline bool has_rate(const struct session *session)
{
    return session->verdict->budget.datagrams.interval > 0;
}

#endif
