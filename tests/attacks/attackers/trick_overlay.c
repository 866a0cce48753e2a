/*
 * Tricks with the layers that a function's root is made of; prints one line each: name, then "ok" or why not. A whiteout
 * and the overlay's own attributes would change what the image shows, a hard link into /proc would outlive it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define TRY(name, call) (errno = 0, printf("%s %s\n", name, (call) < 0 ? strerror(errno) : "ok"))

int main(void)
{
    mkdir("/tmp/d", 0755);
    TRY("device", mknod("/tmp/zero", S_IFCHR | 0666, makedev(1, 5)));
    TRY("block-device", mknod("/tmp/disk", S_IFBLK | 0666, makedev(8, 0)));
    TRY("redirect", setxattr("/tmp/d", "trusted.overlay.redirect", "/etc", 4, 0));
    TRY("opaque", setxattr("/tmp/d", "trusted.overlay.opaque", "y", 1, 0));
    TRY("capability", setxattr("/bin/busybox", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
    TRY("link-into-proc", link("/proc/self/status", "/tmp/status"));
    TRY("link-of-a-device", link("/dev/null", "/tmp/null"));
    TRY("move-a-device", rename("/dev/null", "/tmp/null"));
    TRY("remove-hosts", unlink("/etc/hosts"));
    TRY("up-and-out", open("/../../../../proc/../../containers", O_RDONLY));
    return 0;
}
