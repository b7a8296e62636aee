// UDP_SEGMENT: a run of equal datagrams of one session goes to the kernel in one piece and comes
// out of it as the datagrams it was. Where that is refused the session does without, and all do
// where the device cannot: what is too large for one way says nothing of the others.
#include "segments.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif
enum {
    MOST_SEGMENTS = 64,
    MOST_UNABLE = 64,
    TOGETHER = 64000, // bytes in a run of datagrams that are handed over in one go
};

bool may_segment(const struct relay *relay, const struct session *session)
{
    return __atomic_load_n(&relay->segmentation, __ATOMIC_RELAXED) && !session->singly;
}

// How many, from the first on, can go as one: all of its size, the last may be shorter.
uint32_t run_of(const struct iovec *iov, uint32_t count)
{
    size_t size = iov[0].iov_len, total = size;
    uint32_t run = 1;
    if (!size)
        return 1;
    while (run < count && run < MOST_SEGMENTS && iov[run - 1].iov_len == size &&
           iov[run].iov_len <= size && iov[run].iov_len && total + iov[run].iov_len <= TOGETHER)
        total += iov[run++].iov_len;
    return run;
}

// After whatever else is in the message's control part, which has CONTROL bytes.
void add_segment(struct msghdr *message, uint8_t *control, size_t size)
{
    uint16_t segment = (uint16_t)size;
    struct cmsghdr *part = (struct cmsghdr *)(control + message->msg_controllen);
    memset(part, 0, CMSG_SPACE(sizeof segment));
    part->cmsg_level = SOL_UDP;
    part->cmsg_type = UDP_SEGMENT;
    part->cmsg_len = CMSG_LEN(sizeof segment);
    memcpy(CMSG_DATA(part), &segment, sizeof segment);
    message->msg_control = control;
    message->msg_controllen += CMSG_SPACE(sizeof segment);
}

// EIO: the device cannot. EINVAL, from newer kernels EMSGSIZE: the datagrams are larger than the
// way carries unfragmented.
bool means_unsegmented(int problem)
{
    return problem == EIO || problem == EINVAL || problem == EMSGSIZE;
}

void refuse_segments(struct relay *relay, struct session *session, int problem)
{
    if (session->singly)
        return; // a second message of the same batch
    session->singly = true;
    __atomic_add_fetch(&relay->unsegmented, 1, __ATOMIC_RELAXED);
    if (problem == EIO && __atomic_add_fetch(&relay->unable, 1, __ATOMIC_RELAXED) >= MOST_UNABLE)
        __atomic_store_n(&relay->segmentation, 0, __ATOMIC_RELAXED);
}
