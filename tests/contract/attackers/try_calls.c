/* Tries system calls that a function has no business with; prints one line each: name, then "ok" or the errno. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TRY(name, call) (errno = 0, (call) < 0 ? printf("%s %d\n", name, errno) : printf("%s ok\n", name))

int main(void)
{
    TRY("getpid", syscall(SYS_getpid));
    TRY("socket-inet", socket(AF_INET, SOCK_STREAM, 0));
    TRY("socket-unix", socket(AF_UNIX, SOCK_STREAM, 0));
    TRY("socket-netlink", socket(AF_NETLINK, SOCK_RAW, 0));
    TRY("unshare-user", syscall(SYS_unshare, CLONE_NEWUSER));
    TRY("unshare-mount", syscall(SYS_unshare, CLONE_NEWNS));
    TRY("clone-user", syscall(SYS_clone, CLONE_NEWUSER, 0, 0, 0, 0));
    TRY("clone3", syscall(435, 0, 0));
    TRY("setns", syscall(SYS_setns, 0, 0));
    TRY("mount", mount("t", "/tmp", "tmpfs", 0, ""));
    TRY("umount", umount("/proc"));
    TRY("open_tree", syscall(428, -100, "/", 0));
    TRY("fsopen", syscall(430, "tmpfs", 0));
    TRY("pivot_root", syscall(SYS_pivot_root, "/", "/"));
    TRY("chroot", chroot("/"));
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
    TRY("request_key", syscall(SYS_request_key, "user", "x", 0, 0));
    TRY("bpf", syscall(SYS_bpf, 0, 0, 0));
    TRY("perf_event_open", syscall(SYS_perf_event_open, 0, 0, 0, 0, 0));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
    TRY("io_uring_setup", syscall(425, 0, 0));
    TRY("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
    TRY("process_vm_readv", syscall(SYS_process_vm_readv, getpid(), 0, 0, 0, 0, 0));
    TRY("open_by_handle_at", syscall(SYS_open_by_handle_at, 0, 0, 0));
    TRY("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    TRY("init_module", syscall(SYS_init_module, 0, 0, ""));
    TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
    TRY("sethostname", sethostname("x", 1));
    TRY("personality", personality(0x20000000));
    TRY("socket-vsock", socket(40, SOCK_STREAM, 0));
    TRY("socket-alg", socket(38, SOCK_SEQPACKET, 0));
    TRY("socket-packet", socket(17, SOCK_RAW, 0));
    TRY("socket-raw", socket(AF_INET, SOCK_RAW, 1));
    return 0;
}
