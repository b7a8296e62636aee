// Which sessions there are, whose they are, when they are due.
#ifndef UDPPROXY_BOOK_H
#define UDPPROXY_BOOK_H

#include "state.h"

void use_listener(struct listener *listener);
void release_listener(struct listener *listener);
void free_listener(struct listener *listener);
struct listener *listener_of(const struct relay *relay, uint32_t number);

struct arrival arrival_by(struct listener *listener, const union address *client,
                          const struct way *way);
void way_of(const struct record *record, struct way *way);
bool same_way(const struct arrival *one, const struct arrival *other);
uint32_t hash_arrival(const struct relay *relay, const struct arrival *arrival);
uint32_t hash_of(const struct relay *relay, const struct listener *listener,
                 const union address *client, const uint8_t *addressed);
struct session *find_session(struct worker *worker, const struct arrival *arrival);
void add_key(struct worker *worker, struct session *session);
void remove_key(struct worker *worker, struct session *session);

void set_due(struct worker *worker, struct session *session, uint64_t now);
void clear_due(struct worker *worker, struct session *session);
uint64_t first_due(const struct worker *worker);
struct session *next_due(struct worker *worker, uint64_t now, enum reason *reason, int *looks);

// Does a limit want to know since when its client has been waiting for an answer?
static inline bool is_awaited(const struct session *session)
{
    return session->verdict->budget.silent < NEVER && session->record->type != ONE_WAY;
}

void list_unanswered(struct worker *worker, struct session *session);
void unlist_unanswered(struct worker *worker, struct session *session);

void count_as(const struct relay *relay, const union address *client, uint8_t counted[16]);
uint32_t *client_count(struct relay *relay, const union address *client);
void uncount_client(struct relay *relay, const union address *client);

#endif
