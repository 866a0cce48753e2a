/*
 * Stands before mayfly-spawn, by MAYFLY_LAUNCHER_DIR: bind-mounts the test's socket into the container that is about
 * to be made, and then is the real one. Compiled with -DSOCKET=... and -DSPAWN=...
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char MOUNTS[] = "\"mounts\": [";
static const char WITNESS[] =
    "{\"destination\": \"/witness\", \"type\": \"bind\", \"source\": \"" SOCKET "\", \"options\": [\"bind\"]}, ";

static void fail(const char *what)
{
    dprintf(2, "spawn_with_witness: %s: %s\n", what, strerror(errno));
    _exit(124);
}

static void add_witness(const char *bundle)
{
    char path[4096], config[64 * 1024];
    snprintf(path, sizeof path, "%s/config.json", bundle);
    int file = open(path, O_RDWR | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, config, sizeof config - 1);
    if (length <= 0)
        fail(path);
    config[length] = 0;
    char *mounts = strstr(config, MOUNTS);
    if (!mounts) {
        errno = EBADMSG;
        fail(path);
    }
    mounts += strlen(MOUNTS);
    ssize_t rest = config + length - mounts;
    if (pwrite(file, WITNESS, strlen(WITNESS), mounts - config) < 0 ||
        pwrite(file, mounts, rest, mounts - config + strlen(WITNESS)) != rest)
        fail(path);
    close(file);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (!strncmp(argv[i], "--bundle=", strlen("--bundle=")))
            add_witness(argv[i] + strlen("--bundle="));
    execv(SPAWN, argv);
    fail(SPAWN);
}
