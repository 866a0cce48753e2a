/*
 * What the held init and the confined launcher have in common: the frame that says what to run, and running it.
 *
 * The frame: a header of five numbers, then `strings_bytes` bytes of strings each ended by NUL (argc arguments, then
 * envc additions to the environment as NAME=VALUE), then `filter_bytes` bytes of compiled seccomp program. It comes
 * from the worker by the control socket; lengths are checked all the same.
 *
 * Who includes this says how a frame is refused.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CONTROL = 3, PROTOCOL = 1 };
enum { NOT_FOUND = 127, NOT_EXECUTABLE = 126, REFUSED = 125 };
enum { MAX_STRINGS_BYTES = 4 << 20, MAX_STRINGS = 65536, MAX_FILTER_BYTES = 4096 * sizeof(struct sock_filter) };

struct header { uint32_t protocol, argc, envc, strings_bytes, filter_bytes; };
struct frame { char **argv, **env; struct sock_fprog filter; };

struct report { uint32_t kind, value; };
enum { REPORT_EXITED = 1, REPORT_SIGNALLED = 2, REPORT_REFUSED = 3, REPORT_KILLED = 4 };
/* value: exit code, signal, errno, nothing (killed because the worker said so) */

static void refuse(int why);

static void receive(void *to, size_t bytes)
{
    for (char *at = to; bytes;) {
        ssize_t got = read(CONTROL, at, bytes);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) /* the worker does not want us any more */
            _exit(REFUSED);
        at += got;
        bytes -= got;
    }
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory)
        refuse(ENOMEM);
    return memory;
}

/* Cut `count` strings off the front of `*at`, none of them beyond `end`. */
static char **cut(char **at, const char *end, uint32_t count)
{
    char **list = allocate((size_t)count + 1, sizeof *list);
    for (uint32_t i = 0; i < count; i++) {
        char *nul = *at < end ? memchr(*at, 0, end - *at) : NULL;
        if (!nul)
            refuse(EBADMSG);
        list[i] = *at;
        *at = nul + 1;
    }
    return list;
}

static struct frame receive_frame(void)
{
    struct header head;
    receive(&head, sizeof head);
    if (head.protocol != PROTOCOL)
        refuse(EPROTONOSUPPORT);
    if (!head.argc || head.argc > MAX_STRINGS || head.envc > MAX_STRINGS || head.strings_bytes > MAX_STRINGS_BYTES ||
        !head.filter_bytes || head.filter_bytes > MAX_FILTER_BYTES || head.filter_bytes % sizeof(struct sock_filter))
        refuse(EBADMSG);
    char *at = allocate((size_t)head.strings_bytes + 1, 1), *end = at + head.strings_bytes;
    struct frame frame = {.filter.len = head.filter_bytes / sizeof(struct sock_filter),
                          .filter.filter = allocate(head.filter_bytes, 1)};
    receive(at, head.strings_bytes);
    receive(frame.filter.filter, head.filter_bytes);
    frame.argv = cut(&at, end, head.argc);
    frame.env = cut(&at, end, head.envc);
    if (at != end)
        refuse(EBADMSG);
    return frame;
}

static int same_name(const char *a, const char *b)
{
    size_t length = strcspn(a, "=");
    return !strncmp(a, b, length) && b[length] == '=';
}

static int is_replaced(const char *variable, char **by)
{
    while (*by && !same_name(variable, *by))
        by++;
    return *by != NULL;
}

/* The image's environment with the frame's additions; the last one of a name wins. */
static char **merged(char **image, char **added)
{
    size_t count = 0, next = 0;
    for (char **each = image; *each; each++)
        count++;
    for (char **each = added; *each; each++)
        count++;
    char **all = allocate(count + 1, sizeof *all);
    for (char **each = image; *each; each++)
        if (!is_replaced(*each, added))
            all[next++] = *each;
    for (char **each = added; *each; each++)
        if (!is_replaced(*each, each + 1))
            all[next++] = *each;
    return all;
}

static const char *value_of(const char *name, char **env)
{
    size_t length = strlen(name);
    for (; *env; env++)
        if (!strncmp(*env, name, length) && (*env)[length] == '=')
            return *env + length + 1;
    return NULL;
}

/* Search as execvp does, but in the function's own PATH, and never fall back to a shell. Returns only on failure. */
static int execute(char **argv, char **env)
{
    const char *path = strchr(argv[0], '/') ? NULL : value_of("PATH", env);
    int refused = 0;
    if (!*argv[0])
        return ENOENT;
    if (!path) {
        execve(argv[0], argv, env);
        return errno;
    }
    for (const char *dir = path; dir; dir = strchr(dir, ':') ? strchr(dir, ':') + 1 : NULL) {
        char file[4096];
        int length = strcspn(dir, ":");
        if (snprintf(file, sizeof file, "%.*s/%s", length ? length : 1, length ? dir : ".", argv[0]) >= (int)sizeof file)
            continue;
        execve(file, argv, env);
        if (errno == EACCES)
            refused = EACCES; /* as execvp: another directory may have one that can be run */
        else if (errno != ENOENT && errno != ENOTDIR)
            return errno;
    }
    return refused ? refused : ENOENT;
}

/* Execute, or say why not as a shell would. Never returns. */
static void become(char **argv, char **env)
{
    int why = execute(argv, env);
    dprintf(2, "mayfly: cannot run '%s': %s\n", argv[0], strerror(why));
    _exit(why == ENOENT || why == ENOTDIR ? NOT_FOUND : NOT_EXECUTABLE);
}
