// A worker's loop.
#ifndef UDPPROXY_LOOP_H
#define UDPPROXY_LOOP_H

#include "state.h"

void *run_worker(void *argument);
int take_turn(struct worker *worker, int patience);
void expire_sessions(struct worker *worker, uint64_t now, int most);

#endif
