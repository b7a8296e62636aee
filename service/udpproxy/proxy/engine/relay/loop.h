// A worker's loop.
#ifndef UDPPROXY_LOOP_H
#define UDPPROXY_LOOP_H

#include "state.h"

void *work(void *argument);
int turn(struct worker *worker, int patience);
void expire(struct worker *worker, uint64_t now, int most);

#endif
