/* Leaves a mark in everything that processes could share, calls itself "marked" and stays: for find_marks to find. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define KEY 0x6d61796d

static void serve(struct sockaddr *address, socklen_t length, int family)
{
    int listener = socket(family, SOCK_STREAM, 0);
    if (bind(listener, address, length) || listen(listener, 8))
        perror("serve");
}

int main(void)
{
    struct sockaddr_un named = {AF_UNIX, "/tmp/mark.socket"}, abstract = {AF_UNIX, "\0mark"};
    struct sockaddr_in port = {AF_INET, htons(7777), {htonl(INADDR_LOOPBACK)}};
    open("/tmp/mark", O_CREAT | O_WRONLY, 0666);
    shm_open("/mark", O_CREAT | O_RDWR, 0666);
    shmget(KEY, 4096, IPC_CREAT | 0666);
    msgget(KEY, IPC_CREAT | 0666);
    semget(KEY, 1, IPC_CREAT | 0666);
    mq_open("/mark", O_CREAT | O_RDWR, 0666, NULL);
    serve((struct sockaddr *)&named, sizeof named, AF_UNIX);
    serve((struct sockaddr *)&abstract, offsetof(struct sockaddr_un, sun_path) + 5, AF_UNIX);
    serve((struct sockaddr *)&port, sizeof port, AF_INET);
    prctl(PR_SET_NAME, "marked");
    for (;;)
        pause();
}
