/* Keeps sixteen processors busy. */
#include <unistd.h>

int main(void)
{
    for (int others = 0; others < 15; others++)
        if (!fork())
            break;
    for (;;)
        ;
}
