/*
 * Uses up what the kernel counts by user and not by container: descriptors in flight, and the pages of large pipes.
 * Says on stderr what stopped it, "full" when there is no more, and keeps all of it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int send_itself(int *pair)
{
    char byte = 0, control[CMSG_SPACE(sizeof(int) * 200)];
    struct iovec one = {&byte, 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int) * 200);
    for (int i = 0; i < 200; i++)
        memcpy(CMSG_DATA(head) + i * sizeof(int), &pair[0], sizeof(int));
    return sendmsg(pair[0], &message, MSG_DONTWAIT) > 0;
}

int main(void)
{
    int pair[2], pipes[2], of_sockets = 0, of_pipes = 0;
    for (int i = 0; i < 100 && !socketpair(AF_UNIX, SOCK_DGRAM, 0, pair); i++) {
        while (send_itself(pair))
            ;
        of_sockets = errno;
    }
    while (!pipe(pipes))
        if (fcntl(pipes[0], F_SETPIPE_SZ, 1 << 20) < 0)
            of_pipes = errno;
    close(pipes[0]);
    fprintf(stderr, "in flight: %s; ", strerror(of_sockets));
    fprintf(stderr, "pages: %s\n", strerror(of_pipes));
    write(1, "full\n", 5);
    for (;;)
        pause();
}
