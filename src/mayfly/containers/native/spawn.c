/*
 * mayfly-spawn [-r] PARENT CGROUP... -- COMMAND [ARGUMENT...]
 *
 * What has to happen between the worker's fork and the start of the container runtime, and must not be done in Python:
 * a fork of the worker that runs Python is slow, and os.posix_spawn can do none of it.
 *
 *  PARENT   the worker's process id: die with it. The kernel ties this to the *thread* that forked us, so the worker
 *           spawns from its main thread only.
 *  CGROUP   directories of cgroups to enter, so that the runtime and all that it starts are inside from the first page.
 *  -r       a mount namespace of our own in which /sys/fs/cgroup is read-only: runc cannot be told to leave cgroups
 *           alone, but does so where it may not write. Entering has happened before.
 *
 * Standard input, output, error and the control socket (fd 3) are in place already. What else is inherited is closed: a
 * directory of the machine among it would be a way out, as an image's working directory may be /proc/self/fd/7. Exit
 * status 124: one of the above failed, and stderr says which.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FAILED 124
#define CONTROL 3

static void fail(const char *what, const char *which)
{
    dprintf(2, "mayfly-spawn: %s %s: %s\n", what, which, strerror(errno));
    _exit(FAILED);
}

static void close_what_is_inherited(void)
{
    if (!syscall(SYS_close_range, CONTROL + 1, ~0U, 0))
        return;
    for (int each = sysconf(_SC_OPEN_MAX); --each > CONTROL;) /* before Linux 5.9 */
        close(each);
}

static void die_with(const char *parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL))
        fail("cannot tie to parent", parent);
    if (getppid() != atoi(parent)) /* it died before we asked */
        _exit(FAILED);
}

/*
 * By `tasks`, where there is one (version 1): for a thread that moves itself, the kernel then need not keep the whole
 * machine from forking meanwhile, before which it waits for a grace period of RCU, mostly: up to 30 ms.
 */
static void enter(const char *cgroup)
{
    int directory = open(cgroup, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int entrance = openat(directory, "tasks", O_WRONLY | O_CLOEXEC);
    if (entrance < 0 && errno == ENOENT)
        entrance = openat(directory, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (entrance < 0 || write(entrance, "0", 1) != 1)
        fail("cannot enter", cgroup);
    close(entrance);
    close(directory);
}

static void make_cgroups_read_only(void)
{
    struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};
    if (unshare(CLONE_NEWNS))
        fail("cannot unshare", "mounts");
    if (syscall(SYS_mount_setattr, AT_FDCWD, "/sys/fs/cgroup", AT_RECURSIVE, &read_only, sizeof read_only))
        fail("cannot make read-only", "/sys/fs/cgroup");
}

int main(int argc, char **argv)
{
    int next = 1;
    int read_only = argc > 1 && !strcmp(argv[1], "-r");
    next += read_only;
    if (argc - next < 3)
        _exit(FAILED);
    close_what_is_inherited();
    die_with(argv[next++]);
    for (; next < argc && strcmp(argv[next], "--"); next++)
        enter(argv[next]);
    if (++next >= argc)
        _exit(FAILED);
    if (read_only)
        make_cgroups_read_only();
    execv(argv[next], argv + next);
    fail("cannot start", argv[next]);
}
