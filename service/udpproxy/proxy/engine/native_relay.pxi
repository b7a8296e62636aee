# What the engine knows of relay/relay.h.

cdef extern from "netinet/in.h" nogil:
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_in:
        uint16_t sin_port
        uint32_t sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_port
        uint32_t sin6_scope_id
        uint8_t sin6_addr
    uint16_t ntohs(uint16_t)

cdef extern from "relay/relay.h" nogil:
    cdef union address:
        sockaddr any
        sockaddr_in v4
        sockaddr_in6 v6
    cdef struct pace:
        uint64_t interval, slack
    cdef struct budget_ "budget":
        uint64_t idle, lifetime
        uint64_t upload_datagrams, download_datagrams, upload_bytes, download_bytes
        uint64_t silent
        pace new_sessions, datagrams
        uint64_t amplification
    cdef struct source:
        uint8_t size
        uint8_t *packed
    cdef struct candidate:
        address server
        uint64_t identity
        uint32_t weight, member
        bint standby
    cdef struct member:
        uint8_t state, trial
        uint32_t sessions, errors, unanswered
        uint64_t answered
    cdef struct mirror:
        address to
        int fd
    cdef struct verdict:
        budget_ budget
        uint64_t generation, rule
        uint32_t number, acl, member
        uint8_t balance
        candidate *candidates
        address server
        uint8_t type, any_port, close_on_unreachable, network_size, handed, header
        uint8_t *network_first
        uint8_t *network_last
        uint8_t fallback, source_count
        int source_port
        source *sources
        uint8_t tos, keeps_dscp, mirror_count
        mirror *mirrors
    cdef struct event:
        event *next
        uint64_t session
        int kind
        uint32_t listener, verdict, counter, what, count, size, slot
        int problem, upload
        address who, to
        uint8_t addressed_size
        uint8_t *addressed
        uint16_t port
        uint8_t *data
    cdef struct question:
        question *next
        address client
        uint32_t listener
        uint8_t addressed_size
        uint8_t *addressed
        uint16_t port
    cdef struct way:
        uint8_t[16] addressed
        uint8_t[16] local
        uint32_t interface
        uint16_t port
        address via
        uint8_t tos
    cdef struct network:
        uint8_t size
        uint8_t[16] first
        uint8_t[16] last
    cdef struct networks:
        network *each
        uint32_t count
    cdef struct held_ "held":
        held_ *next
        address client
        way way
        uint32_t size
        uint8_t *data
    cdef struct news:
        event *events
        question *questions
        uint32_t ended, more
        int scarce, spent
    cdef struct portion:
        uint32_t events, questions, ended
    cdef struct relay_figures_ "relay_figures":
        uint64_t segmentation, unsegmented, unable, waiting_dropped, events_dropped
    cdef struct relay_ "relay":
        pass
    int OPENED, REFUSED, DENIED, STRAYED, FAILED, SEEN, HANDED, REROUTED
    int SERVER_SILENT, SERVER_UNREACHABLE, SERVER_ANSWERS, NOT_COPIED
    int POLICY, FAULT
    ctypedef void (*seen)(void *, uint64_t, int, const void *, uint32_t) noexcept

    relay_ *relay_new(void *, uint32_t, uint32_t, uint32_t, uint32_t, int)
    void relay_free(relay_ *)
    void relay_spare_descriptors(uint32_t)
    int relay_start(relay_ *)
    void relay_stop(relay_ *)
    void relay_inline(relay_ *, seen, void *)
    int relay_turn(relay_ *, uint32_t)
    int relay_bell(relay_ *)
    int relay_poller(relay_ *, uint32_t)
    void relay_socket(relay_ *, int, uint32_t, int)
    void relay_extend(relay_ *, uint32_t)
    void relay_lack(relay_ *, int)
    uint32_t relay_take_spent(relay_ *, uint32_t *, uint32_t)
    int relay_kept(relay_ *, uint32_t, int)
    void relay_look_for_spent(relay_ *)
    int relay_replace(relay_ *, int, uint32_t, int)
    void relay_replaced(relay_ *)
    int relay_listen(relay_ *, uint32_t, const int *, uint32_t, const address *, const networks *)
    int relay_expect_headers(relay_ *, uint32_t, const networks *)
    void relay_tell_dscp(relay_ *, uint32_t, int)
    void relay_copy_from(relay_ *, const uint16_t *, uint32_t)
    uint32_t relay_unlisten(relay_ *, uint32_t)
    void relay_ring(relay_ *)
    void relay_hush(relay_ *)
    void relay_news(relay_ *, news *, uint32_t *, const portion *)
    void relay_free_news(relay_ *, news *)
    void relay_answer(relay_ *, const question *, verdict *, unsigned, uint64_t)
    void relay_forget(relay_ *)
    uint32_t relay_drops(relay_ *, uint32_t)
    int relay_describe(relay_ *, uint32_t, const char *, uint64_t, char *, size_t)
    int relay_how_ended(relay_ *, uint32_t, uint32_t *, uint64_t *, int *)
    void relay_free_ended(relay_ *, const uint32_t *, uint32_t)
    verdict *relay_verdict(relay_ *, uint32_t)
    void relay_copy_by(verdict *, uint32_t, int)
    uint32_t relay_sweep(relay_ *, uint32_t *, uint32_t)
    held_ *relay_pull(relay_ *, const question *)
    void relay_inject(relay_ *, uint32_t, const address *, const way *, const void *, uint32_t)
    int relay_redirect(relay_ *, uint64_t, const address *, uint32_t)
    const candidate *choose_server(relay_ *, const verdict *, const address *, uint64_t)
    void relay_member_state(relay_ *, uint32_t, int, int)
    void relay_member_figures(relay_ *, uint32_t, member *)
    int relay_reconnect(relay_ *, uint64_t, uint32_t)
    int relay_kill(relay_ *, uint64_t, int)
    int relay_end(relay_ *, uint64_t, uint32_t, int)
    int relay_asks(relay_ *, uint32_t, uint64_t, int, const void *, uint32_t)
    void relay_pass(relay_ *, uint32_t, uint64_t, int, const void *, uint32_t)
    void relay_retry(relay_ *)
    void relay_settle(relay_ *)
    int relay_copy(relay_ *, uint32_t, uint64_t *, void *)
    int relay_judge_by(relay_ *, uint64_t, uint32_t, verdict *)
    int relay_adopt(relay_ *, uint32_t, verdict *)
    void relay_clear(relay_ *, uint32_t)
    void relay_free_slot(relay_ *, uint32_t)
    void relay_reserve(relay_ *, const uint8_t *)
    void relay_limit(relay_ *, uint32_t, uint32_t)
    void relay_limit_openings(relay_ *, const pace *)
    uint64_t relay_expire(relay_ *, uint64_t)
    uint32_t relay_sessions(relay_ *)
    void relay_watch(relay_ *, int)
    void relay_tell_openings(relay_ *, int)
    void relay_tell_answers(relay_ *, int)
    void relay_segment(relay_ *, int)
    void relay_count(relay_ *, uint32_t, uint64_t)
    void relay_figures(relay_ *, relay_figures_ *)
    void relay_close(relay_ *)
    void make_address(address *, const uint8_t *, unsigned, uint16_t, uint32_t)
