/*
 * mayfly-userns UID
 *
 * Makes a user namespace as user UID, sends its descriptor over standard input, which is a socket, and waits there until
 * the other side has written the namespace's maps.
 *
 * The kernel counts some of what is used in a user namespace (instances of inotify, queued signals) once more for the
 * user who made it. Made by root, all of them would share root's. The privileges are kept meanwhile, for kernels that
 * let nobody make a user namespace without.
 *
 * The descriptor is sent, since a worker without CAP_SYS_PTRACE may not open /proc/PID/ns/user of another user's.
 * Exit status 124: it failed, and stderr says at what.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FAILED 124

static void fail(const char *what)
{
    dprintf(2, "mayfly-userns: cannot %s: %s\n", what, strerror(errno));
    _exit(FAILED);
}

static void become(uid_t user)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) || setresgid(user, user, user) || setresuid(user, user, user))
        fail("become another user");
    if (syscall(SYS_capget, &header, data))
        fail("read capabilities");
    for (size_t i = 0; i < sizeof data / sizeof *data; i++)
        data[i].effective = data[i].permitted;
    if (syscall(SYS_capset, &header, data))
        fail("keep capabilities");
}

static void send_descriptor(int descriptor)
{
    char byte = 'U', control[CMSG_SPACE(sizeof descriptor)] = {0};
    struct iovec one = {&byte, 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof descriptor);
    memcpy(CMSG_DATA(head), &descriptor, sizeof descriptor);
    if (sendmsg(0, &message, 0) != 1)
        fail("send the namespace");
}

int main(int argc, char **argv)
{
    char byte;
    if (argc != 2)
        _exit(FAILED);
    become((uid_t)strtoul(argv[1], NULL, 10));
    if (unshare(CLONE_NEWUSER))
        fail("make a user namespace");
    int descriptor = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        fail("open the namespace");
    send_descriptor(descriptor);
    while (read(0, &byte, 1) < 0 && errno == EINTR)
        ;
    return 0;
}
