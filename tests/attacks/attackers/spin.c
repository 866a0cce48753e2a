/* Keeps sixteen processors busy, and says so on stderr. */
#include <unistd.h>

int main(void)
{
    for (int others = 0; others < 15; others++)
        if (!fork())
            break;
    write(2, "spinning\n", 9);
    for (;;)
        ;
}
