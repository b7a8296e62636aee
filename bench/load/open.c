// Open loop: datagrams leave at a fixed rate, whether answers come or not.
// Latency is counted from the sending. How late the generator itself was against its schedule is
// reported apart (lag): it shares its CPU with the echo server, never with the proxy.
#include "load.h"

enum { CATCH_UP = 64, WAIT_NS = 5000000 };

void open_loop(void) {
    // Room for all that can be under way within the timeout, with a quarter to spare.
    int slots = (int)(options.rate * options.timeout * 1.25) + options.inflight;
    open_clients(slots);
    long primed = prime();
    say_primed(primed);
    int client = 0;
    uint64_t sent = 0;
    start_window();
    uint64_t start = now_ns(), end = start + (uint64_t)(options.seconds * 1e9), now = start;
    while (now < end) {
        for (int burst = 0; burst < CATCH_UP; burst++) {
            uint64_t due = start + (uint64_t)((double)sent * 1e9 / options.rate);
            now = now_ns();
            if (due > now || now >= end) break;
            behind_schedule(now - due);
            if (free_slots()) send_burst(client, 1);
            else counts.errors++;
            client = (client + 1) % options.clients;
            sent++;
        }
        uint64_t due = start + (uint64_t)((double)sent * 1e9 / options.rate);
        now = now_ns();
        collect(due <= now ? 0 : due - now > WAIT_NS ? WAIT_NS : due - now);
    }
    land((uint64_t)(options.timeout * 1e9));
    print_result("open", options.seconds, primed);
}
