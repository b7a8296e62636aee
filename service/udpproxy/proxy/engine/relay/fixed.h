// Sessions whose rule says from which port they write to the server (source-port).
#ifndef UDPPROXY_FIXED_H
#define UDPPROXY_FIXED_H

#include "state.h"

// Has the session's socket of that family a port that it cannot give back?
static inline bool is_kept(const struct session *session, bool v6)
{
    return session->kept >> v6 & 1;
}

bool keeps_port(int fd);
void park(int fd);
void reset_any(int fd);
bool keeps(const struct relay *relay, const struct session *session);
void leave_port(struct relay *relay, struct session *session);
int attach_session(struct relay *relay, struct session *session, const union address *server,
                   union address *own);
int rejoin(struct relay *relay, struct session *session, const union address *peer, bool alone,
           union address *own);

#endif
