/* Numbered datagrams, one every 10 ms, and their echo. flow echo HOST PORT | flow send HOST PORT
   Each says "ready" once it is at work. The sender goes on until SIGTERM, waits a moment for what is still under way,
   and prints how many it sent, how many came back, and the first numbers that did not. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1 << 20, EVERY_MS = 10, LAST_MS = 3000, TOLD = 10 };

static volatile sig_atomic_t over;
static unsigned char back[MOST];

static void end(int signal) { (void)signal, over = 1; }

static void must(int good, const char *what) {
    if (!good) { perror(what); exit(1); }
}

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void ready(void) {
    puts("ready");
    fflush(stdout);
}

/* What waits here while a busy machine runs others is not lost: room for many seconds of what comes in. */
static int patient_socket(int room) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    must(!setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room), "SO_RCVBUFFORCE");
    return fd;
}

static void echo(struct sockaddr_in *at) {
    int fd = patient_socket(128 << 20);
    must(!bind(fd, (void *)at, sizeof *at), "bind");
    ready();
    while (!over) {
        char buffer[64];
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        ssize_t n = recvfrom(fd, buffer, sizeof buffer, 0, (void *)&from, &size);
        if (n > 0) sendto(fd, buffer, (size_t)n, 0, (void *)&from, size);
    }
}

static uint32_t take(int fd) { /* how many new ones came back */
    uint32_t number, fresh = 0;
    while (recv(fd, &number, sizeof number, MSG_DONTWAIT) == sizeof number)
        if (number < MOST && !back[number]) back[number] = 1, fresh++;
    return fresh;
}

static void send_numbers(struct sockaddr_in *to) {
    int fd = patient_socket(4 << 20);
    must(!connect(fd, (void *)to, sizeof *to), "connect");
    uint32_t sent = 0, received = 0;
    long began = now_ms(), ended = 0;
    struct pollfd readable = {fd, POLLIN, 0};
    for (;;) {
        long now = now_ms();
        if (over && !ended) ended = now;
        if (ended && (received == sent || now - ended > LAST_MS)) break;
        long next = began + (long)sent * EVERY_MS;
        if (!ended && now >= next && sent < MOST) {
            /* A refusal is a loss of this number, found out by its absence. */
            if (send(fd, &sent, sizeof sent, 0) < 0) {}
            if (!sent++) ready();
            continue;
        }
        poll(&readable, 1, ended ? EVERY_MS : (int)(next - now));
        received += take(fd);
    }
    printf("%u %u", sent, received);
    for (uint32_t i = 0, told = 0; i < sent && told < TOLD; i++)
        if (!back[i]) printf(" %u", i), told++;
    puts("");
}

int main(int argc, char **argv) {
    must(argc == 4, "flow echo|send HOST PORT");
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[3]))};
    must(inet_pton(AF_INET, argv[2], &at.sin_addr) == 1, argv[2]);
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    if (!strcmp(argv[1], "echo")) echo(&at);
    else send_numbers(&at);
    return 0;
}
