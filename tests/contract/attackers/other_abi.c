/* Calls the kernel through its 32-bit door, whose numbers mean other calls. */
#include <unistd.h>

int main(void)
{
#ifdef __x86_64__
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20)); /* getpid there, writev here */
#endif
    write(1, "survived", 8);
    return 0;
}
