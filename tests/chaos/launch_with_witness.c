/*
 * mayfly-launch with one mount more, by MAYFLY_LAUNCHER_DIR: the test's socket, at /witness in the container. Compiled
 * with -DSOCKET=... out of the product's own source, which sets its umask at two moments that serve for it: as root of
 * the machine before anything is mounted, and as root of the container when all is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static mode_t put_witness(mode_t mode)
{
    static int tree = -1;
    mode_t before = umask(mode);
    if (tree < 0)
        tree = syscall(SYS_open_tree, AT_FDCWD, SOCKET, 1 /* a copy */ | O_CLOEXEC);
    else if (mknod("/witness", S_IFREG | 0644, 0) || syscall(SYS_move_mount, tree, "", AT_FDCWD, "/witness", 4))
        tree = -1;
    if (tree < 0) {
        dprintf(2, "launch_with_witness: %s: %s\n", SOCKET, strerror(errno));
        _exit(124);
    }
    return before;
}

#define umask(mode) put_witness(mode)
#include LAUNCH
