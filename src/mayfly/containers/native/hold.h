/*
 * Process 1 of a container, once the container is there: it says so on the control socket, waits for the one frame that
 * says what to run, runs that as its child, and stays: the kernel kills whatever is left in the container when process 1
 * ends, so nothing a function forks outlives its call. A function cannot signal process 1, nor read its memory or its
 * descriptors, as it is not dumpable. Until the frame arrives nothing of the image has run.
 *
 * Who includes this says how an ending is reported.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "call.h"

enum { SIGNALS_PENDING = 1024 };

static void report(uint32_t kind, uint32_t value);

static void refuse(int why)
{
    report(REPORT_REFUSED, why);
    _exit(REFUSED);
}

/* If nobody listens any more, the worker is gone, and we go too. */
static void send_report(uint32_t kind, uint32_t value)
{
    struct report message = {kind, value};
    if (send(CONTROL, &message, sizeof message, MSG_NOSIGNAL) != sizeof message)
        _exit(REFUSED);
}

/*
 * The kernel counts queued signals in each user namespace, and again for who made it, which may be root for all.
 * There the limit is that of the moment of making, so a runtime that lowers it first would lower it for all together.
 */
static void limit_signals(void)
{
    struct rlimit limit = {SIGNALS_PENDING, SIGNALS_PENDING};
    if (setrlimit(RLIMIT_SIGPENDING, &limit) && errno != EPERM) /* it was lower already */
        _exit(REFUSED);
}

static void become_the_function(struct frame *frame, char **env)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &frame->filter)) {
        dprintf(2, "mayfly: cannot confine the function: %s\n", strerror(errno));
        _exit(REFUSED);
    }
    become(frame->argv, env);
}

static void reap_until_end_of(pid_t function)
{
    int status;
    for (;;) {
        pid_t ended = wait(&status);
        if (ended < 0 && errno == ECHILD)
            _exit(REFUSED);
        if (ended != function)
            continue;
        if (WIFEXITED(status))
            report(REPORT_EXITED, WEXITSTATUS(status));
        else
            report(REPORT_SIGNALLED, WTERMSIG(status));
        _exit(0);
    }
}

/* Be process 1 until the end. `env` is what the function's environment begins with. */
static void hold(char **env)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || prctl(PR_SET_DUMPABLE, 0) || fcntl(CONTROL, F_SETFD, FD_CLOEXEC))
        _exit(REFUSED);
    limit_signals();
    if (send(CONTROL, "R", 1, MSG_NOSIGNAL) != 1)
        _exit(REFUSED);
    struct frame frame = receive_frame();
    char **all = merged(env, frame.env);
    pid_t function = fork();
    if (function < 0)
        refuse(errno);
    if (!function)
        become_the_function(&frame, all);
    /* The function's pipes are its own: its readers see the end of file when it closes them, not when we end. */
    close(0), close(1), close(2);
    reap_until_end_of(function);
}
