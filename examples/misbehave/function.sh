# Tries what it must not be able to do, and reports what became of it, a line each.
attempt() { # attempt WORDS COMMAND...
    words=$1
    shift
    if "$@" >/dev/null 2>&1; then echo "$words: DONE"; else echo "$words: refused"; fi
}

attempt "mount a file system" mount -t tmpfs none /mnt
attempt "make a user namespace" unshare -U true
attempt "change the hostname" hostname mine
attempt "write to /proc/sys" sh -c 'echo 1 >/proc/sys/kernel/panic'
attempt "write to /sys" sh -c 'echo 1 >/sys/kernel/mm/transparent_hugepage/enabled'
attempt "make a device" mknod /tmp/disk b 254 0
attempt "read the kernel's log" dmesg
attempt "kill process 1" sh -c 'kill -9 1; sleep 0.1; [ ! -d /proc/1 ]'
attempt "reach the network" nc -w 1 203.0.113.1 80
attempt "reach the host's loopback" nc -w 1 127.0.0.1 22
attempt "fill the disk" sh -c 'head -c 200000000 /dev/zero >/tmp/fill; s=$?; rm -f /tmp/fill; exit $s'

started=0 # a fork bomb of 500; it may start no more than its limit of processes
while [ "$started" -lt 500 ] && (sleep 2 &) 2>/dev/null; do started=$((started + 1)); done
[ "$started" -lt 500 ] && echo "start 500 processes: refused" || echo "start 500 processes: DONE"
(sleep 1000 &) 2>/dev/null # left behind on purpose: it ends with its container
exit 0
