/* A disk that fails at random or does not respond, below one directory: for LD_PRELOAD. See bin/storm and
 * test/slow_disk_test.exs.
 *
 *     DISK_FAULTS_DIR   files whose path has this in it fail
 *     DISK_FAULTS       a file of numbers that is mapped: it can be changed while the program runs
 *
 * The file has 32-bit numbers in the machine's order: for open, read, write (ftruncate too), fsync and unlink the
 * faults per 1,000 calls; then for each of the five how many calls have failed; then a seed; then the milliseconds
 * that a read takes; then the seconds that the system's clock is ahead; then, while it is not 0, reads wait; then how
 * many reads have begun to wait. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { OPEN, READ, WRITE, FSYNC, UNLINK, KINDS };

struct control {
    uint32_t permille[KINDS];
    uint32_t failed[KINDS];
    uint32_t seed;
    uint32_t read_ms;
    uint32_t ahead;
    uint32_t hold;
    uint32_t held;
};

#define FDS 65536
static unsigned char ours[FDS];
static volatile struct control *control;
static const char *dir;
static uint32_t calls;

#define REAL(name) __extension__({ static __typeof__(&name) real; \
    if (!real) { real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); } \
    real; })

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("DISK_FAULTS");
    dir = getenv("DISK_FAULTS_DIR");
    if (!path || !dir) return;
    int fd = REAL(open)(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REAL(close)(fd);
    if (map != MAP_FAILED) control = map;
}

static uint32_t draw(void) {
    uint32_t x = control->seed + 0x9e3779b9u * __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return x ^ (x >> 16);
}

static int fails(int kind) {
    if (!control || draw() % 1000 >= control->permille[kind]) return 0;
    __atomic_add_fetch(&control->failed[kind], 1, __ATOMIC_RELAXED);
    if (kind == OPEN) errno = draw() % 2 ? EMFILE : EIO;
    else if (kind == WRITE) errno = draw() % 2 ? ENOSPC : EIO;
    else errno = EIO;
    return 1;
}

static int below(const char *path) { return control && path && strstr(path, dir) != NULL; }
static int is_ours(int fd) { return fd >= 0 && fd < FDS && ours[fd]; }
static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < FDS) ours[fd] = below(path);
    return fd;
}

#define OPENER(name, ...) \
    int mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list args; va_start(args, flags); mode = va_arg(args, int); va_end(args); } \
    if (below(path) && fails(OPEN)) return -1; \
    return opened(REAL(name)(__VA_ARGS__, mode), path);

int open(const char *path, int flags, ...) { OPENER(open, path, flags) }
int open64(const char *path, int flags, ...) { OPENER(open64, path, flags) }
int openat(int at, const char *path, int flags, ...) { OPENER(openat, at, path, flags) }
int openat64(int at, const char *path, int flags, ...) { OPENER(openat64, at, path, flags) }

int close(int fd) {
    if (fd >= 0 && fd < FDS) ours[fd] = 0;
    return REAL(close)(fd);
}

static int reads(int fd) {
    if (!is_ours(fd)) return 0;
    if (control->read_ms) {
        struct timespec pause = {control->read_ms / 1000, control->read_ms % 1000 * 1000000L};
        nanosleep(&pause, NULL);
    }
    if (control->hold) {
        struct timespec pause = {0, 1000000L};
        __atomic_add_fetch(&control->held, 1, __ATOMIC_RELAXED);
        while (control->hold) nanosleep(&pause, NULL);
    }
    return fails(READ);
}

/* Half of what is to be written may be, as on a disk that fills up. */
static size_t part(size_t count) { return count > 1 && draw() % 2 ? count / 2 : 0; }

ssize_t read(int fd, void *to, size_t count) { return reads(fd) ? -1 : REAL(read)(fd, to, count); }
ssize_t pread(int fd, void *to, size_t count, off_t at) { return reads(fd) ? -1 : REAL(pread)(fd, to, count, at); }
ssize_t pread64(int fd, void *to, size_t count, off64_t at) { return reads(fd) ? -1 : REAL(pread64)(fd, to, count, at); }

ssize_t write(int fd, const void *from, size_t count) {
    if (!is_ours(fd) || !fails(WRITE)) return REAL(write)(fd, from, count);
    count = part(count);
    return count ? REAL(write)(fd, from, count) : -1;
}
ssize_t pwrite(int fd, const void *from, size_t count, off_t at) {
    if (!is_ours(fd) || !fails(WRITE)) return REAL(pwrite)(fd, from, count, at);
    count = part(count);
    return count ? REAL(pwrite)(fd, from, count, at) : -1;
}
ssize_t pwrite64(int fd, const void *from, size_t count, off64_t at) {
    if (!is_ours(fd) || !fails(WRITE)) return REAL(pwrite64)(fd, from, count, at);
    count = part(count);
    return count ? REAL(pwrite64)(fd, from, count, at) : -1;
}
int ftruncate(int fd, off_t length) { return is_ours(fd) && fails(WRITE) ? -1 : REAL(ftruncate)(fd, length); }
int ftruncate64(int fd, off64_t length) { return is_ours(fd) && fails(WRITE) ? -1 : REAL(ftruncate64)(fd, length); }
int fsync(int fd) { return is_ours(fd) && fails(FSYNC) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return is_ours(fd) && fails(FSYNC) ? -1 : REAL(fdatasync)(fd); }
int unlink(const char *path) { return below(path) && fails(UNLINK) ? -1 : REAL(unlink)(path); }
int unlinkat(int at, const char *path, int flags) {
    return below(path) && fails(UNLINK) ? -1 : REAL(unlinkat)(at, path, flags);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (control && clock == CLOCK_REALTIME && !result) now->tv_sec += control->ahead;
    return result;
}
