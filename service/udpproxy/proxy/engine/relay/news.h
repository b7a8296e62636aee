// For the host: what it hears.
#ifndef UDPPROXY_NEWS_H
#define UDPPROXY_NEWS_H

#include "host.h"

struct relay_figures {
    uint64_t segmentation, unsegmented, unable, waiting_dropped, events_dropped;
};

int relay_bell(struct relay *relay);
void relay_ring(struct relay *relay);
void relay_hush(struct relay *relay);
void relay_news(struct relay *relay, struct news *news, uint32_t *slots,
                const struct portion *most);
void relay_free_news(struct relay *relay, struct news *news);
void relay_tell_openings(struct relay *relay, int openings);
void relay_tell_answers(struct relay *relay, int answers);
void relay_count(struct relay *relay, uint32_t total, uint64_t amount);
void relay_figures(struct relay *relay, struct relay_figures *figures);

#endif
