// In front of libc (LD_PRELOAD): sends by the socket that has `failing_port` fail, so often.
// `syscall` too, by which the native engine sends single datagrams.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int failing_port, failing_problem, failing_times;

static bool fails(int fd)
{
    struct sockaddr_in own = {0};
    socklen_t size = sizeof own;
    if (!failing_times || getsockname(fd, (struct sockaddr *)&own, &size) ||
        ntohs(own.sin_port) != failing_port)
        return false;
    failing_times--;
    errno = failing_problem;
    return true;
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    return fails(fd) ? -1 : REAL(send)(fd, data, size, flags);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to,
               socklen_t length)
{
    return fails(fd) ? -1 : REAL(sendto)(fd, data, size, flags, to, length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    return fails(fd) ? -1 : REAL(sendmsg)(fd, message, flags);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    return fails(fd) ? -1 : REAL(sendmmsg)(fd, messages, count, flags);
}

long syscall(long number, ...)
{
    long words[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        words[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_sendto && fails((int)words[0]))
        return -1;
    return REAL(syscall)(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}
