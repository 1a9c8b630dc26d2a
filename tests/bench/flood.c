/* Datagrams of 64 bytes as fast as one core sends them. flood SOURCE HOST PORT COUNT
   Over veths the kernel carries each to the receiver's socket before send returns, so the nanoseconds per datagram, which
   are printed, are the CPU time of the whole way. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

enum { SIZE = 64, WARM_UP = 2000 };

static void must(int good, const char *what) {
    if (!good) { perror(what); exit(1); }
}

int main(int argc, char **argv) {
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    if (argc != 5 || inet_pton(AF_INET, argv[1], &from.sin_addr) != 1 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1) {
        fprintf(stderr, "usage: flood SOURCE HOST PORT COUNT\n");
        return 2;
    }
    to.sin_port = htons(atoi(argv[3]));
    int count = atoi(argv[4]), fd = socket(AF_INET, SOCK_DGRAM, 0);
    char buffer[SIZE] = "flood";
    must(!bind(fd, (void *)&from, sizeof from) && !connect(fd, (void *)&to, sizeof to), "connect");
    struct timespec before, after;
    for (int n = -WARM_UP; n < count; n++) {
        if (n == 0) clock_gettime(CLOCK_MONOTONIC, &before);
        must(send(fd, buffer, SIZE, 0) == SIZE, "send");
    }
    clock_gettime(CLOCK_MONOTONIC, &after);
    printf("%.1f\n", ((after.tv_sec - before.tv_sec) * 1e9 + after.tv_nsec - before.tv_nsec) / count);
    return 0;
}
