/*
 * Takes one of those things until there is no more that the kernel counts by user: notify (instances of inotify),
 * signals (queued ones), descriptors (in flight on sockets), pages (of pipes). Says how much that was, calls itself "full" and keeps it.
 * With "one" behind the word it takes a single one, and says whether it could.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int take_notify(void)
{
    return inotify_init() >= 0;
}

static int take_signals(void)
{
    static int is_blocked;
    sigset_t all;
    sigfillset(&all);
    if (!is_blocked)
        is_blocked = !sigprocmask(SIG_BLOCK, &all, NULL);
    union sigval nothing = {0};
    return !sigqueue(getpid(), SIGRTMIN, nothing);
}

static int take_descriptors(void)
{
    static int pair[2], has_pair;
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec one = {&byte, 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    for (;;) {
        if (!has_pair && socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
            return 0;
        has_pair = 1;
        head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &pair[0], sizeof(int));
        if (sendmsg(pair[0], &message, MSG_DONTWAIT) > 0)
            return 1;
        if (errno != EAGAIN)
            return 0;
        has_pair = 0; /* this socket is full */
    }
}

static int take_pages(void)
{
    int ends[2];
    return !pipe(ends) && fcntl(ends[0], F_SETPIPE_SZ, 1 << 20) > 0;
}

int main(int argc, char **argv)
{
    static const struct { const char *name; int (*take)(void); } THINGS[] = {
        {"notify", take_notify}, {"signals", take_signals}, {"descriptors", take_descriptors}, {"pages", take_pages}};
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (size_t i = 0; argc > 1 && i < sizeof THINGS / sizeof *THINGS; i++) {
        if (strcmp(THINGS[i].name, argv[1]))
            continue;
        int taken = 0;
        if (argc > 2)
            return puts(THINGS[i].take() ? "ok" : strerror(errno)) < 0;
        while (taken < 1000000 && THINGS[i].take())
            taken++;
        fprintf(stderr, "%d, then %s\n", taken, strerror(errno));
        prctl(PR_SET_NAME, "full");
        for (;;)
            pause();
    }
    return 2;
}
