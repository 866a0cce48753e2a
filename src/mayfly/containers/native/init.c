/*
 * mayfly-init: the first process of every container, and its last.
 *
 * It says on the control socket (fd 3) that it is there, waits for the one frame that says what to run, runs that as
 * its child and stays process 1: the kernel kills whatever is left in the container when process 1 ends, so nothing a
 * function forks outlives its call. A function cannot signal process 1, nor read its memory or its descriptors (it is
 * not dumpable). Until the frame arrives nothing of the image has run.
 *
 * The frame is read in call.h. What we answer: one byte when ready, then one `struct report`. Nothing of ours ever goes
 * to stdout.
 *
 * With the argument `stdio` there is no control socket, only what a Docker daemon passes on: standard input carries a
 * `struct prelude`, the frame and the function's own input, and then one byte if the function is to be killed; its end
 * means that the worker is gone, and we go too; so does the time limit in the prelude, for a daemon that is gone as well
 * leaves standard input open. The ready byte goes to stdout before anything of the image has run. The
 * report goes to stderr when every other process is dead: behind a secret from the prelude, so that no function can
 * have written it, and with the figures of our cgroup, which nobody outside can read once a Docker container has ended.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hold.h"

/* What goes before the frame, and what the report is part of, where standard input and error are all there is. */
struct prelude { unsigned char secret[16]; uint32_t input_bytes, limit_ms; };
struct figures { uint64_t cpu_us, memory_peak_bytes, oom_kills; };
struct last_words { unsigned char secret[16]; struct report report; struct figures figures; };
enum { HELD_MS = 3600 * 1000 }; /* for a daemon that crashed: nobody else would end us */
enum { MAX_INPUT_BYTES = 2 << 20, NOFILE_SOFT = 1024, NOFILE_HARD = 65536 };
#define UNKNOWN UINT64_MAX

static struct prelude prelude;
static int is_stdio;

/* Files of our own cgroup, open since before the function: version 2, or 1 (where cpu time is in nanoseconds). */
static const char *const FIGURES[][3] = {
    {"/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory.events"},
    {"/sys/fs/cgroup/cpuacct/cpuacct.usage", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes",
     "/sys/fs/cgroup/memory/memory.oom_control"},
};
static int figure_files[3] = {-1, -1, -1}, cpu_unit_per_us;
static uint64_t cpu_us_before;

/* The number behind `name` in an open file, or its first word if it has no names; UNKNOWN if it is not there. */
static uint64_t figure(int file, const char *name)
{
    char text[4096];
    ssize_t got = file < 0 ? -1 : pread(file, text, sizeof text - 1, 0);
    if (got <= 0)
        return UNKNOWN;
    text[got] = 0;
    if (*text >= '0' && *text <= '9')
        return strtoull(text, NULL, 10);
    for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ' ')
            return strtoull(line + strlen(name), NULL, 10);
    return UNKNOWN;
}

static uint64_t cpu_us(void)
{
    uint64_t used = figure(figure_files[0], "usage_usec");
    return used == UNKNOWN ? UNKNOWN : used / cpu_unit_per_us;
}

static void open_figures(void)
{
    int version_1 = access(FIGURES[0][2], R_OK) != 0;
    cpu_unit_per_us = version_1 ? 1000 : 1;
    for (int i = 0; i < 3; i++)
        figure_files[i] = open(FIGURES[version_1][i], O_RDONLY | O_CLOEXEC);
}

/* Where the cgroup says nothing: the reaped processes' time, and the size of the largest of them. */
static struct figures figures_now(void)
{
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    struct figures now = {cpu_us(), figure(figure_files[1], ""), figure(figure_files[2], "oom_kill")};
    if (now.cpu_us == UNKNOWN)
        now.cpu_us = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000ULL + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
    else
        now.cpu_us -= cpu_us_before;
    if (now.memory_peak_bytes == UNKNOWN)
        now.memory_peak_bytes = used.ru_maxrss * 1024ULL;
    return now;
}

static void say_last_words(struct report report)
{
    struct last_words words = {.report = report, .figures = figures_now()};
    memcpy(words.secret, prelude.secret, sizeof words.secret);
    const char *at = (const char *)&words;
    for (size_t left = sizeof words; left;) {
        ssize_t written = write(2, at, left);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0 && errno == EAGAIN) { /* the function shares our pipe, and may have made it non-blocking */
            struct pollfd room = {2, POLLOUT, 0};
            poll(&room, 1, -1);
            continue;
        }
        if (written <= 0)
            _exit(REFUSED);
        at += written;
        left -= written;
    }
}

static void report(uint32_t kind, uint32_t value)
{
    if (is_stdio)
        say_last_words((struct report){kind, value});
    else
        send_report(kind, value);
}

/* --- standard input and output only ---------------------------------------------------------------------------------- */

/* Kill all others and reap them; the function's status, if it had not been reaped already. */
static int kill_all_but_us(pid_t function, int status)
{
    int each;
    kill(-1, SIGKILL); /* at once for all: a fork under way fails, so nobody escapes */
    for (pid_t ended; (ended = wait(&each)) > 0 || errno != ECHILD;)
        if (ended == function)
            status = each;
    return status;
}

static void end(int status, int is_killed)
{
    if (is_killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        report(REPORT_KILLED, 0);
    else if (WIFEXITED(status))
        report(REPORT_EXITED, WEXITSTATUS(status));
    else
        report(REPORT_SIGNALLED, WTERMSIG(status));
    _exit(0);
}

/* Has the function ended? Reaps whatever else has. */
static int has_ended(pid_t function, int *status)
{
    int each, found = 0;
    for (pid_t ended; (ended = waitpid(-1, &each, WNOHANG)) > 0;)
        if (ended == function)
            *status = each, found = 1;
    return found;
}

/* Write what the function's pipe takes; return what is left, none if it does not want to read it. */
static size_t feed(int pipe_end, const char **at, size_t left)
{
    ssize_t written = write(pipe_end, *at, left);
    if (written < 0)
        return errno == EAGAIN || errno == EINTR ? left : 0;
    *at += written;
    return left - written;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void serve_until_end_of(pid_t function, int pipe_end, const char *input, size_t left, int children)
{
    struct pollfd all[] = {{CONTROL, POLLIN, 0}, {children, POLLIN, 0}, {pipe_end, POLLOUT, 0}};
    int64_t end_at = now_ms() + prelude.limit_ms;
    int status = 0;
    for (;;) {
        if (!left && all[2].fd >= 0) {
            close(all[2].fd);
            all[2].fd = -1;
        }
        int64_t time_left = end_at - now_ms();
        if (time_left <= 0) { /* long past the worker's own limit: nobody watches any more */
            kill_all_but_us(function, status);
            _exit(REFUSED);
        }
        if (poll(all, 3, time_left > INT32_MAX ? INT32_MAX : (int)time_left) <= 0)
            continue;
        if (all[1].revents) {
            struct signalfd_siginfo ignored;
            if (read(children, &ignored, sizeof ignored) > 0 && has_ended(function, &status))
                end(kill_all_but_us(function, status), 0);
        }
        if (all[0].revents) { /* one byte: kill; the end of file: the worker is gone */
            char byte;
            ssize_t got = read(CONTROL, &byte, 1);
            status = kill_all_but_us(function, status);
            if (got == 1)
                end(status, 1);
            _exit(REFUSED);
        }
        if (all[2].fd >= 0 && all[2].revents)
            left = feed(pipe_end, &input, left);
    }
}

static void limit_open_files(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        _exit(REFUSED);
    if (limit.rlim_max > NOFILE_HARD)
        limit.rlim_max = NOFILE_HARD;
    limit.rlim_cur = limit.rlim_max < NOFILE_SOFT ? limit.rlim_max : NOFILE_SOFT;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        _exit(REFUSED);
}

static void run_by_stdio(char **env)
{
    is_stdio = 1;
    if (prctl(PR_SET_DUMPABLE, 0) || dup3(0, CONTROL, O_CLOEXEC) < 0)
        _exit(REFUSED);
    open_figures();
    limit_open_files();
    struct pollfd call = {CONTROL, POLLIN, 0};
    if (write(1, "R", 1) != 1 || poll(&call, 1, HELD_MS) <= 0)
        _exit(REFUSED);
    receive(&prelude, sizeof prelude);
    struct frame frame = receive_frame();
    if (prelude.input_bytes > MAX_INPUT_BYTES)
        refuse(EBADMSG);
    char *input = allocate((size_t)prelude.input_bytes + 1, 1);
    receive(input, prelude.input_bytes);
    /* The frame has the whole environment; only HOME is the runtime's, which looked it up in the image. */
    const char *home = value_of("HOME", env);
    char *base[] = {home ? (char *)home - strlen("HOME=") : NULL, NULL}, **all = merged(base, frame.env);
    int ends[2];
    sigset_t child, before;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    if (pipe2(ends, O_CLOEXEC) || sigprocmask(SIG_BLOCK, &child, &before))
        refuse(errno);
    int children = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (children < 0)
        refuse(errno);
    cpu_us_before = cpu_us();
    pid_t function = fork();
    if (function < 0)
        refuse(errno);
    if (!function) {
        dup2(ends[0], 0);
        sigprocmask(SIG_SETMASK, &before, NULL);
        become_the_function(&frame, all);
    }
    close(ends[0]), close(0), close(1);
    signal(SIGPIPE, SIG_IGN);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    serve_until_end_of(function, ends[1], input, prelude.input_bytes, children);
}

int main(int argc, char **argv, char **env)
{
    if (argc > 1 && !strcmp(argv[1], "stdio"))
        run_by_stdio(env);
    hold(env);
}
