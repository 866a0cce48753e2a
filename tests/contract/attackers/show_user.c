/* show_user: prints its real and effective user. Busybox cannot: it gives up what a setuid file gave it. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    printf("%u %u\n", getuid(), geteuid());
    return 0;
}
