/* Tries to become somebody else on its network; says what each attempt came to. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static struct ifreq eth0(void) {
    struct ifreq request = {0};
    strcpy(request.ifr_name, "eth0");
    return request;
}

static void set_address(struct sockaddr *at, const char *address) {
    struct sockaddr_in *in = (void *)at;
    in->sin_family = AF_INET;
    inet_pton(AF_INET, address, &in->sin_addr);
}

static void said(const char *what, long result) {
    printf("%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "done");
}

static long dump(int kind) { /* may be asked by everybody, and shows that netlink itself is there */
    struct {
        struct nlmsghdr head;
        struct rtmsg body;
    } ask = {{sizeof ask, kind, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0}, {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT, .rtm_scope = RT_SCOPE_LINK, .rtm_type = RTN_UNICAST}};
    char answer[8192];
    int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    if (s < 0 || send(s, &ask, sizeof ask, 0) < 0 || recv(s, answer, sizeof answer, 0) < 0)
        return -1;
    struct nlmsghdr *head = (void *)answer;
    int error = head->nlmsg_type == NLMSG_ERROR ? ((struct nlmsgerr *)NLMSG_DATA(head))->error : 0;
    errno = -error;
    close(s);
    return error ? -1 : 0;
}

int main(void) {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq request = eth0();
    struct rtentry route = {0};
    struct sockaddr_in other = {.sin_family = AF_INET};

    set_address(&request.ifr_addr, "10.213.7.7");
    said("address", ioctl(s, SIOCSIFADDR, &request));
    request = eth0();
    request.ifr_flags = 0;
    said("down", ioctl(s, SIOCSIFFLAGS, &request));
    request = eth0();
    request.ifr_flags = IFF_UP | IFF_PROMISC;
    said("promiscuous", ioctl(s, SIOCSIFFLAGS, &request));
    request = eth0();
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    said("mac", ioctl(s, SIOCSIFHWADDR, &request));
    set_address(&route.rt_dst, "10.9.9.9");
    set_address(&route.rt_genmask, "255.255.255.255");
    route.rt_dev = "eth0";
    route.rt_flags = RTF_UP | RTF_HOST;
    said("route", ioctl(s, SIOCADDRT, &route));
    said("netlink route", dump(RTM_NEWROUTE));
    said("raw socket", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    said("packet socket", socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)));
    said("transparent", setsockopt(s, SOL_IP, IP_TRANSPARENT, &(int){1}, sizeof(int)));
    said("device", setsockopt(s, SOL_SOCKET, SO_MARK, &(int){1}, sizeof(int)));
    setsockopt(s, SOL_IP, IP_FREEBIND, &(int){1}, sizeof(int)); /* anybody may, but not send from there */
    inet_pton(AF_INET, "203.0.113.99", &other.sin_addr);
    bind(s, (void *)&other, sizeof other);
    inet_pton(AF_INET, "203.0.113.80", &other.sin_addr);
    other.sin_port = htons(7);
    said("foreign source", sendto(s, "foreign", 7, 0, (void *)&other, sizeof other));
    said("sysctl", open("/proc/sys/net/ipv4/conf/eth0/forwarding", O_WRONLY));
    said("namespace", unshare(CLONE_NEWUSER | CLONE_NEWNET));
    said("other namespace", setns(open("/proc/1/ns/net", O_RDONLY), CLONE_NEWNET));
    return 0;
}
