/* Round trips of 64 bytes between two network namespaces. rtt server PORT | rtt client HOST PORT tcp|udp COUNT
   The client prints the 50th and the 99th percentile in nanoseconds. The server answers one client of either protocol. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, WARM_UP = 200 };

static void must(int good, const char *what) {
    if (!good) { perror(what); exit(1); }
}

static int by_value(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

static int receive_all(int fd, char *buffer) {
    return recv(fd, buffer, SIZE, MSG_WAITALL) == SIZE;
}

static void serve(struct sockaddr_in *at) {
    char buffer[SIZE];
    int one = 1, tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    must(!bind(tcp, (void *)at, sizeof *at) && !listen(tcp, 1), "listen");
    must(!bind(udp, (void *)at, sizeof *at), "bind");
    puts("ready");
    fflush(stdout);
    struct pollfd either[] = {{tcp, POLLIN, 0}, {udp, POLLIN, 0}};
    must(poll(either, 2, 30000) > 0, "poll");
    if (either[0].revents) {
        int client = accept(tcp, NULL, NULL);
        must(client >= 0, "accept");
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        while (receive_all(client, buffer)) must(send(client, buffer, SIZE, 0) == SIZE, "send");
        return;
    }
    struct sockaddr_in from;
    for (;;) { /* until the client says so: datagrams have no end of file */
        socklen_t length = sizeof from;
        must(recvfrom(udp, buffer, SIZE, 0, (void *)&from, &length) == SIZE, "recvfrom");
        if (!strcmp(buffer, "end")) return;
        must(sendto(udp, buffer, SIZE, 0, (void *)&from, length) == SIZE, "sendto");
    }
}

static void ask(struct sockaddr_in *to, int stream, int count) {
    char buffer[SIZE] = "ping";
    int one = 1, fd = socket(AF_INET, stream ? SOCK_STREAM : SOCK_DGRAM, 0);
    struct timeval patience = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience); /* of connect, too */
    must(!connect(fd, (void *)to, sizeof *to), "connect");
    if (stream) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    long *took = malloc(count * sizeof *took);
    must(took != NULL, "malloc");
    for (int n = -WARM_UP; n < count; n++) {
        struct timespec before, after;
        clock_gettime(CLOCK_MONOTONIC, &before);
        must(send(fd, buffer, SIZE, 0) == SIZE && receive_all(fd, buffer), "round trip");
        clock_gettime(CLOCK_MONOTONIC, &after);
        if (n >= 0) took[n] = (after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec;
    }
    if (!stream) {
        strcpy(buffer, "end");
        must(send(fd, buffer, SIZE, 0) == SIZE, "send");
    }
    qsort(took, count, sizeof *took, by_value);
    printf("%ld %ld\n", took[count / 2], took[count - 1 - count / 100]);
}

int main(int argc, char **argv) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    if (argc == 3 && !strcmp(argv[1], "server")) {
        at.sin_port = htons(atoi(argv[2]));
        serve(&at);
        return 0;
    }
    if (argc == 6 && !strcmp(argv[1], "client") && inet_pton(AF_INET, argv[2], &at.sin_addr) == 1) {
        at.sin_port = htons(atoi(argv[3]));
        ask(&at, !strcmp(argv[4], "tcp"), atoi(argv[5]));
        return 0;
    }
    fprintf(stderr, "usage: rtt server PORT | rtt client HOST PORT tcp|udp COUNT\n");
    return 2;
}
