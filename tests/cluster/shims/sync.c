/* Stands between a node and its disk: preloaded, it can hang every sync, or kill the process at one of them.
 *
 * SYNC_SHIM_HANG=FILE     fsync and fdatasync wait as long as FILE exists, and then go on.
 * SYNC_SHIM_KILL_AT=N     the process gets SIGKILL in place of its N-th durable step (fsync, fdatasync, rename).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_long steps;

static void step(void) {
    const char *at = getenv("SYNC_SHIM_KILL_AT");
    if (at != NULL && atomic_fetch_add(&steps, 1) + 1 == atol(at)) kill(getpid(), SIGKILL);
}

static void hang(void) {
    const char *file = getenv("SYNC_SHIM_HANG");
    while (file != NULL && access(file, F_OK) == 0) usleep(2000);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    step();
    hang();
    return real(fd);
}

int fsync(int fd) {
    static int (*real)(int);
    if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    step();
    hang();
    return real(fd);
}

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (real == NULL) real = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    step();
    return real(from, to);
}
