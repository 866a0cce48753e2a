/* Opens files until it may not, having raised its limit as far as it goes; says how many there were, and why no more. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

int main(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int opened = 0;
    while (open("/dev/null", O_RDONLY) >= 0)
        opened++;
    printf("%s after %s\n", strerror(errno), opened > 100000 ? "too many" : opened < 500 ? "too few" : "its limit");
    return 0;
}
