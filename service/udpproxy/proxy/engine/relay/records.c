// The record of an ended session as session/record.py writes it, for logs that want lines only.
#include "records.h"

#include <arpa/inet.h>
#include <stdio.h>

#include "state.h"

static const struct {
    const char *reason, *result;
} ENDS[] = {
    [IDLE] = {"idle", "OK"},
    [LIFETIME] = {"lifetime", "OK"},
    [OVER_UPLOAD_BYTES] = {"upload-bytes", "OK"},
    [ALL_UPLOAD_DATAGRAMS] = {"upload-datagrams", "OK"},
    [OVER_DOWNLOAD_BYTES] = {"download-bytes", "OK"},
    [OVER_DOWNLOAD_DATAGRAMS] = {"download-datagrams", "OK"},
    [UNEXPECTED_REPLY] = {"unexpected-reply", "FAILED"},
    [UNREACHABLE] = {"unreachable", "FAILED"},
    [UNRESOLVED] = {"unresolved", "FAILED"},
    [POLICY] = {"policy", "ABORTED"},
    [SILENT] = {"silent", "FAILED"},
    [EVICTED_BY_NEWCOMER] = {"evicted", "ABORTED"},
    [KILLED] = {"killed", "ABORTED"},
    [TERMINATED] = {"terminated", "ABORTED"},
    [FAULT] = {"error", "FAILED"},
    [BY_EXTENSION] = {"extension", "ABORTED"},
};

// False: an address that Python and inet_ntop(3) write differently (::192.0.2.1).
static bool name_address(const uint8_t *packed, unsigned size, char text[INET6_ADDRSTRLEN])
{
    static const uint8_t nothing[10];
    if (size == 16 && !memcmp(packed, nothing, sizeof nothing))
        return false;
    return inet_ntop(size == 4 ? AF_INET : AF_INET6, packed, text, INET6_ADDRSTRLEN) != NULL;
}

// How long it is; -1: Python is to write this one, as it does where the record makes no sense.
int relay_describe(struct relay *relay, uint32_t slot, const char *rule, uint64_t now, char *text,
                   size_t size)
{
    const struct session *session = relay->sessions + slot;
    const struct record *record = session->record;
    char sender[INET6_ADDRSTRLEN], via[sizeof sender + 32] = "";
    char dropped[48] = "";
    char client[INET6_ADDRSTRLEN], server[INET6_ADDRSTRLEN], source[INET6_ADDRSTRLEN];
    const uint8_t *peer = record->pinned ? record->peer : record->server;
    if (record->sum != sum_of(record) || record->id != session->id)
        return -1;
    if (!name_address(record->client, record->client_size, client) ||
        !name_address(peer, record->server_size, server) || !record->source_port ||
        !name_address(record->source, record->server_size, source))
        return -1;
    if (record->via_size) {
        if (!name_address(record->via, record->via_size, sender))
            return -1;
        snprintf(via, sizeof via, " VIA_ADDR=%s VIA_PORT=%u", sender, record->via_port);
    }
    unsigned long long up = record->upload_bytes, down = record->download_bytes;
    if (record->dropped)
        snprintf(dropped, sizeof dropped, " DATAGRAMS_DROPPED=%llu",
                 (unsigned long long)record->dropped);
    unsigned long long ups = record->uploads, downs = record->downloads;
    int length = snprintf(
        text, size,
        "PROTOCOL=UDP CLIENT=%s CLIENT_ADDR=%s CLIENT_PORT=%u%s SERVER=%s SERVER_ADDR=%s "
        "SERVER_PORT=%u SOURCE_ADDR=%s SOURCE_PORT=%u BYTES_CIN=%llu BYTES_COUT=%llu "
        "BYTES_SIN=%llu BYTES_SOUT=%llu "
        "DATAGRAMS_CIN=%llu DATAGRAMS_COUT=%llu DATAGRAMS_SIN=%llu DATAGRAMS_SOUT=%llu%s "
        "DURATION=%.3f STATUS=ACCEPTED RESULT=%s RULE=%s REASON=%s SESSION=%llu",
        client, client, record->client_port, via, server, server,
        record->pinned ? record->peer_port : record->server_port, source, record->source_port, up,
        down, down, up, ups, downs, downs + (unsigned long long)record->stray, ups,
        dropped,
        (double)(now - record->opened) / 1e9, ENDS[session->reason].result, rule,
        ENDS[session->reason].reason,
        (unsigned long long)record->id);
    return length < (int)size ? length : -1;
}
