// For the host: what it does with the sessions that there are.
#ifndef UDPPROXY_COMMANDS_H
#define UDPPROXY_COMMANDS_H

#include "host.h"

void relay_copy_from(struct relay *relay, const uint16_t *ports, uint32_t count);
uint32_t relay_sessions(struct relay *relay);
void relay_limit(struct relay *relay, uint32_t most, uint32_t each);
void relay_limit_openings(struct relay *relay, const struct pace *pace);
void relay_segment(struct relay *relay, int on);
void relay_watch(struct relay *relay, int on);
int relay_copy(struct relay *relay, uint32_t slot, uint64_t *id, void *record);
int relay_judge_by(struct relay *relay, uint64_t id, uint32_t slot, struct verdict *verdict);
int relay_redirect(struct relay *relay, uint64_t id, const union address *server, uint32_t member);
int relay_reconnect(struct relay *relay, uint64_t id, uint32_t slot);
int relay_kill(struct relay *relay, uint64_t id, enum reason reason);
int relay_end(struct relay *relay, uint64_t id, uint32_t slot, enum reason reason);

int relay_how_ended(struct relay *relay, uint32_t slot, uint32_t *verdict, uint64_t *id,
                    int *answered);
uint32_t relay_drops(struct relay *relay, uint32_t slot);
void relay_free_ended(struct relay *relay, const uint32_t *slots, uint32_t count);

#endif
