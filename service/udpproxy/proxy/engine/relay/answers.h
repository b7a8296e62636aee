// For the host: what it decides, and what becomes of datagrams that wait.
#ifndef UDPPROXY_ANSWERS_H
#define UDPPROXY_ANSWERS_H

#include "host.h"

void free_verdict(struct verdict *verdict);
struct verdict *relay_verdict(struct relay *relay, uint32_t candidates);
void relay_copy_by(struct verdict *verdict, uint32_t at, int fd);
uint32_t relay_sweep(struct relay *relay, uint32_t *numbers, uint32_t most);
void relay_answer(struct relay *relay, const struct question *question, struct verdict *verdict,
                  unsigned bits, uint64_t until);
void relay_forget(struct relay *relay);
struct held *relay_pull(struct relay *relay, const struct question *question);
void relay_inject(struct relay *relay, uint32_t number, const union address *client,
                  const struct way *way, const void *data, uint32_t size);
void relay_retry(struct relay *relay);

#endif
