"""What a function can see and do, as a list of facts: the same script asks for them in every container."""

from __future__ import annotations

import re

from mayfly.domain.image import ProcessConfig
from tests.support.containers import SCALE, World

# Each line is a name, a tab and what was found. Busybox only, which is called exe while it becomes another applet.
SCRIPT = r"""
fact() { printf '%s\t%s\n' "$1" "$(shift; "$@" 2>&1 | tr '\n' ';')"; }
try() { if (eval "$2") >/dev/null 2>&1; then echo "can $1	yes"; else echo "can $1	no"; fi; }

fact "who am I" id
fact "where am I" pwd
fact "umask" umask
fact "environment" sh -c 'env | grep -v "^SHLVL=\|^_=" | sort'
fact "host name" hostname
fact "users" awk '{print $1, $3}' /proc/self/uid_map
fact "groups" awk '{print $1, $3}' /proc/self/gid_map
fact "open files" sh -c 'ls /proc/self/fd | grep -v "^3$"; readlink /proc/self/fd/* | cut -d: -f1 | sort -u'
fact "processes" sh -c 'cat /proc/[0-9]*/comm | sort -u | grep -v "^cat$\|^sort$\|^grep$\|^tr$\|^exe$"'
fact "process 1" sh -c 'grep "^Uid\|^Gid\|^Groups\|^Cap\|^NoNewPrivs\|^SigIgn\|^SigBlk" /proc/1/status'
fact "command line of process 1" sh -c 'tr "\0" " " < /proc/1/cmdline | cut -d" " -f1'
for field in Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp SigBlk SigIgn Speculation_Store_Bypass; do
    fact "status $field" awk -v f="$field:" '$1 == f {$1=""; print}' /proc/self/status
done
tail -n +2 /proc/self/limits | sed 's/   */\t/g' | cut -f1-3 | while IFS='	' read -r name soft hard; do
    printf 'limit %s\t%s %s\n' "$name" "$soft" "$hard"
done
fact "out of memory score" cat /proc/self/oom_score_adj
fact "priority" awk '{print $18, $19, $41}' /proc/self/stat
fact "cgroup" sh -c 'cut -d: -f3 /proc/self/cgroup | sort -u'
fact "network interfaces" ls /sys/class/net
fact "loopback" sh -c 'ip -o addr show lo | sed "s/ \+/ /g; s/scope.*//"'
fact "/etc/hosts" cat /etc/hosts
fact "/etc/resolv.conf" cat /etc/resolv.conf
fact "/etc/hostname" cat /etc/hostname
awk '{ split($0, half, " - "); split(half[2], fs, " "); print "mount " $5 "\t" fs[1] " " $6 }' /proc/self/mountinfo
for path in /dev/*; do
    printf 'device %s\t%s\n' "$path" \
        "$(ls -ld "$path" | awk '{print $1, ($1 ~ /^[bc]/ ? $5 $6 : ""), $(NF-1) == "->" ? $NF : ""}')"
done
for path in / /proc /sys /dev /dev/shm /dev/pts /tmp /etc /etc/hosts; do
    printf 'owner of %s\t%s\n' "$path" "$(stat -c '%u:%g %A' "$path" 2>/dev/null)"
done
for path in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts /proc/sched_debug /proc/latency_stats /proc/acpi \
    /proc/scsi /proc/kmsg /proc/kallsyms /proc/1/environ /proc/1/root /proc/1/fd /sys/firmware \
    /sys/devices/virtual/powercap; do
    if [ -d "$path" ]; then found=$(ls -A "$path" 2>/dev/null); else found=$(head -c 1 "$path" 2>/dev/null); fi
    case "$found" in "") said=nothing;; *) said=something;; esac
    printf 'read %s\t%s\n' "$path" "$said"
done
try "write to the root" 'echo x > /made'
try "write to /etc" 'echo x > /etc/made'
try "write to /tmp" 'echo x > /tmp/made'
try "write to /dev" 'echo x > /dev/made'
try "write to /dev/shm" 'echo x > /dev/shm/made'
try "write to /etc/hosts" 'echo x >> /etc/hosts'
try "write to /sys" 'echo x > /sys/made'
try "set the host name by /proc" 'echo x > /proc/sys/kernel/hostname'
try "set a limit of its network" 'echo 1 > /proc/sys/net/ipv4/ip_forward'
try "set an ipc limit" 'echo 1 > /proc/sys/kernel/msgmax'
try "lower its out of memory score" 'echo 0 > /proc/self/oom_score_adj'
try "delete of the image" 'rm /etc/secret'
try "make a device" 'mknod /made-null c 1 3 && echo x > /made-null'
try "open a device of the image" 'head -c 1 /etc/zero'
try "make a named pipe" 'mkfifo /tmp/pipe'
try "give a file away" 'touch /tmp/mine && chown 7:7 /tmp/mine'
try "become another user" 'su -s /bin/sh app -c true'
try "kill process 1" 'kill -9 1; sleep 0.1; false'
try "open a terminal" 'script -qc true /dev/null || : < /dev/ptmx'
try "open stdout by name" 'echo > /dev/stdout'
try "write to /dev/null" 'echo > /dev/null'
try "mount" 'mount -t tmpfs tmpfs /tmp'
try "unmount" 'umount /etc/hosts || umount /dev/shm'
try "chroot" 'chroot / true'
try "raise its priority" 'nice -n -5 true'
try "bind a low port" 'timeout 0.2 nc -l -p 80; [ $? = 143 ]'
try "ping itself" 'ping -c 1 -W 1 127.0.0.1'
try "set the time" 'date -s @1'
try_calls | while read -r name result; do printf 'call %s\t%s\n' "$name" "$result"; done
printf 'a set-user-id program is\t%s\n' "$(setuid-show_user 2>&1 | tr '\n' ';')"
"""


async def facts(world: World, config: ProcessConfig) -> dict[str, str]:
    """Ask for all of them in a container of its own; ids that differ from call to call are made alike."""
    ending = await world.shell(SCRIPT, spec=(spec := world.spec(config)), timeout_s=60 * SCALE)
    assert ending.exit_code == 0, ending.stderr
    text = ending.stdout.decode().replace(spec.id, "ID")
    text = re.sub(r"\b[0-9a-f]{12}\b", "ID", text)  # as Docker names a host
    return dict(line.split("\t", 1) for line in text.splitlines())
