// What the host has decided about first datagrams. All of it with the book locked.
#ifndef UDPPROXY_DECISIONS_H
#define UDPPROXY_DECISIONS_H

#include "state.h"

enum { DECISION_BUCKETS = 1 << 14, MOST_DECISIONS = 1 << 16 };

struct decision *find_decision(struct relay *relay, const struct arrival *arrival, uint64_t now);
struct decision *add_decision(struct relay *relay, uint32_t listener, uint8_t client[16],
                              const uint8_t addressed[16], uint16_t port, unsigned bits);
bool ask_host(struct relay *relay, const struct arrival *arrival);
struct decision *find_question(struct relay *relay, const struct question *question);
void drop_decision(struct relay *relay, struct decision *decision);
void forget_decisions(struct relay *relay, bool everything);
void forget_listener(struct relay *relay, const struct listener *listener);

#endif
