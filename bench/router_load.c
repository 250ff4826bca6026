/* Load and pods for bench/router.py: one process, one epoll loop, so that both fit on one core.
 *
 * Usage: router_load FIRST_POD_PORT PODS. Then a line a workload on stdin: NAME PORT SECONDS AMOUNT; the answer is
 * one JSON line on stdout. PORT is the router's, or the first pod's own for the same without a router.
 * The pods do not parse more than they must, and a head is taken to come whole: what is measured is the router. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK "data: 00000000000000000000 " /* the time of sending, in ns */
#define STREAM_HEAD "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
enum { CHUNK_BYTES = 250, FRAMED_BYTES = 4 + CHUNK_BYTES + 2, BIG = 300000, PUMP_BATCH = 32 };
enum answer { JSON, STREAM, SILENT };
static const char *ANSWERS[] = {"json", "stream", "silent"};

typedef struct conn conn;
struct conn {
    int fd, index, chunked, distinct;
    void (*on)(conn *, uint32_t);
    long missing; /* bytes of the body; -1: a head is next */
    enum answer answer;
    char *request; /* a client's */
    size_t length, written;
    double asked, first; /* times; `first`: of the first byte, 0 before */
    conn *next;
};
struct series { double *values; size_t count, room; };

static int poller;
static char data[BIG + 1], framed[FRAMED_BYTES];
static conn **streams, *dead; /* open streams at the pods */
static int stream_count, stream_room;
static long answers, chunks_read, requests_made;
static double silent_at, lost_at; /* when a pod got a request that it leaves unanswered; lost a connection */
static struct series latencies, delays;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}
static double now(void) { return now_ns() / 1e9; }

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void add(struct series *s, double value) {
    if (s->count == s->room && !(s->values = realloc(s->values, (s->room = 2 * s->room + 1024) * sizeof value)))
        die("memory");
    s->values[s->count++] = value;
}

static int ascending(const void *a, const void *b) {
    double x = *(double *)a, y = *(double *)b;
    return (x > y) - (x < y);
}

static double quantile(struct series *s, double q) {
    if (!s->count) return 0;
    qsort(s->values, s->count, sizeof *s->values, ascending);
    return s->values[(size_t)(q * (s->count - 1))];
}

static conn *watch(int fd, uint32_t events, void (*on)(conn *, uint32_t)) {
    conn *c = calloc(1, sizeof *c);
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (!c) die("memory");
    c->fd = fd, c->on = on, c->missing = c->index = -1;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll");
    return c;
}

static void await(conn *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event)) die("epoll");
}

static void drop(conn *c) {
    if (c->fd < 0) return;
    close(c->fd);
    c->fd = -1;
    if (c->index >= 0) {
        streams[c->index] = streams[--stream_count];
        streams[c->index]->index = c->index;
    }
    c->next = dead, dead = c;
}

static void write_all(conn *c, const char *p, size_t n) {
    while (n) {
        ssize_t done = write(c->fd, p, n);
        if (done > 0) p += done, n -= done;
        else if (errno == EAGAIN) poll(&(struct pollfd){.fd = c->fd, .events = POLLOUT}, 1, 10);
        else return; /* the next read tells */
    }
}

/* Takes in a piece of a message. True: the message is complete. */
static int feed(conn *c, char *p, size_t n) {
    if (c->missing < 0) {
        char *end = memmem(p, n, "\r\n\r\n", 4), *found;
        if (!end) return 0;
        *end = 0;
        found = strcasestr(p, "\ncontent-length:");
        c->missing = found ? atol(found + 16) : 0;
        c->chunked = !found && strcasestr(p, "\ntransfer-encoding:") != NULL;
        n -= end + 4 - p, p = end + 4;
    }
    c->missing -= n;
    if (c->chunked ? n < 5 || memcmp(p + n - 5, "0\r\n\r\n", 5) : c->missing > 0) return 0;
    c->missing = -1;
    return 1;
}

/* --- pods */

static void stamp(void) {
    uint64_t ns = now_ns();
    for (char *digit = framed + 4 + 25; digit >= framed + 4 + 6; ns /= 10) *digit-- = '0' + ns % 10;
}

static void answer(conn *c) {
    static const char JSON_ANSWER[] = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 52\r\n\r\n"
                                      "{\"status\":\"ok\",\"data\":[{\"id\":\"bench\"}],\"load\":    0}";
    if (c->answer == JSON) write_all(c, JSON_ANSWER, sizeof JSON_ANSWER - 1);
    else if (c->answer == SILENT) silent_at = now();
    else {
        char out[sizeof STREAM_HEAD - 1 + FRAMED_BYTES];
        stamp();
        memcpy(mempcpy(out, STREAM_HEAD, sizeof STREAM_HEAD - 1), framed, FRAMED_BYTES);
        write_all(c, out, sizeof out);
        if (stream_count == stream_room && !(streams = realloc(streams, (stream_room += 8192) * sizeof *streams)))
            die("memory");
        streams[c->index = stream_count++] = c;
    }
    c->answer = JSON;
}

static void on_pod(conn *c, uint32_t events) {
    ssize_t n = read(c->fd, data, BIG);
    (void)events;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        lost_at = now();
        drop(c);
        return;
    }
    if (n < 8192 && memmem(data, n, "\"stream\":true", 13))
        c->answer = memmem(data, n, "silent", 6) ? SILENT : STREAM;
    if (feed(c, data, n)) answer(c);
}

static void on_listener(conn *c, uint32_t events) {
    (void)events;
    for (int fd, on = 1; (fd = accept4(c->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(fd, EPOLLIN, on_pod);
    }
}

static struct sockaddr_in address(int port) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void listen_at(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in at = address(port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) die("a pod's port");
    watch(fd, EPOLLIN, on_listener);
}

/* Sends what is due of `rate` chunks a second on each of the first `count` streams. */
static void pump(double since, double rate, int count, long *sent) {
    long due = (long)((now() - since) * rate * count) - *sent;
    if (due > PUMP_BATCH) due = PUMP_BATCH;
    for (; due > 0 && stream_count >= count; due--) {
        stamp();
        write_all(streams[(*sent)++ % count], framed, FRAMED_BYTES);
    }
}

/* --- clients */

static void ask(conn *c) {
    char number[17];
    if (c->distinct) {
        snprintf(number, sizeof number, "%016lx", ++requests_made * 0x9e3779b97f4a7c15ul);
        memcpy(strstr(c->request, "content\":\"") + 10, number, 16);
    }
    c->asked = now(), c->written = 0;
}

static void on_client(conn *c, uint32_t events) {
    if (events & EPOLLOUT) {
        if (!c->asked) ask(c);
        ssize_t done = write(c->fd, c->request + c->written, c->length - c->written);
        if (done < 0 && errno != EAGAIN) die("a client's request");
        if (done > 0 && (c->written += done) == c->length) await(c, EPOLLIN);
        return;
    }
    ssize_t n = read(c->fd, data, BIG);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) die("a client's connection ended");
    if (!c->first) {
        c->first = now();
        if (memcmp(data, "HTTP/1.1 200", 12)) fprintf(stderr, "%.*s\n", (int)n, data), exit(1);
    }
    if (c->answer == STREAM) {
        long before = chunks_read;
        for (char *p = data; (p = memchr(p, '~', data + n - p)); p++) chunks_read++;
        char *last = chunks_read >> 3 == before >> 3 ? NULL : memrchr(data, ' ', n); /* a sample of them */
        if (last && last - data >= 26) add(&delays, (now_ns() - strtoull(last - 20, NULL, 10)) / 1e6);
        return;
    }
    if (!feed(c, data, n)) return;
    answers++;
    add(&latencies, 1000 * (now() - c->asked));
    ask(c);
    c->written = write(c->fd, c->request, c->length);
    if ((ssize_t)c->written < 0) c->written = 0;
    if (c->written < c->length) await(c, EPOLLIN | EPOLLOUT);
}

static conn *call(int port, enum answer kind, size_t bytes, int distinct) {
    static const char HEAD[] = "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer bench\r\n"
                               "content-type: application/json\r\ncontent-length: %zu\r\n\r\n"
                               "{\"model\":\"bench\",\"user\":\"%s\",\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"";
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in at = address(port);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (fd < 0 || (connect(fd, (struct sockaddr *)&at, sizeof at) && errno != EINPROGRESS)) die("connect");
    conn *c = watch(fd, EPOLLOUT, on_client);
    c->answer = kind == JSON ? JSON : STREAM, c->distinct = distinct;
    c->request = malloc(bytes + 1024);
    size_t made = sprintf(c->request, HEAD, bytes, ANSWERS[kind], kind == JSON ? "false" : "true");
    size_t total = strstr(c->request, "\r\n\r\n") + 4 - c->request + bytes;
    memset(c->request + made, 'x', total - made);
    memcpy(c->request + total - 4, "\"}]}", 4);
    c->length = total;
    return c;
}

/* --- workloads */

static void turn(int timeout_ms) {
    struct epoll_event events[256];
    int count = epoll_wait(poller, events, 256, timeout_ms);
    for (int i = 0; i < count; i++) {
        conn *c = events[i].data.ptr;
        if (c->fd >= 0) c->on(c, events[i].events);
    }
    for (conn *c; (c = dead); free(c->request), free(c)) dead = c->next;
}

static void turn_until(double end) {
    while (now() < end) turn(1 + (int)(1000 * (end - now())));
}

static void dropped(conn **clients, int count) {
    for (int i = 0; i < count; i++) drop(clients[i]);
    double end = now() + 2; /* the router lets go of the pods */
    while (stream_count && now() < end) turn(10);
    free(clients);
}

static conn **callers(int port, enum answer kind, size_t bytes, int count, int distinct) {
    conn **clients = malloc(count * sizeof *clients);
    for (int i = 0; i < count; i++) {
        clients[i] = call(port, kind, bytes, distinct);
        if (i % 50 == 49 || i == count - 1)
            for (int j = i - i % 50; j <= i; j++)
                while (!clients[j]->first) turn(-1);
    }
    return clients;
}

static void print_series(struct series *s) {
    printf("\"p50_ms\": %.4f, \"p99_ms\": %.4f, \"samples\": %zu}\n", quantile(s, .5), quantile(s, .99), s->count);
}

/* Requests a second of clients that ask again as soon as they are answered. */
static void closed_loop(int port, double seconds, int clients, size_t bytes, long until) {
    answers = 0;
    conn **asking = callers(port, JSON, bytes, clients, until > 0);
    turn_until(now() + (until ? 0 : 1)); /* warm */
    long before = until ? 0 : answers;
    double started = now();
    latencies.count = 0;
    if (until) while (answers < until) turn(100);
    else turn_until(started + seconds);
    printf("{\"answers\": %ld, \"req_s\": %.1f, ", answers, (answers - before) / (now() - started));
    print_series(&latencies);
    dropped(asking, clients);
}

/* Chunks a second, and their delay, with 2,400 open streams at `rate` chunks a second each. */
static void chunks(int port, double seconds, double rate) {
    enum { STREAMS = 2400 };
    conn **reading = callers(port, STREAM, 1000, STREAMS, 0);
    double started = now();
    long sent = 0, before = 0;
    chunks_read = 0;
    for (double warm = started + 1, end = warm + seconds, at; (at = now()) < end; pump(started, rate, STREAMS, &sent), turn(0))
        if (at < warm) before = chunks_read, delays.count = 0;
    printf("{\"answers\": %ld, \"chunks_s\": %.1f, ", chunks_read, (chunks_read - before) / seconds);
    print_series(&delays);
    dropped(reading, STREAMS);
}

/* Time to first byte of further streams, one after the other, while `count` run at 25 chunks a second. */
static void first_bytes(int port, double seconds, int count) {
    conn **reading = callers(port, STREAM, 1000, count, 0), *probe = NULL;
    double started = now(), due = started + 0.5, at;
    long sent = 0;
    for (latencies.count = 0; (at = now()) < started + seconds; pump(started, 25, count, &sent), turn(0)) {
        if (probe && probe->first) {
            add(&latencies, 1000 * (probe->first - probe->asked));
            drop(probe);
            probe = NULL, due = at + 0.005;
        } else if (!probe && at > due) probe = call(port, STREAM, 1000, 0);
    }
    if (probe) drop(probe);
    printf("{");
    print_series(&latencies);
    dropped(reading, count);
}

/* From a client's leaving to the end of the pod's connection. */
static void cancels(int port, enum answer kind) {
    latencies.count = 0;
    for (int i = 0; i < 300; i++) {
        silent_at = lost_at = 0;
        conn *c = call(port, kind, 1000, 0);
        while (kind == SILENT ? !silent_at : !c->first) turn(-1);
        double left = now();
        drop(c);
        for (lost_at = 0; !lost_at && now() < left + 5;) turn(1);
        add(&latencies, 1000 * (now() - left));
    }
    printf("{");
    print_series(&latencies);
}

static void run(const char *name, int port, double seconds, double amount) {
    static conn **held;
    static int held_count;
    if (held) dropped(held, held_count), held = NULL;
    int count = amount;
    if (!strcmp(name, "short")) closed_loop(port, seconds, count ? count : 64, 1000, 0);
    else if (!strcmp(name, "big")) closed_loop(port, seconds, count ? count : 16, 220000, 0);
    else if (!strcmp(name, "distinct")) closed_loop(port, 0, 64, 1000, count);
    else if (!strcmp(name, "chunks")) chunks(port, seconds, amount ? amount : 25);
    else if (!strcmp(name, "ttft")) first_bytes(port, seconds, count ? count : 1000);
    else if (!strcmp(name, "cancel-stream")) cancels(port, STREAM);
    else if (!strcmp(name, "cancel-silent")) cancels(port, SILENT);
    else if (!strcmp(name, "hold")) {
        held = callers(port, STREAM, 1000, held_count = count, 0);
        printf("{\"open\": %d}\n", count);
    } else printf("{\"error\": \"there is no workload %s\"}\n", name);
    fflush(stdout);
}

static int line_waits;
static void on_line(conn *c, uint32_t events) {
    (void)c, (void)events;
    line_waits = 1;
}

static void obey(void) {
    char line[256], name[32];
    double port, seconds, amount;
    line_waits = 0;
    if (!fgets(line, sizeof line, stdin)) exit(0);
    if (sscanf(line, "%31s %lf %lf %lf", name, &port, &seconds, &amount) == 4) run(name, port, seconds, amount);
}

int main(int count, char **arguments) {
    if (count != 3) return fprintf(stderr, "usage: router_load FIRST_POD_PORT PODS\n"), 2;
    poller = epoll_create1(0);
    memset(framed, '.', sizeof framed);
    memcpy(framed, "fa\r\n" CHUNK, 4 + sizeof CHUNK - 1);
    memcpy(framed + FRAMED_BYTES - 5, "~\n\n\r\n", 5);
    for (int i = 0; i < atoi(arguments[2]); i++) listen_at(atoi(arguments[1]) + i);
    watch(0, EPOLLIN, on_line);
    for (;; turn(-1))
        if (line_waits) obey();
}
