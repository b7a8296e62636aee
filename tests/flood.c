// flood: datagrams from strangers, as fast as asked, to a host of the tests' own. It forges the
// sources, so it needs CAP_NET_RAW, and refuses targets that are nobody's but a test's.
//
//   flood --target 127.0.0.1:5000 --sources 127.64.0.0/12 --rate 60000 --count 360000
//   flood --target [fd71::1]:5000 --sources fd71::/64 --ports 100 --rate 20000 --count 100000
//
// The sources go round: each address of the network with one port, then with the next. IPv6 goes
// out by --device, towards --hardware, since the kernel takes no foreign source there. One line
// of JSON tells what left.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 32, MOST = 1400, HEAD4 = 20, HEAD6 = 40, UDP = 8, FIRST_PORT = 1024 };

static struct {
    int family, bits;
    uint8_t target[16], source[16], hardware[6];
    unsigned port, ports, size;
    double rate;
    long count;
    const char *device;
} options = {.ports = 60000, .size = 40, .rate = 60000, .count = 60000};

static _Noreturn void refuse(const char *why)
{
    fprintf(stderr, "flood: %s\n", why);
    exit(2);
}

static _Noreturn void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void parse_target(const char *text)
{
    char host[INET6_ADDRSTRLEN];
    if (sscanf(text, "[%45[0-9a-f:.]]:%u", host, &options.port) == 2)
        options.family = AF_INET6;
    else if (sscanf(text, "%45[0-9.]:%u", host, &options.port) == 2)
        options.family = AF_INET;
    if (!options.family || inet_pton(options.family, host, options.target) != 1 ||
        options.port < 1 || options.port > 65535)
        refuse("the target is ADDRESS:PORT or [ADDRESS]:PORT");
    uint8_t first = options.target[0];
    if (options.family == AF_INET ? first != 127 && first != 10 : first != 0xfd)
        refuse("the target must be in 127.0.0.0/8, 10.0.0.0/8 or fd00::/8");
}

static void parse_sources(const char *text)
{
    char host[INET6_ADDRSTRLEN];
    int family = strchr(text, ':') ? AF_INET6 : AF_INET;
    if (sscanf(text, "%45[0-9a-f:.]/%d", host, &options.bits) != 2 ||
        inet_pton(family, host, options.source) != 1)
        refuse("the sources are NETWORK/BITS");
    if (family != options.family)
        refuse("target and sources are of one family");
    int width = family == AF_INET ? 32 : 128;
    if (options.bits < width - 24 || options.bits > width)
        refuse("the sources are at most 2^24 addresses");
}

static void parse_hardware(const char *text)
{
    uint8_t *to = options.hardware;
    if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", to, to + 1, to + 2, to + 3, to + 4,
               to + 5) != 6)
        refuse("the hardware address is six bytes");
}

static void parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"target", 1, 0, 't'}, {"sources", 1, 0, 's'}, {"ports", 1, 0, 'p'}, {"size", 1, 0, 'z'},
        {"rate", 1, 0, 'r'},   {"count", 1, 0, 'n'},   {"device", 1, 0, 'd'},
        {"hardware", 1, 0, 'h'}, {0, 0, 0, 0},
    };
    for (int key; (key = getopt_long(argc, argv, "", known, NULL)) != -1;)
        switch (key) {
        case 't': parse_target(optarg); break;
        case 's': parse_sources(optarg); break;
        case 'p': options.ports = (unsigned)atoi(optarg); break;
        case 'z': options.size = (unsigned)atoi(optarg); break;
        case 'r': options.rate = atof(optarg); break;
        case 'n': options.count = atol(optarg); break;
        case 'd': options.device = optarg; break;
        case 'h': parse_hardware(optarg); break;
        default: exit(2);
        }
    if (!options.family || !options.bits)
        refuse("--target and then --sources are needed");
    if (options.ports < 1 || options.ports > 64000)
        refuse("--ports is 1 to 64000");
    if (options.size > MOST)
        refuse("--size is at most 1400");
    if (options.rate < 1 || options.rate > 1e6 || options.count < 1 || options.count > 100000000)
        refuse("--rate is 1 to 1000000, --count 1 to 100000000");
    if ((options.family == AF_INET6) != (options.device != NULL))
        refuse("IPv6 needs --device and --hardware, IPv4 has none");
}

// Over 16-bit words, as RFC 1071 has it.
static uint32_t sum_of(const void *data, unsigned size)
{
    const uint8_t *bytes = data;
    uint32_t sum = 0;
    for (unsigned i = 0; i + 1 < size; i += 2)
        sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
    return size & 1 ? sum + ((uint32_t)bytes[size - 1] << 8) : sum;
}

static uint16_t folded(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)(~sum & 0xffff ? ~sum : 0xffff);
}

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static unsigned head_size(void)
{
    return options.family == AF_INET ? HEAD4 : HEAD6;
}

// What is the same in each; the kernel adds IPv4's checksum, and UDP's may be left out there.
static unsigned template(uint8_t *packet)
{
    unsigned head = head_size(), length = UDP + options.size;
    memset(packet, 0, head + length);
    if (options.family == AF_INET) {
        packet[0] = 0x45;
        put16(packet + 2, head + length);
        packet[8] = 64;
        packet[9] = IPPROTO_UDP;
        memcpy(packet + 12, options.source, 4);
        memcpy(packet + 16, options.target, 4);
    } else {
        packet[0] = 0x60;
        put16(packet + 4, length);
        packet[6] = IPPROTO_UDP;
        packet[7] = 64;
        memcpy(packet + 8, options.source, 16);
        memcpy(packet + 24, options.target, 16);
    }
    put16(packet + head + 2, options.port);
    put16(packet + head + 4, length);
    return head + length;
}

static void forge(uint8_t *packet, long number)
{
    unsigned head = head_size(), width = options.family == AF_INET ? 4 : 16;
    uint8_t *source = packet + (width == 4 ? 12 : 8);
    uint64_t addresses = (uint64_t)1 << ((int)width * 8 - options.bits);
    // Without the network's own address and, of more than two, the last one.
    uint64_t usable = addresses > 2 ? addresses - 2 : 1;
    uint64_t at = (uint64_t)number % usable + (addresses > 2);
    uint64_t turn = (uint64_t)number / usable;
    memcpy(source, options.source, width);
    for (unsigned i = 0; i < 3; i++)
        source[width - 1 - i] |= (uint8_t)(at >> (8 * i));
    // Two addresses that follow each other do not have the same port: the flood looks like many.
    put16(packet + head, FIRST_PORT + (unsigned)((turn + at * 7919) % options.ports));
    memcpy(packet + head + UDP, &number, options.size < sizeof number ? options.size : sizeof number);
    if (width == 16) {
        put16(packet + head + 6, 0);
        uint32_t sum = sum_of(packet + 8, 32) + IPPROTO_UDP + UDP + options.size;
        put16(packet + head + 6, folded(sum + sum_of(packet + head, UDP + options.size)));
    }
}

union way {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_ll link;
};

static int open_socket(union way *way, socklen_t *length)
{
    memset(way, 0, sizeof *way);
    if (options.family == AF_INET) {
        way->v4.sin_family = AF_INET;
        memcpy(&way->v4.sin_addr, options.target, 4);
        *length = sizeof way->v4;
        return socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    }
    way->link.sll_family = AF_PACKET;
    way->link.sll_protocol = htons(ETH_P_IPV6);
    way->link.sll_ifindex = (int)if_nametoindex(options.device);
    way->link.sll_halen = sizeof options.hardware;
    memcpy(way->link.sll_addr, options.hardware, sizeof options.hardware);
    *length = sizeof way->link;
    return socket(AF_PACKET, SOCK_DGRAM, 0);
}

int main(int argc, char **argv)
{
    static uint8_t packets[BATCH][HEAD6 + UDP + MOST];
    struct mmsghdr messages[BATCH];
    struct iovec iov[BATCH];
    union way way;
    socklen_t length;
    long sent = 0, failed = 0;
    parse(argc, argv);
    int fd = open_socket(&way, &length);
    if (fd < 0)
        die("socket");
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) {
        iov[i] = (struct iovec){packets[i], template(packets[i])};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &way, .msg_namelen = length, .msg_iov = iov + i, .msg_iovlen = 1};
    }
    uint64_t start = now_ns();
    while (sent + failed < options.count) {
        // Sleeping to a moment, not for a while: the rate does not drift.
        uint64_t due = start + (uint64_t)((double)(sent + failed) * 1e9 / options.rate);
        struct timespec moment = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &moment, NULL);
        long left = options.count - sent - failed;
        unsigned batch = left < BATCH ? (unsigned)left : BATCH;
        for (unsigned i = 0; i < batch; i++)
            forge(packets[i], sent + failed + (long)i);
        int passed = sendmmsg(fd, messages, batch, 0);
        if (passed > 0)
            sent += passed;
        else if (errno == ENOBUFS || errno == EAGAIN)
            failed++;
        else
            die("sendmmsg");
    }
    printf("{\"sent\": %ld, \"failed\": %ld, \"seconds\": %.3f}\n", sent, failed,
           (double)(now_ns() - start) / 1e9);
    return 0;
}
