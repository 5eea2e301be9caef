/* Writes down what a process asks of its disk, so that a loss of power can be made of it afterwards.
 *
 * PLATTER_ROOT=DIRECTORY   what lies below it is written down.
 * PLATTER_LOG=FILE         to here, appended: a header (struct record), then its bytes. chaos/platter.py reads it.
 *
 * A write is in the log after it was done and before the caller knows; a sync likewise. So what the log says is synced
 * was synced, and what the caller was told is synced is in the log. What nobody here can follow ends the process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { START = 1, OPEN, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, MKDIR };
enum { FILES = 65536, CREATES = 1, EMPTIES = 2 };

struct record {
    uint32_t op, serial;
    int64_t at;
    uint32_t first, second; /* lengths of what follows */
};

static atomic_uint serials[FILES];
static atomic_uint last_serial;
static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void put(uint32_t op, uint32_t serial, int64_t at, const void *one, size_t first, const void *two,
                size_t second) {
    int saved = errno;
    struct record head = {op, serial, at, (uint32_t)first, (uint32_t)second};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)one, first}, {(void *)two, second}};
    pthread_mutex_lock(&turn);
    ssize_t whole = (ssize_t)(sizeof head + first + second);
    if (syscall(SYS_writev, log_fd, parts, 3) != whole) _exit(99);
    pthread_mutex_unlock(&turn);
    errno = saved;
}

__attribute__((constructor)) static void start(void) {
    const char *where = getenv("PLATTER_ROOT"), *name = getenv("PLATTER_LOG");
    if (!where || !name || strlen(where) >= sizeof root) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (fd < 0) _exit(98);
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 512);
    syscall(SYS_close, fd);
    strcpy(root, where);
    root_length = strlen(root);
    put(START, 0, 0, NULL, 0, NULL, 0);
}

/* The whole path, or NULL when it is neither the root nor below it. */
static const char *ours(int directory, const char *path, char *made) {
    if (log_fd < 0 || !path) return NULL;
    if (path[0] != '/') {
        char link[40] = "/proc/self/cwd";
        if (directory != AT_FDCWD) snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, made, PATH_MAX - 1);
        if (length < 0) return NULL;
        made[length] = 0;
        if ((size_t)length + strlen(path) + 2 > PATH_MAX) return NULL;
        strcat(strcat(made, "/"), path);
        path = made;
    }
    int is_below = strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || !path[root_length]);
    return is_below ? path : NULL;
}

static uint32_t serial_of(int fd) { return log_fd >= 0 && fd >= 0 && fd < FILES ? atomic_load(&serials[fd]) : 0; }

static int opened(int fd, int directory, const char *path, int flags) {
    char made[PATH_MAX];
    const char *whole = fd >= 0 ? ours(directory, path, made) : NULL;
    if (!whole) return fd;
    if (fd >= FILES) _exit(97);
    uint32_t serial = atomic_fetch_add(&last_serial, 1) + 1;
    atomic_store(&serials[fd], serial);
    int how = (flags & O_CREAT ? CREATES : 0) | (flags & O_TRUNC ? EMPTIES : 0);
    put(OPEN, serial, how, whole, strlen(whole), NULL, 0);
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) {
    REAL(int, "open", const char *, int, ...);
    MODE(flags)
    return opened(real(path, flags, mode), AT_FDCWD, path, flags);
}

int open64(const char *path, int flags, ...) {
    REAL(int, "open64", const char *, int, ...);
    MODE(flags)
    return opened(real(path, flags, mode), AT_FDCWD, path, flags);
}

int openat(int directory, const char *path, int flags, ...) {
    REAL(int, "openat", int, const char *, int, ...);
    MODE(flags)
    return opened(real(directory, path, flags, mode), directory, path, flags);
}

int openat64(int directory, const char *path, int flags, ...) {
    REAL(int, "openat64", int, const char *, int, ...);
    MODE(flags)
    return opened(real(directory, path, flags, mode), directory, path, flags);
}

int close(int fd) {
    REAL(int, "close", int);
    if (fd >= 0 && fd < FILES) atomic_store(&serials[fd], 0);
    return real(fd);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    ssize_t done = real(fd, data, size);
    uint32_t serial = serial_of(fd);
    if (serial && done > 0) put(WRITE, serial, lseek(fd, 0, SEEK_CUR) - done, data, (size_t)done, NULL, 0);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    ssize_t done = real(fd, data, size, at);
    uint32_t serial = serial_of(fd);
    if (serial && done > 0) put(WRITE, serial, at, data, (size_t)done, NULL, 0);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (serial_of(fd)) _exit(96);
    return real(fd, parts, count);
}

int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    int done = real(fd, size);
    uint32_t serial = serial_of(fd);
    if (serial && done == 0) put(TRUNCATE, serial, size, NULL, 0, NULL, 0);
    return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int synced(int fd, int done) {
    uint32_t serial = serial_of(fd);
    if (serial && done == 0) put(SYNC, serial, 0, NULL, 0, NULL, 0);
    return done;
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return synced(fd, real(fd));
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return synced(fd, real(fd));
}

static int named(int done, uint32_t op, int directory, const char *path) {
    char made[PATH_MAX];
    const char *whole = done == 0 ? ours(directory, path, made) : NULL;
    if (whole) put(op, 0, 0, whole, strlen(whole), NULL, 0);
    return done;
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return named(real(path), UNLINK, AT_FDCWD, path);
}

int unlinkat(int directory, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    return named(real(directory, path, flags), UNLINK, directory, path);
}

int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    return named(real(path), UNLINK, AT_FDCWD, path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return named(real(path, mode), MKDIR, AT_FDCWD, path);
}

int mkdirat(int directory, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    return named(real(directory, path, mode), MKDIR, directory, path);
}

static int renamed(int done, int from_directory, const char *from, int to_directory, const char *to) {
    char made[PATH_MAX], made_too[PATH_MAX];
    const char *one = done == 0 ? ours(from_directory, from, made) : NULL;
    const char *two = done == 0 ? ours(to_directory, to, made_too) : NULL;
    if (!one != !two) _exit(95);
    if (one) put(RENAME, 0, 0, one, strlen(one), two, strlen(two));
    return done;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return renamed(real(from, to), AT_FDCWD, from, AT_FDCWD, to);
}

int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return renamed(real(from_directory, from, to_directory, to), from_directory, from, to_directory, to);
}

int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    char made[PATH_MAX];
    if (ours(AT_FDCWD, to, made)) _exit(94);
    return real(from, to);
}
