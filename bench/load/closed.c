// Closed loop: a fixed number of datagrams under way; each answer lets the next one go.
#include "load.h"

void closed_loop(void) {
    open_clients(options.inflight);
    long primed = prime();
    say_primed(primed);
    // A single client sends all that it may at once; others take turns, a burst each.
    int most = options.clients == 1 ? BATCH : options.burst;
    int least = options.clients == 1 ? 1 : options.burst;
    int client = 0;
    start_window();
    uint64_t start = now_ns(), end = start + (uint64_t)(options.seconds * 1e9);
    while (now_ns() < end) {
        while (free_slots() >= least) {
            send_burst(client, free_slots() < most ? free_slots() : most);
            client = (client + 1) % options.clients;
        }
        collect(20000000);
    }
    // The last answers count, and so does the time until they came: CPU time read afterwards
    // then belongs to exactly these datagrams.
    uint64_t last = land((uint64_t)(options.timeout * 1e9));
    print_result("closed", last > start ? (double)(last - start) / 1e9 : options.seconds, primed);
}
