/*
 * Forks without end, in every process that it makes but the first, which waits. Says "full" when no more can be made, and
 * then tries a thousand times a second: the kernel frees what a failed fork took only later, and counts it as ours.
 */
#include <errno.h>
#include <unistd.h>

int main(void)
{
    if (fork())
        for (;;)
            pause();
    for (int said = 0;;)
        if (fork() < 0 && errno == EAGAIN) {
            if (!said)
                said = write(1, "full\n", 5);
            usleep(1000);
        }
}
