/*
 * Queues signals to itself, all of them blocked, until there is no more room. Says how many, and keeps them as long as
 * it is left alone, or, with an argument, ends.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    sigset_t all;
    union sigval nothing = {0};
    int queued = 0;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    while (!sigqueue(getpid(), SIGRTMIN, nothing))
        queued++;
    printf("%d\n", queued);
    fflush(stdout);
    while (argc < 2)
        pause();
}
