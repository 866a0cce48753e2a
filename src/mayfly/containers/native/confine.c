/*
 * mayfly-confine: holds one call where nothing can be mounted and no namespace made, with what Docker gives by default.
 *
 *   mayfly-confine hold UID KILLER ROOT WORK CWD MEMORY_BYTES FILE_BYTES PIDS OPEN_FILES SIGNALS
 *   mayfly-confine kill UID KILLER
 *
 * `hold` makes sure that nobody lives as UID, moves into ROOT, says on the control socket (fd 3) that it is there, and
 * waits: for `uint32_t cpu_s` and the frame of call.h, or for the end of file. The function is its child, as UID; it
 * stays outside, as root, where no function can signal it or read its memory. When the function ends, or the worker's
 * end of the socket is closed (by its death, too), everything that lives as UID is killed, wherever it has forked to;
 * when all are dead it says how it ended. So it has no death signal of its own: it has to outlive the worker to kill.
 *
 * UID and KILLER are nobody else's. To kill, the process takes UID as its effective user, so that it reaches all of
 * those and nobody else, and KILLER as its real and saved one, by which nobody reaches it.
 *
 * `kill` is for a launcher that was killed itself: kill all of UID, and see that nobody is left.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "call.h"

enum { TAKEN = 124 };
enum { NICE = 10, OOM_SCORE_ADJ = 1000, MAX_CAPABILITIES = 64 };
enum { SETTLE_MS = 200, DEATH_MS = 5000 };

struct ending { struct report report; uint64_t cpu_us, memory_peak_bytes; };

/* Landlock, as of its version 6; the headers of many systems are older. */
enum { CREATE_RULESET = 444, ADD_RULE = 445, RESTRICT_SELF = 446, PATH_BENEATH = 1 };
enum {
    EXECUTE = 1, WRITE_FILE = 1 << 1, READ_FILE = 1 << 2, READ_DIR = 1 << 3, MAKE_CHAR = 1 << 6, MAKE_BLOCK = 1 << 11,
    TRUNCATE = 1 << 14, ALL_OF_FILES = (1 << 16) - 1, ALL_OF_TCP = 3, ABSTRACT_SOCKETS_AND_SIGNALS = 3,
};
struct ruleset { uint64_t files, tcp, scoped; };
struct path_rule { uint64_t allowed; int32_t descriptor; } __attribute__((packed));

static struct { uid_t uid, killer; const char *root, *work, *cwd; rlim_t memory, file, pids, open_files, signals; } held;
static int rules, proc;
static struct rusage before;

static void fail(const char *what, const char *which)
{
    dprintf(2, "cannot %s %s: %s\n", what, which, strerror(errno));
    _exit(REFUSED);
}

/* If nobody listens any more, the worker is gone, and we go too. */
static void report(uint32_t kind, uint32_t value)
{
    struct rusage now;
    getrusage(RUSAGE_CHILDREN, &now);
    int64_t us = (now.ru_utime.tv_sec - before.ru_utime.tv_sec + now.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000LL +
                 now.ru_utime.tv_usec - before.ru_utime.tv_usec + now.ru_stime.tv_usec - before.ru_stime.tv_usec;
    struct ending ending = {{kind, value}, us, now.ru_maxrss * 1024ULL};
    if (send(CONTROL, &ending, sizeof ending, MSG_NOSIGNAL) != sizeof ending)
        _exit(REFUSED);
}

static void refuse(int why)
{
    report(REPORT_REFUSED, why);
    _exit(REFUSED);
}

static void limit(int resource, rlim_t value)
{
    struct rlimit old, new = {value, value};
    if (getrlimit(resource, &old))
        fail("read the limit", "of a resource");
    if (new.rlim_max > old.rlim_max) /* it was lower already, and raising it would need a privilege */
        new.rlim_cur = new.rlim_max = old.rlim_max;
    if (setrlimit(resource, &new))
        fail("limit", "a resource");
}

/* --- who lives as a user ------------------------------------------------------------------------------------------- */

/*
 * Whether nobody lives as `uid`, within some milliseconds: asked of the kernel's own count of that user's processes. With
 * room for two, a process of that user can fork only if it is the only one. (A dead one counts for a moment more.)
 */
static int is_unused(uid_t uid, int patience_ms)
{
    int status;
    pid_t only = fork();
    if (only < 0)
        fail("fork", "to count processes");
    if (!only) {
        limit(RLIMIT_NPROC, 2);
        if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
            fail("become", "the call's user");
        for (int left = patience_ms;; left--) {
            pid_t second = fork();
            if (!second)
                _exit(0);
            if (second > 0)
                _exit(waitpid(second, &status, 0) != second);
            if (left <= 0)
                _exit(1);
            usleep(1000);
        }
    }
    return waitpid(only, &status, 0) == only && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* One signal to all at once: a fork that is under way fails, so nobody escapes. There is no way back to root. */
static void kill_all_of(uid_t uid, uid_t killer)
{
    if (setresuid(killer, uid, killer))
        fail("become", "the killer");
    kill(-1, SIGKILL);
}

static void kill_and_see(uid_t uid, uid_t killer)
{
    int status;
    pid_t by = fork();
    if (by < 0)
        fail("fork", "to kill");
    if (!by) {
        kill_all_of(uid, killer);
        _exit(0);
    }
    if (waitpid(by, &status, 0) != by || status || !is_unused(uid, DEATH_MS)) {
        dprintf(2, "a process of user %u cannot be killed\n", uid);
        _exit(REFUSED);
    }
    _exit(0);
}

/* --- what a function can reach ------------------------------------------------------------------------------------- */

static void allow(const char *path, uint64_t rights)
{
    struct stat status;
    int there = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (there < 0 || fstat(there, &status))
        fail("look at", path);
    if (!S_ISDIR(status.st_mode))
        rights &= EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE;
    struct path_rule rule = {rights, there};
    if ((S_ISDIR(status.st_mode) || S_ISREG(status.st_mode) || S_ISCHR(status.st_mode)) &&
        syscall(ADD_RULE, rules, PATH_BENEATH, &rule, 0))
        fail("allow", path);
    close(there);
}

/*
 * The image to read and execute, but /dev, where other calls of the image have their files. So each of the rest by itself:
 * what is allowed of / would be of all below. It cannot be listed, then.
 */
static void allow_image(void)
{
    char path[300];
    DIR *root = opendir("/");
    if (!root)
        fail("list", held.root);
    for (struct dirent *entry; (entry = readdir(root));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && strcmp(entry->d_name, "dev")) {
            snprintf(path, sizeof path, "/%s", entry->d_name);
            allow(path, EXECUTE | READ_FILE | READ_DIR);
        }
    closedir(root);
}

static void make_rules(void)
{
    static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"};
    struct ruleset all = {ALL_OF_FILES, ALL_OF_TCP, ABSTRACT_SOCKETS_AND_SIGNALS};
    rules = syscall(CREATE_RULESET, &all, sizeof all, 0);
    if (rules < 0)
        fail("make", "Landlock's rules");
    allow_image();
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        allow(devices[i], READ_FILE | WRITE_FILE);
    allow(held.work, ALL_OF_FILES & ~(MAKE_CHAR | MAKE_BLOCK));
}

/* --- the function --------------------------------------------------------------------------------------------------- */

/* When the machine has no memory left, functions go first. */
static void volunteer(void)
{
    char score[16];
    int file = openat(proc, "self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    int length = snprintf(score, sizeof score, "%d", OOM_SCORE_ADJ);
    if (file < 0 || write(file, score, length) != length)
        fail("be the first to go", "without memory");
    close(file);
}

static void take_limits(uint32_t cpu_s)
{
    limit(RLIMIT_AS, held.memory);
    limit(RLIMIT_NPROC, held.pids);
    limit(RLIMIT_NOFILE, held.open_files);
    limit(RLIMIT_FSIZE, held.file);
    limit(RLIMIT_CPU, cpu_s);
    limit(RLIMIT_SIGPENDING, held.signals);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_MEMLOCK, 0);
    limit(RLIMIT_MSGQUEUE, 0);
}

static void give_up_privileges(void)
{
    struct __user_cap_header_struct version = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    for (int i = 0; i < MAX_CAPABILITIES; i++)
        if (prctl(PR_CAPBSET_DROP, i) && errno != EINVAL) /* EINVAL: the kernel does not know that many */
            fail("drop", "a capability");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(RESTRICT_SELF, rules, 0))
        fail("apply", "Landlock's rules");
    if (setgroups(0, NULL) || setresgid(held.uid, held.uid, held.uid) || setresuid(held.uid, held.uid, held.uid))
        fail("become", "the call's user");
    if (syscall(SYS_capset, &version, none))
        fail("give up", "capabilities");
}

static void die_with(pid_t launcher)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != launcher) /* a change of user clears it, so not before */
        _exit(REFUSED);
}

static void become_the_function(struct frame *frame, uint32_t cpu_s, pid_t launcher)
{
    setsid();
    umask(022);
    volunteer();
    if (setpriority(PRIO_PROCESS, 0, NICE))
        fail("stand back", "behind the worker");
    take_limits(cpu_s);
    give_up_privileges();
    die_with(launcher);
    if (chdir(held.cwd) && chdir(held.work))
        fail("enter", held.work);
    if (syscall(SYS_close_range, 3, ~0U, 0))
        fail("close", "what is ours");
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &frame->filter)) {
        dprintf(2, "mayfly: cannot confine the function: %s\n", strerror(errno));
        _exit(REFUSED);
    }
    become(frame->argv, frame->env);
}

/* --- the launcher --------------------------------------------------------------------------------------------------- */

/* Reap who has died (with `flags` 0: wait for all to die); whether the function was among them, and how it ended. */
static int reap(pid_t function, int *how, int flags)
{
    int status, is_over = 0;
    for (pid_t ended; (ended = waitpid(-1, &status, flags)) > 0;)
        if (ended == function) {
            *how = status;
            is_over = 1;
        }
    return is_over;
}

static void serve_until_end_of(pid_t function, int children)
{
    struct pollfd all[] = {{children, POLLIN, 0}, {CONTROL, POLLIN, 0}};
    int how = 0, is_over = 0;
    for (;;) {
        struct signalfd_siginfo ignored;
        if (poll(all, 2, -1) < 0)
            continue;
        if (all[0].revents && read(children, &ignored, sizeof ignored) > 0)
            is_over = reap(function, &how, WNOHANG);
        if (is_over || all[1].revents) /* the worker says nothing more: it closes its end */
            break;
    }
    if (!is_over)
        kill(function, SIGKILL); /* it may not have become UID yet, and the signal to all of UID would miss it */
    kill_all_of(held.uid, held.killer);
    reap(function, &how, 0); /* all who were of UID are our descendants: nobody is left when we have no child */
    if (!is_over)
        report(REPORT_KILLED, 0);
    else if (WIFEXITED(how))
        report(REPORT_EXITED, WEXITSTATUS(how));
    else
        report(REPORT_SIGNALLED, WTERMSIG(how));
    _exit(0);
}

static void settle_in(void)
{
    setsid(); /* a terminal's Ctrl-C is for the worker */
    if (prctl(PR_SET_DUMPABLE, 0) || prctl(PR_SET_CHILD_SUBREAPER, 1) || fcntl(CONTROL, F_SETFD, FD_CLOEXEC))
        fail("settle", "in");
    if (!is_unused(held.uid, SETTLE_MS)) {
        dprintf(2, "somebody lives as user %u\n", held.uid);
        _exit(TAKEN);
    }
    proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        fail("open", "/proc");
    if (chroot(held.root) || chdir("/"))
        fail("enter", held.root);
    /* An image need not have its directory, nor let everybody in: then it is the call's own. */
    if (chdir(held.cwd) && errno != ENOENT)
        fail("enter", held.cwd);
    make_rules();
}

static void hold(void)
{
    settle_in();
    if (send(CONTROL, "R", 1, MSG_NOSIGNAL) != 1)
        _exit(REFUSED);
    uint32_t cpu_s;
    receive(&cpu_s, sizeof cpu_s);
    struct frame frame = receive_frame();
    char *nothing[] = {NULL};
    frame.env = merged(nothing, frame.env); /* the last one of a name wins */
    sigset_t child, unblocked;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    int children = sigprocmask(SIG_BLOCK, &child, &unblocked) ? -1 : signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (children < 0)
        refuse(errno);
    getrusage(RUSAGE_CHILDREN, &before);
    pid_t launcher = getpid(), function = fork();
    if (function < 0)
        refuse(errno);
    if (!function) {
        sigprocmask(SIG_SETMASK, &unblocked, NULL);
        become_the_function(&frame, cpu_s, launcher);
    }
    /* The function's pipes are its own: its readers see the end of file when it closes them, not when we end. */
    close(0), close(1), close(2);
    serve_until_end_of(function, children);
}

static rlim_t number(const char *text)
{
    char *end;
    rlim_t value = strtoull(text, &end, 10);
    if (!*text || *end || !value) {
        errno = EINVAL;
        fail("understand", text);
    }
    return value;
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "kill"))
        kill_and_see(number(argv[2]), number(argv[3]));
    if (argc != 12 || strcmp(argv[1], "hold"))
        _exit(REFUSED);
    held.uid = number(argv[2]), held.killer = number(argv[3]);
    held.root = argv[4], held.work = argv[5], held.cwd = argv[6];
    held.memory = number(argv[7]), held.file = number(argv[8]), held.pids = number(argv[9]);
    held.open_files = number(argv[10]), held.signals = number(argv[11]);
    hold();
}
