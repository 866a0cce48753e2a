/* Does what a function can to outlive its call: clears the death signal, ignores the others, forks twice into new
   sessions, lets go of the pipes. The last child stays for ever. With an argument the first process ends at once. */
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

static void detach(void)
{
    prctl(PR_SET_PDEATHSIG, 0);
    setsid();
}

int main(int argc, char **argv)
{
    (void)argv;
    detach();
    for (int number = 1; number < 32; number++)
        signal(number, SIG_IGN);
    write(1, "ready\n", 6);
    if (!fork()) {
        detach();
        if (fork())
            _exit(0);
        detach();
        close(0), close(1), close(2);
        for (;;)
            pause();
    }
    if (argc > 1)
        return 0;
    for (;;)
        pause();
}
