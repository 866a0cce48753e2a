/*
 * mayfly-launch: a container without a container runtime. One static program is spawner, sandbox and process 1.
 *
 * It is started with pipes as standard input, output and error and the control socket as fd 3, and finds there a
 * `struct plan` with descriptors of namespaces beside it. It closes all else, ties itself to the worker, makes the
 * container's cgroups, and mounts the root in a mount namespace of its own, so that nothing of it is ever seen in the
 * worker's, and all of it vanishes with the last process. Then it enters the container's user namespace and clones
 * process 1 into new namespaces, as a child of the worker and not of itself, and is gone. Process 1 enters the cgroups,
 * moves the mounts to where the container has them, leaves the old root behind, gives up every privilege, and goes on in
 * hold.h.
 *
 * Guarantees:
 * - The image is hostile: what is in it is only looked at once the old root cannot be reached any more, by path or by
 *   descriptor, except for the directory at its top. So whatever its links say, they lead to where the function could go
 *   itself.
 * - Nothing of the image has run when the frame arrives: there is nobody whom any step could race with.
 * - The worker learns of each step that fails: 'F', the step's name and the reason, on the control socket.
 *
 * Needs Linux 5.9; 5.12 where the image's users are shifted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hold.h"

enum { PLAN_PROTOCOL = 0x4d460001, FAILED = 124 };
enum { MAX_PATH = 4096, MAX_PLAN_BYTES = 1 << 20, MAX_GROUPS = 65536, MAX_CAPABILITIES = 64, OWN_INODES = 8 };
enum { USERS, SHIFT, NETWORK, DESCRIPTORS };        /* the namespaces that are there already, in this order */
enum { HAS_SHIFT = 1 << 0, HAS_NETWORK = 1 << 1 };  /* `has`: which of them, beside the first */
enum { IS_UNIFIED = 1 << 2, MAX_HIERARCHIES = 8 };  /* and that cgroups are of version 2 */

/* The system calls for mounts by descriptor, which not every C library has. */
enum { TREE_CLONE = 1, FROM_DESCRIPTOR = 4, FOLLOW_LINKS = 0x10 };
enum { CLOSE_ON_EXEC = 1, SET_STRING = 1, CREATE = 6 };
enum { AT_DESCRIPTOR = 0x1000, SHIFT_USERS = 0x100000, ATTR_RDONLY = 1, ATTR_NOSUID = 2, ATTR_NODEV = 4, ATTR_NOEXEC = 8 };
struct attributes { uint64_t set, clear, propagation, users; };

struct plan {
    uint32_t protocol, parent, has;
    uint32_t uid, gid, host_uid, host_gid, groups; /* of the image's user, in the container and outside */
    uint32_t nofile_soft, nofile_hard, oom_score;
    uint32_t cgroups, settings, masked, read_only, strings_bytes;
    uint64_t scratch_bytes, scratch_inodes, shm_bytes, shm_inodes, dev_bytes, dev_inodes;
};

static struct plan plan;
static gid_t *groups;
static char *stage, *image, *hostname, *cwd, *hosts;    /* paths outside, but `cwd` and the text of /etc/hosts */
static char *resolv_conf, *sys, *secrets;               /* paths outside, empty where the container has none */
static char **cgroups, **settings, **masked, **read_only; /* `settings`: a path and a value by turns */
static int namespaces[DESCRIPTORS] = {-1, -1, -1};
static int entrances[MAX_HIERARCHIES]; /* of the cgroups */

static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"};
enum { DEVICES = sizeof devices / sizeof *devices };

static struct { int root, hosts, resolv_conf, sys, secrets, proc, devices[DEVICES]; } trees;

/* --- telling ------------------------------------------------------------------------------------------------------- */

static void fail(const char *what, const char *which)
{
    char words[512]; /* `which` may be as long as an image likes, and the reason comes after it */
    int length = snprintf(words, sizeof words, "Fcannot %s %.300s: %s", what, which, strerror(errno));
    send(CONTROL, words, length < (int)sizeof words ? length : (int)sizeof words - 1, MSG_NOSIGNAL);
    _exit(FAILED);
}

static void report(uint32_t kind, uint32_t value)
{
    send_report(kind, value);
}

/* --- the plan ------------------------------------------------------------------------------------------------------ */

static void take_descriptors(struct msghdr *message)
{
    struct cmsghdr *head = CMSG_FIRSTHDR(message);
    int wanted[DESCRIPTORS] = {1, !!(plan.has & HAS_SHIFT), !!(plan.has & HAS_NETWORK)};
    size_t bytes = (wanted[USERS] + wanted[SHIFT] + wanted[NETWORK]) * sizeof(int);
    errno = EBADMSG;
    if (!head || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(bytes))
        fail("take", "the namespaces");
    const unsigned char *next = CMSG_DATA(head);
    for (int each = 0; each < DESCRIPTORS; each++)
        if (wanted[each]) {
            memcpy(&namespaces[each], next, sizeof(int));
            next += sizeof(int);
        }
}

static void receive_plan(void)
{
    char control[CMSG_SPACE(sizeof(int[DESCRIPTORS]))];
    struct iovec whole = {&plan, sizeof plan};
    struct msghdr message = {.msg_iov = &whole, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(CONTROL, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL);
    errno = EBADMSG;
    if (got != sizeof plan || plan.protocol != PLAN_PROTOCOL || plan.strings_bytes > MAX_PLAN_BYTES || plan.groups > MAX_GROUPS ||
        plan.cgroups > MAX_HIERARCHIES || plan.settings > MAX_STRINGS || plan.masked > MAX_STRINGS || plan.read_only > MAX_STRINGS)
        fail("read", "the plan");
    take_descriptors(&message);
    groups = allocate(plan.groups + 1, sizeof *groups);
    receive(groups, plan.groups * sizeof *groups);
    char *at = allocate((size_t)plan.strings_bytes + 1, 1), *end = at + plan.strings_bytes;
    receive(at, plan.strings_bytes);
    char **one = cut(&at, end, 8);
    stage = one[0], image = one[1], hostname = one[2], cwd = one[3], hosts = one[4];
    resolv_conf = one[5], sys = one[6], secrets = one[7];
    cgroups = cut(&at, end, plan.cgroups);
    settings = cut(&at, end, 2 * plan.settings);
    masked = cut(&at, end, plan.masked);
    read_only = cut(&at, end, plan.read_only);
    if (at != end)
        refuse(EBADMSG);
}

/* --- as root of the machine ---------------------------------------------------------------------------------------- */

/*
 * What the worker inherited and did not close is ours too. A directory of the machine among it would be a way out: an
 * image's working directory may be /proc/self/fd/7, or a link to it.
 */
static void close_what_is_inherited(void)
{
    if (syscall(SYS_close_range, CONTROL + 1, ~0U, 0))
        fail("close", "what is inherited");
}

static void die_with_the_worker(void)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL))
        fail("tie to", "the worker");
    if (getppid() != (pid_t)plan.parent) /* it died before we asked */
        _exit(FAILED);
}

static void write_to(const char *path, const char *value)
{
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, value, strlen(value)) != (ssize_t)strlen(value))
        fail("write", path);
    close(file);
}

/*
 * Process 1 enters them itself, or is born inside. Before the kernel moves a process from one cgroup to another it waits for
 * a grace period of RCU, 5 to 30 ms, if nobody has moved one in the last 10. Not for a thread that moves itself by `tasks`
 * (version 1), nor for a process that is cloned into a cgroup (version 2).
 */
static void make_cgroups(void)
{
    char path[MAX_PATH];
    int is_unified = plan.has & IS_UNIFIED, next = 0;
    for (char **each = cgroups; *each; each++)
        if (mkdir(*each, 0755))
            fail("make", *each);
    for (char **each = settings; *each; each += 2)
        write_to(each[0], each[1]);
    for (char **each = cgroups; *each; each++) {
        errno = ENAMETOOLONG;
        int length = snprintf(path, sizeof path, "%s%s", *each, is_unified ? "" : "/tasks");
        int entrance = length >= (int)sizeof path ? -1 : open(path, (is_unified ? O_PATH : O_WRONLY) | O_CLOEXEC);
        if (entrance < 0)
            fail("open", *each);
        entrances[next++] = entrance;
    }
}

/* When the machine has no memory left, functions go first. */
static void volunteer(void)
{
    char score[16];
    snprintf(score, sizeof score, "%u", plan.oom_score);
    write_to("/proc/self/oom_score_adj", score);
}

/*
 * As Docker does, so that a function can open /dev/stdout anew. Only pipes: they are the container's own, while a file or
 * a device could be the machine's.
 */
static void give_away_stdio(void)
{
    struct stat status;
    for (int each = 0; each < 3; each++)
        if (fstat(each, &status) || !S_ISFIFO(status.st_mode) || fchown(each, plan.host_uid, plan.host_gid))
            fail("give away", "standard input and output");
}

/* A detached copy of what is mounted at `path`, to be put somewhere in the container. */
static int tree_of(const char *path)
{
    int tree = syscall(SYS_open_tree, AT_FDCWD, path, TREE_CLONE | O_CLOEXEC | AT_SYMLINK_NOFOLLOW);
    if (tree < 0)
        fail("take", path);
    return tree;
}

static void mount_lower(void)
{
    struct attributes shifted = {.set = SHIFT_USERS, .users = namespaces[SHIFT]};
    int tree = tree_of(image);
    if ((plan.has & HAS_SHIFT) && syscall(SYS_mount_setattr, tree, "", AT_DESCRIPTOR, &shifted, sizeof shifted))
        fail("shift", "the image");
    if (syscall(SYS_move_mount, tree, "", AT_FDCWD, "lower", FROM_DESCRIPTOR))
        fail("mount", "the image");
    close(tree);
}

/* Names relative to `stage`: they show in the container's /proc/mounts. */
static void mount_root(void)
{
    struct stat top;
    char room[128];
    if (unshare(CLONE_NEWNS))
        fail("make", "a mount namespace");
    snprintf(room, sizeof room, "mode=711,size=%llu,nr_inodes=%llu", (unsigned long long)plan.scratch_bytes,
             (unsigned long long)plan.scratch_inodes + OWN_INODES);
    if (mount("mayfly", stage, "tmpfs", MS_NOSUID | MS_NODEV, room) || chdir(stage))
        fail("mount", "the scratch layer");
    if (mkdir("lower", 0700) || mkdir("upper", 0700) || mkdir("work", 0700) || mkdir("root", 0711))
        fail("lay out", "the scratch layer");
    mount_lower();
    /* The top of an overlay looks like its upper directory. In this order: changing the mode of another's needs CAP_FOWNER. */
    if (stat("lower", &top) || chmod("upper", top.st_mode & 07777) || chown("upper", top.st_uid, top.st_gid))
        fail("lay out", "the root");
    if (mount("mayfly", "root", "overlay", MS_NOSUID | MS_NODEV, "lowerdir=lower,upperdir=upper,workdir=work"))
        fail("mount", "the root");
    trees.root = tree_of("root"); /* what comes along into the container's mount namespace is locked, and no root there */
}

static int device(const char *path)
{
    struct stat status;
    int tree = tree_of(path);
    errno = ENODEV;
    if (fstat(tree, &status) || !S_ISCHR(status.st_mode))
        fail("take", path);
    return tree;
}

static void take_trees(void)
{
    int file = open("hosts", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file < 0 || write(file, hosts, strlen(hosts)) != (ssize_t)strlen(hosts))
        fail("write", "/etc/hosts");
    close(file);
    trees.hosts = tree_of("hosts");
    trees.resolv_conf = *resolv_conf ? tree_of(resolv_conf) : -1;
    trees.sys = *sys ? tree_of(sys) : -1;
    trees.secrets = *secrets ? tree_of(secrets) : -1;
    for (int each = 0; each < DEVICES; each++)
        trees.devices[each] = device(devices[each]);
}

static void enter_namespaces(void)
{
    if ((plan.has & HAS_NETWORK) && setns(namespaces[NETWORK], CLONE_NEWNET))
        fail("enter", "the network namespace");
    if (setns(namespaces[USERS], CLONE_NEWUSER))
        fail("enter", "the user namespace");
}

/* It is root of the machine still, by number, without a privilege there: so the cgroup lets it in. */
static long clone_process_1(void)
{
    int is_born_inside = !!(plan.has & IS_UNIFIED);
    struct clone_args new = {
        .flags = CLONE_PARENT | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS |
                 (plan.has & HAS_NETWORK ? 0 : CLONE_NEWNET) | (is_born_inside ? CLONE_INTO_CGROUP : 0),
        .cgroup = is_born_inside ? entrances[0] : 0,
    };
    long process_1 = syscall(SYS_clone3, &new, sizeof new);
    if (process_1 < 0)
        fail("make", "the container's namespaces");
    return process_1;
}

/* --- as root of the container, in its namespaces ------------------------------------------------------------------- */

/* Before anything else that takes memory: it is the container's. */
static void enter_cgroups(void)
{
    for (uint32_t each = 0; each < plan.cgroups; each++) {
        if (!(plan.has & IS_UNIFIED) && write(entrances[each], "0", 1) != 1)
            fail("enter", cgroups[each]);
        close(entrances[each]); /* an image's working directory could be /proc/self/fd/7 */
    }
    if (unshare(CLONE_NEWCGROUP)) /* which begins where we are now */
        fail("make", "a cgroup namespace");
}

static void become_root_of_the_container(void)
{
    if (setgroups(0, NULL) || setresgid(0, 0, 0) || setresuid(0, 0, 0))
        fail("become", "root of the container");
}

/* A file system that shows this container's namespaces. The kernel gives one only where all of another is in sight. */
static int new_mount(const char *kind, uint32_t attributes)
{
    int context = syscall(SYS_fsopen, kind, CLOSE_ON_EXEC);
    if (context < 0 || syscall(SYS_fsconfig, context, SET_STRING, "source", kind, 0) ||
        syscall(SYS_fsconfig, context, CREATE, NULL, NULL, 0))
        fail("make", kind);
    int tree = syscall(SYS_fsmount, context, CLOSE_ON_EXEC, attributes);
    if (tree < 0)
        fail("mount", kind);
    close(context);
    return tree;
}

static void leave_the_old_root(void)
{
    trees.proc = new_mount("proc", ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
    if (trees.sys < 0)
        trees.sys = new_mount("sysfs", ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
    /* Relative to `stage`, the path of which root of the container need not be able to search. */
    if (syscall(SYS_move_mount, trees.root, "", AT_FDCWD, "root", FROM_DESCRIPTOR) || chdir("root"))
        fail("enter", "the root");
    /* The old root comes to be on top of the new one, so that `.` is first the one, then the other. */
    if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
        fail("leave", "the old root");
}

static void make_directory(const char *path, mode_t mode)
{
    if (mkdir(path, mode) && errno != EEXIST)
        fail("make", path);
}

static void make_directories(const char *path)
{
    char above[MAX_PATH];
    if (strlen(path) >= sizeof above) {
        errno = ENAMETOOLONG;
        fail("make", path);
    }
    strcpy(above, path);
    for (char *slash = above + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        make_directory(above, 0755);
    }
    make_directory(above, 0755);
}

static void protect(const char *path)
{
    if (mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
        fail("make read-only", path);
}

static void put(int tree, const char *at, int flags)
{
    if (syscall(SYS_move_mount, tree, "", AT_FDCWD, at, FROM_DESCRIPTOR | flags))
        fail("mount", at);
    close(tree);
}

/* Where a file is mounted, an image may have a link, nothing, or a link to nothing, which gives way. */
static void put_file(int tree, const char *at)
{
    struct stat status;
    if (stat(at, &status)) {
        make_directory("/etc", 0755);
        if ((unlink(at) && errno != ENOENT) || mknod(at, S_IFREG | 0644, 0))
            fail("make", at);
    }
    put(tree, at, FOLLOW_LINKS);
    protect(at);
}

static void put_directory(int tree, const char *at, int flags)
{
    make_directory(at, 0755);
    put(tree, at, flags);
}

static void make_dev(void)
{
    static const char *const links[][2] = {
        {"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
        {"/proc/self/fd/2", "/dev/stderr"}, {"/proc/kcore", "/dev/core"}, {"pts/ptmx", "/dev/ptmx"},
    };
    char room[128];
    make_directory("/dev", 0755);
    snprintf(room, sizeof room, "mode=755,size=%llu,nr_inodes=%llu", (unsigned long long)plan.dev_bytes,
             (unsigned long long)plan.dev_inodes);
    if (mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, room))
        fail("mount", "/dev");
    for (int each = 0; each < DEVICES; each++) {
        if (mknod(devices[each], S_IFREG | 0666, 0))
            fail("make", devices[each]);
        put(trees.devices[each], devices[each], 0);
        if (mount(NULL, devices[each], NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NOEXEC, NULL))
            fail("mount", devices[each]);
    }
    for (size_t each = 0; each < sizeof links / sizeof *links; each++)
        if (symlink(links[each][0], links[each][1]))
            fail("make", links[each][1]);
    make_directory("/dev/pts", 0755);
    if (mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"))
        fail("mount", "/dev/pts");
    make_directory("/dev/shm", 01777);
    snprintf(room, sizeof room, "mode=1777,size=%llu,nr_inodes=%llu", (unsigned long long)plan.shm_bytes,
             (unsigned long long)plan.shm_inodes);
    if (mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, room))
        fail("mount", "/dev/shm");
}

/* What is not there on this machine needs no mask. */
static void mask(void)
{
    struct stat status;
    for (char **each = masked; *each; each++) {
        if (stat(*each, &status)) {
            if (errno != ENOENT)
                fail("look at", *each);
            continue;
        }
        if (S_ISDIR(status.st_mode) ? mount("tmpfs", *each, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,nr_inodes=1")
                                    : mount("/dev/null", *each, NULL, MS_BIND, NULL))
            fail("mask", *each);
        if (!S_ISDIR(status.st_mode) && mount(NULL, *each, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL))
            fail("mask", *each);
    }
    for (char **each = read_only; *each; each++)
        if (mount(*each, *each, NULL, MS_BIND | MS_REC, NULL)) {
            if (errno != ENOENT)
                fail("protect", *each);
        } else
            protect(*each);
}

static void furnish(void)
{
    put_directory(trees.proc, "/proc", 0);
    put_directory(trees.sys, "/sys", 0);
    if (*sys)
        protect("/sys");
    make_dev();
    mask();
    put_file(trees.hosts, "/etc/hosts");
    if (*resolv_conf)
        put_file(trees.resolv_conf, "/etc/resolv.conf");
    if (*secrets) {
        make_directory("/run", 0755);
        put_directory(trees.secrets, "/run/secrets", FOLLOW_LINKS);
        protect("/run/secrets");
    }
}

static void raise_loopback(void)
{
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (any < 0 || ioctl(any, SIOCSIFFLAGS, &loopback))
        fail("raise", "the loopback");
    close(any);
}

static void limit(int resource, rlim_t soft, rlim_t hard, const char *name)
{
    if (setrlimit(resource, &(struct rlimit){soft, hard}))
        fail("limit", name);
}

/* An image need not have its directory. As root, which the image's user need not be, for whom it may be closed. */
static void enter_directory(void)
{
    if (chdir(cwd) && errno == ENOENT)
        make_directories(cwd);
    if (chdir(cwd))
        fail("enter", cwd);
}

static void give_up_privileges(void)
{
    struct __user_cap_header_struct version = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    for (int each = 0; each < MAX_CAPABILITIES; each++)
        if (prctl(PR_CAPBSET_DROP, each) && errno != EINVAL) /* EINVAL: the kernel does not know that many */
            fail("drop", "a capability");
    if (setgroups(plan.groups, groups) || setresgid(plan.gid, plan.gid, plan.gid) || setresuid(plan.uid, plan.uid, plan.uid))
        fail("become", "the image's user");
    if (syscall(SYS_capset, &version, none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        fail("give up", "capabilities");
}

static void be_process_1(void)
{
    static char *nothing[] = {NULL}; /* the frame brings the whole environment */
    prctl(PR_SET_NAME, "mayfly-init");
    enter_cgroups();
    become_root_of_the_container();
    leave_the_old_root();
    furnish();
    if (!(plan.has & HAS_NETWORK))
        raise_loopback();
    if (sethostname(hostname, strlen(hostname)))
        fail("set", "the host name");
    limit(RLIMIT_CORE, 0, 0, "core dumps");
    limit(RLIMIT_NOFILE, plan.nofile_soft, plan.nofile_hard, "open files");
    umask(022);
    enter_directory();
    give_up_privileges();
    if (syscall(SYS_close_range, CONTROL + 1, ~0U, 0))
        fail("close", "what is ours");
    hold(nothing);
}

int main(void)
{
    close_what_is_inherited();
    receive_plan();
    die_with_the_worker();
    make_cgroups();
    volunteer();
    give_away_stdio();
    umask(0);
    mount_root();
    take_trees();
    enter_namespaces();
    if (!clone_process_1())
        be_process_1();
    return 0;
}
