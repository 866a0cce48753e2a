/*
 * The witness: the function of the chaos suite. It leaves a mark outside its container for each of its runs.
 *
 * Its first act is to connect to the socket of the test and say which run this is and since when; the last one, to say
 * until when. If it is killed in between, the kernel closes the connection, so the test sees that end as well.
 *
 *   witness [SOCKET]       with the parameter `TOKEN EXIT_CODE MILLISECONDS BYTES` on standard input
 *
 * Standard output: the token and a newline, again and again, BYTES in all.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { UNWITNESSED = 99 };

static int witness;

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fail(const char *what)
{
    dprintf(2, "witness: %s: %s\n", what, strerror(errno));
    _exit(UNWITNESSED);
}

static void say(const char *what, const char *activation, const char *token)
{
    if (dprintf(witness, "%s %s %s %lld\n", what, activation, token, now_ns()) < 0)
        fail("cannot bear witness");
}

static void write_all(const char *text, size_t bytes)
{
    while (bytes) {
        ssize_t written = write(1, text, bytes);
        if (written < 0 && errno != EINTR)
            fail("stdout");
        if (written > 0)
            text += written, bytes -= written;
    }
}

int main(int argc, char **argv)
{
    const char *activation = getenv("MAYFLY_ACTIVATION_ID");
    char parameter[256], token[64];
    int code, milliseconds, length = 0;
    long bytes;
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    while (length < (int)sizeof parameter - 1) {
        ssize_t got = read(0, parameter + length, sizeof parameter - 1 - length);
        if (got < 0)
            fail("stdin");
        if (!got)
            break;
        length += got;
    }
    parameter[length] = 0;
    if (!activation || sscanf(parameter, "%63s %d %d %ld", token, &code, &milliseconds, &bytes) != 4) {
        errno = EINVAL;
        fail("parameter");
    }
    strncpy(address.sun_path, argc > 1 ? argv[1] : "/witness", sizeof address.sun_path - 1);
    witness = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (witness < 0 || connect(witness, (struct sockaddr *)&address, sizeof address))
        fail("cannot reach the test");
    say("begin", activation, token);

    struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    while (nanosleep(&pause, &pause) && errno == EINTR)
        ;
    char line[65];
    size_t width = snprintf(line, sizeof line, "%s\n", token), unit = width * 256;
    char *block = malloc(unit);
    if (!block)
        fail("memory");
    for (size_t at = 0; at < unit; at += width)
        memcpy(block + at, line, width);
    for (; bytes > 0; bytes -= unit)
        write_all(block, bytes < (long)unit ? (size_t)bytes : unit);
    say("end", activation, token);
    return code;
}
