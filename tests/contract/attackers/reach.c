/* Tries to reach somebody, says what came of it, and after how many milliseconds: reach tcp|udp|icmp ADDRESS PORT
 * One attempt a line of stdin, in the same words and the milliseconds to wait, if there are no arguments.
 * reach hold COUNT ADDRESS PORT opens so many TCP connections at once, and says how many it has. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 20000

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static const char *attempt(const char *kind, const char *address, int port, int patience_ms) {
    struct sockaddr_storage to = {0};
    socklen_t size;
    if (strchr(address, ':')) {
        struct sockaddr_in6 *six = (void *)&to;
        char *scope = strchr(address, '%');
        char bare[64];
        snprintf(bare, sizeof bare, "%.*s", (int)(scope ? scope - address : 63), address);
        six->sin6_family = AF_INET6;
        six->sin6_port = htons(port);
        six->sin6_scope_id = scope ? 2 : 0;
        inet_pton(AF_INET6, bare, &six->sin6_addr);
        size = sizeof *six;
    } else {
        struct sockaddr_in *four = (void *)&to;
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        inet_pton(AF_INET, address, &four->sin_addr);
        size = sizeof *four;
    }
    int udp = !strcmp(kind, "udp");
    int s = socket(to.ss_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s < 0)
        return strerrorname_np(errno);
    const char *end = "silence";
    if (connect(s, (void *)&to, size) && errno != EINPROGRESS) {
        end = strerrorname_np(errno);
    } else {
        struct pollfd p = {s, udp ? POLLIN : POLLOUT, 0};
        if (udp && send(s, "hello", 5, 0) < 0) {
            end = strerrorname_np(errno);
        } else if (poll(&p, 1, patience_ms) > 0) {
            int error = 0;
            socklen_t n = sizeof error;
            getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &n);
            end = error ? strerrorname_np(error) : "reached";
        }
    }
    close(s);
    return end;
}

static int hold(int count, const char *address, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int open = 0;
    inet_pton(AF_INET, address, &to.sin_addr);
    for (int i = 0; i < count; i++) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        if (s < 0)
            break;
        if (!connect(s, (void *)&to, sizeof to))
            open++; /* and stays so */
    }
    return open;
}

int main(int argc, char **argv) {
    char kind[16], address[64];
    int port, patience_ms;
    if (argc == 4) {
        puts(attempt(argv[1], argv[2], atoi(argv[3]), PATIENCE_MS));
        return 0;
    }
    if (argc == 5) {
        printf("%d\n", hold(atoi(argv[2]), argv[3], atoi(argv[4])));
        fflush(stdout);
        while (getchar() != EOF)
            ;
        pause();
    }
    while (scanf("%15s %63s %d %d", kind, address, &port, &patience_ms) == 4) {
        double began = now_ms();
        const char *end = attempt(kind, address, port, patience_ms);
        printf("%s %s %d %s %.1f\n", kind, address, port, end, now_ms() - began);
    }
    return 0;
}
