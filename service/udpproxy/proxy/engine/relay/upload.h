// To the server: one datagram of a client, or a run of them.
#ifndef UDPPROXY_UPLOAD_H
#define UDPPROXY_UPLOAD_H

#include "state.h"

bool upload_paid(struct worker *worker, struct session *session, const struct arrival *arrival,
                 const void *data, uint32_t size);
bool upload(struct worker *worker, struct session *session, const struct arrival *arrival,
            const void *data, uint32_t size);
bool pass_up(struct worker *worker, struct session *session, const void *data, uint32_t size);
bool within_limits(struct worker *worker, const struct session *session,
                   const struct iovec *iov, uint32_t count);
uint32_t upload_run(struct worker *worker, struct session *session, struct iovec *iov,
                    uint32_t count);

#endif
