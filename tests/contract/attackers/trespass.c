/*
 * trespass serve NAME: as one call, listens on the abstract socket NAME, keeps a secret and a socket in its directory,
 * says "ready".
 * trespass WORKER LAUNCHER OTHER WORKERS_SOCKET OTHERS_SOCKET OTHERS_DIRECTORY: as another call, tries to get at the
 * worker, at a launcher, at that call, at what all calls share and at more for itself. Prints one line for each attempt:
 * its name, then "ok" or the errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#define TRY(name, call) (errno = 0, (long)(call) < 0 ? printf("%s %d\n", name, errno) : printf("%s ok\n", name))

/* A socket that listens on a name, or is connected to it: on an abstract one, or on a file by its path. */
static int unix_socket(const char *name, int listens)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int abstract = !strchr(name, '/');
    memcpy(address.sun_path + abstract, name, strlen(name));
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + abstract + strlen(name);
    return listens ? bind(s, (void *)&address, length) || listen(s, 8) : connect(s, (void *)&address, length);
}

static int serve(const char *name)
{
    if (unix_socket(name, 1) || chdir(getenv("HOME")))
        return 1;
    int file = open("secret", O_CREAT | O_WRONLY, 0666);
    umask(0); /* even one that lets everybody in */
    if (unix_socket("./socket", 1) || chmod(".", 0777) || write(file, "mine\n", 5) != 5)
        return 1;
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}

static const char *in(const char *directory, const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static void at_process(const char *who, pid_t pid)
{
    char name[64], path[64], byte;
    struct iovec here = {&byte, 1}, there = {&here, 1};
    struct rlimit none = {0, 0};
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
#define NAMED(what) (snprintf(name, sizeof name, "%s-%s", who, what), name)
    TRY(NAMED("signal"), kill(pid, SIGKILL));
    TRY(NAMED("trace"), ptrace(PTRACE_ATTACH, pid, 0, 0));
    TRY(NAMED("read"), process_vm_readv(pid, &here, 1, &there, 1, 0));
    TRY(NAMED("limit"), prlimit(pid, RLIMIT_CPU, &none, NULL));
    TRY(NAMED("affinity"), sched_setaffinity(pid, sizeof first, &first));
    TRY(NAMED("priority"), setpriority(PRIO_PROCESS, pid, 19));
    TRY(NAMED("descriptor"), syscall(438, syscall(434, pid, 0), 0, 0));
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    TRY(NAMED("environ"), open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    TRY(NAMED("memory"), open(path, O_RDWR));
    snprintf(path, sizeof path, "/proc/%d/root/etc/shadow", pid);
    TRY(NAMED("root"), open(path, O_RDONLY));
}

static void at_files(const char *other)
{
    TRY("other-read", open(in(other, "secret"), O_RDONLY));
    TRY("other-write", open(in(other, "x"), O_CREAT | O_WRONLY, 0600));
    TRY("other-list", open(other, O_RDONLY | O_DIRECTORY));
    TRY("other-link", link(in(other, "secret"), "stolen"));
    TRY("other-connect", unix_socket(in(other, "socket"), 0));
    TRY("other-look", access(in(other, "secret"), F_OK));
    TRY("other-rename", rename(in(other, "secret"), "stolen"));
    TRY("others-listed", open("/dev/mayfly", O_RDONLY | O_DIRECTORY));
    TRY("dev-listed", open("/dev", O_RDONLY | O_DIRECTORY));
    TRY("shadow", open("/etc/secret", O_RDONLY));
    TRY("above", open("/../../../../../../etc/shadow", O_RDONLY));
    TRY("proc", open("/proc/self/status", O_RDONLY));
    TRY("run", open("/run/mayfly", O_RDONLY));
    TRY("write-root", open("/x", O_CREAT | O_WRONLY, 0600));
    TRY("write-bin", open("/bin/busybox", O_WRONLY));
    TRY("write-tmp", open("/tmp/x", O_CREAT | O_WRONLY, 0600));
    TRY("write-shm", open("/dev/shm/x", O_CREAT | O_WRONLY, 0600));
    TRY("write-for-all", open("/opt/for-all", O_WRONLY));
    TRY("truncate-for-all", truncate("/opt/for-all", 0));
    TRY("mark-for-all", setxattr("/opt/for-all", "user.x", "y", 1, 0));
    TRY("remove-for-all", unlink("/opt/all/file"));
    TRY("chmod", chmod("/bin/busybox", 0777));
}

static void at_what_is_shared(const char *workers, const char *others)
{
    TRY("workers-socket", unix_socket(workers, 0));
    TRY("others-socket", unix_socket(others, 0));
    TRY("udp", socket(AF_INET, SOCK_DGRAM, 0));
    TRY("inet6", socket(AF_INET6, SOCK_STREAM, 0));
    TRY("shm", shmget(0x6d61, 4096, IPC_CREAT | 0666));
    TRY("sem", semget(0x6d61, 1, IPC_CREAT | 0666));
    TRY("msg", msgget(0x6d61, IPC_CREAT | 0666));
    TRY("mq", mq_open("/mayfly-test", O_CREAT | O_RDWR, 0666, NULL));
    TRY("fifo", mknod("fifo", S_IFIFO | 0600, 0));
    TRY("device", mknod("null", S_IFCHR | 0600, 0x103));
    TRY("memfd", memfd_create("x", 0));
}

static void at_more(void)
{
    struct rlimit more = {RLIM_INFINITY, RLIM_INFINITY};
    TRY("setuid-root", setuid(0));
    TRY("setuid-next", setuid(getuid() + 1));
    TRY("setgid-root", setgid(0));
    TRY("more-memory", setrlimit(RLIMIT_AS, &more));
    TRY("more-processes", setrlimit(RLIMIT_NPROC, &more));
    TRY("more-priority", setpriority(PRIO_PROCESS, 0, 0));
    TRY("map", (long)mmap(NULL, 1L << 32, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == -1 ? -1 : 0);
    TRY("lock", mlock(&more, sizeof more));
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return serve(argv[2]);
    if (argc != 7 || chdir(getenv("HOME")))
        return 2;
    at_process("worker", atoi(argv[1]));
    at_process("launcher", atoi(argv[2]));
    at_process("other", atoi(argv[3]));
    at_what_is_shared(argv[4], argv[5]);
    at_files(argv[6]);
    at_more();
    TRY("own", open("x", O_CREAT | O_RDWR, 0600));
    TRY("null", open("/dev/null", O_RDWR));
    TRY("random", open("/dev/urandom", O_RDONLY));
    TRY("unix", socket(AF_UNIX, SOCK_STREAM, 0));
    TRY("image", open("/etc/passwd", O_RDONLY));
    return 0;
}
