/*
 * Looks for the marks of leave_marks, and for what is the machine's; prints one line each: name, then "found" or "none".
 * With an argument it waits until there is one, so that it can be seen to find marks left beside it.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define KEY 0x6d61796d
#define LOOK(name, is_there) printf("%s %s\n", name, (is_there) ? "found" : "none")

static int answers(struct sockaddr *address, socklen_t length, int family)
{
    return !connect(socket(family, SOCK_STREAM, 0), address, length);
}

static int holds(const char *file, const char *word)
{
    static char text[1 << 20];
    int fd = open(file, O_RDONLY);
    ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    text[got > 0 ? got : 0] = 0;
    return strstr(text, word) != NULL;
}

static int is_marked(void)
{
    DIR *all = opendir("/proc");
    for (struct dirent *each; all && (each = readdir(all));) {
        char file[300];
        snprintf(file, sizeof file, "/proc/%s/comm", each->d_name);
        if (isdigit(each->d_name[0]) && holds(file, "marked"))
            return 1;
    }
    return 0;
}

static int lists_others(const char *directory)
{
    DIR *all = opendir(directory);
    for (struct dirent *each; all && (each = readdir(all));)
        if (strstr(each->d_name, "mayfly"))
            return 1;
    return 0;
}

int main(int argc, char **argv)
{
    (void)argv;
    struct sockaddr_un named = {AF_UNIX, "/tmp/mark.socket"}, abstract = {AF_UNIX, "\0mark"};
    struct sockaddr_in port = {AF_INET, htons(7777), {htonl(INADDR_LOOPBACK)}};
    char line[4096];
    while (argc > 1 && !is_marked())
        usleep(1000);
    LOOK("file", !access("/tmp/mark", F_OK));
    LOOK("posix-memory", shm_open("/mark", O_RDWR, 0) >= 0);
    LOOK("sysv-memory", shmget(KEY, 0, 0) >= 0);
    LOOK("sysv-queue", msgget(KEY, 0) >= 0);
    LOOK("sysv-semaphore", semget(KEY, 0, 0) >= 0);
    LOOK("posix-queue", mq_open("/mark", O_RDWR) >= 0);
    LOOK("named-socket", answers((struct sockaddr *)&named, sizeof named, AF_UNIX));
    LOOK("abstract-socket", answers((struct sockaddr *)&abstract, offsetof(struct sockaddr_un, sun_path) + 5, AF_UNIX));
    LOOK("port", answers((struct sockaddr *)&port, sizeof port, AF_INET));
    LOOK("process", is_marked());
    LOOK("kernel-log", klogctl(3, line, sizeof line) > 0);
    LOOK("kmsg", open("/dev/kmsg", O_RDONLY) >= 0);
    LOOK("proc-kmsg", open("/proc/kmsg", O_RDONLY) >= 0);
    LOOK("cgroups", lists_others("/sys/fs/cgroup") || lists_others("/sys/fs/cgroup/memory") || holds("/proc/self/cgroup", "mayfly-"));
    LOOK("mounts", holds("/proc/self/mountinfo", "/containers") || holds("/proc/self/mountinfo", "/trees"));
    return 0;
}
