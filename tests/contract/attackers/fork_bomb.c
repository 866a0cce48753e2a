/* Forks without end, in every process that it makes but the first, which waits. Says "full" when no more can be made. */
#include <errno.h>
#include <unistd.h>

int main(void)
{
    if (fork())
        for (;;)
            pause();
    for (int said = 0;;)
        if (fork() < 0 && errno == EAGAIN && !said)
            said = write(1, "full\n", 5);
}
