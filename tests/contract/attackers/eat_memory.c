/* Touches memory without end. With an argument, in a child, whose death it survives to say "survived". */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1 && fork()) {
        wait(NULL);
        write(1, "survived", 8);
        return 0;
    }
    for (;;)
        memset(malloc(1 << 20), 1, 1 << 20);
}
