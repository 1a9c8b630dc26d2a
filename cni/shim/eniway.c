/* The file in /opt/cni/bin: passes CNI_* and stdin to the node daemon and prints its answer. Every decision is the
 * daemon's, but what to say when it is away (cni/shim/reference.py says the same; wire format: cni/wire.py). No memory
 * is allocated; a wait ends with SIGALRM, whose handler uses only async-signal-safe calls. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#ifndef SOCKET
#define SOCKET "/run/eniway/cni.sock"
#endif
#define FAIL(code, msg) "{\"cniVersion\":\"1.0.0\",\"code\":" #code ",\"msg\":\"" msg "\"}\n"
extern char **environ;
static const char *verb = "";
static unsigned char data[4 << 20], head[12] = "EW\1"; /* magic, version, 0, length of CNI_*, length of stdin */

static int put(int fd, const void *from, size_t n) {
    for (const char *p = from; n > 0;) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return -1;
        p += done, n -= (size_t)done;
    }
    return 0;
}
static ssize_t get(int fd, void *to, size_t n) { /* fewer than n bytes only at the end; -1 for an error */
    size_t have = 0;
    while (have < n) {
        ssize_t done = read(fd, (char *)to + have, n - have);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return -1;
        if (done == 0) break;
        have += (size_t)done;
    }
    return (ssize_t)have;
}
static _Noreturn void say(int status, const char *text) {
    _exit(put(1, text, strlen(text)) ? 1 : status);
}
static _Noreturn void away(int signal) { /* the daemon cannot be reached, or took longer than anybody waits */
    (void)signal;
    if (!strcmp(verb, "DEL") || !strcmp(verb, "STATUS")) _exit(0);
    say(1, FAIL(11, "eniway's node daemon does not answer, try again later"));
}
static void number(unsigned char *to, size_t n) { /* 32 bits, network order */
    to[0] = (unsigned char)(n >> 24), to[1] = (unsigned char)(n >> 16), to[2] = (unsigned char)(n >> 8), to[3] = (unsigned char)n;
}

int main(void) {
    struct sockaddr_un to = {.sun_family = AF_UNIX, .sun_path = SOCKET};
    size_t variables = 0;
    for (char **e = environ; *e; e++) {
        if (!strncmp(*e, "CNI_COMMAND=", 12)) verb = *e + 12;
        if (!strncmp(*e, "CNI_", 4)) variables += strlen(*e) + 1;
    }
    if (!strcmp(verb, "VERSION"))
        say(0, "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, away);
    alarm(!strcmp(verb, "ADD") ? 220 : !strcmp(verb, "DEL") ? 60 : !strcmp(verb, "STATUS") ? 1 : 10);

    ssize_t config = get(0, data, sizeof data);
    if (config < 0) say(1, FAIL(5, "the network configuration on stdin cannot be read"));
    if (config == (ssize_t)sizeof data) say(1, FAIL(7, "the network configuration on stdin is too long: expected less than 4 MiB"));

    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) away(0);
    number(head + 4, variables), number(head + 8, (size_t)config);
    if (put(fd, head, sizeof head)) away(0);
    for (char **e = environ; *e; e++)
        if (!strncmp(*e, "CNI_", 4) && put(fd, *e, strlen(*e) + 1)) away(0);
    if (put(fd, data, (size_t)config)) away(0);

    if (get(fd, head, 8) != 8 || memcmp(head, "EW\1", 3)) away(0); /* magic, version, exit status, length */
    size_t length = (size_t)head[4] << 24 | (size_t)head[5] << 16 | (size_t)head[6] << 8 | head[7];
    if (length > sizeof data || get(fd, data, length) != (ssize_t)length) away(0);
    alarm(0);
    return put(1, data, length) ? 1 : head[3];
}
