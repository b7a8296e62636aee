// For the host: sockets for slots, and the sessions that are found in the table.
#ifndef UDPPROXY_ADOPTION_H
#define UDPPROXY_ADOPTION_H

#include "host.h"

void relay_socket(struct relay *relay, int version, uint32_t slot, int fd);
void relay_extend(struct relay *relay, uint32_t slots);
uint32_t relay_take_spent(struct relay *relay, uint32_t *slots, uint32_t most);
int relay_kept(struct relay *relay, uint32_t slot, int version);
void relay_look_for_spent(struct relay *relay);
int relay_replace(struct relay *relay, int version, uint32_t slot, int fd);
void relay_replaced(struct relay *relay);
void relay_lack(struct relay *relay, int problem);
void relay_reserve(struct relay *relay, const uint8_t *taken);
void relay_clear(struct relay *relay, uint32_t slot);
void relay_free_slot(struct relay *relay, uint32_t slot);
int relay_adopt(struct relay *relay, uint32_t slot, struct verdict *verdict);

#endif
