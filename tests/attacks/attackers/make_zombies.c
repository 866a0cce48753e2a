/* Makes children that end and are never waited for, until there can be no more, and leaves behind others that sleep. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
    for (int orphans = 0; orphans < 4; orphans++)
        if (!fork()) {
            if (!fork()) {
                setsid();
                for (;;)
                    pause();
            }
            _exit(0);
        }
    for (;;) {
        pid_t child = fork();
        if (!child)
            _exit(0);
        if (child < 0)
            break;
    }
    puts(strerror(errno));
    return 0;
}
