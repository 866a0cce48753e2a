/* Makes the pipe of stderr, which the init shares, small, non-blocking and full, and ends: who writes next meets EAGAIN. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
    static char text[4096];
    memset(text, 'x', sizeof text);
    fcntl(2, F_SETPIPE_SZ, sizeof text);
    fcntl(2, F_SETFL, fcntl(2, F_GETFL) | O_NONBLOCK);
    for (int refused = 0; refused < 100;)
        if (write(2, text, sizeof text) < 0)
            refused++;
    return 7;
}
