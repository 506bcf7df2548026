// A step that does its worst: arguments that change while a call waits, directories that are exchanged, descriptors that
// become others, callers that die, tracers, forged marks. Outside of its root there are files under `CANARY` that none of
// it may reach; inside, the same path leads to files of its own.
//
//   races SECONDS CANARY
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static double until;
static char canary[512];
static char turning[1024];
static char targets[16][1024];
static unsigned count;
// A descriptor that is another one every moment.
enum { TURNS = 200 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int goes_on(void) { return now() < until; }

static void target(const char *format) {
    snprintf(targets[count++], sizeof *targets, format, canary);
}

// Rewrites the path that others call with, as a whole and in pieces.
static void *rewrites(void *unused) {
    for (unsigned n = 0; goes_on();) {
        for (int i = 0; i < 1000; i++, n++) {
            const char *next = targets[n % count];
            if (n % 3) {
                memcpy(turning, next, strlen(next) + 1);
            } else {
                for (const char *c = next; *c; c++) ((volatile char *)turning)[c - next] = *c;
                turning[strlen(next)] = 0;
            }
        }
    }
    return unused;
}

// All that makes the deputy do something, with a path.
static void call(int dir, const char *path, unsigned n) {
    struct stat seen;
    struct timespec times[2] = {{10000000000 + n % 70000, 5}, {1, 1}};
    switch (n % 19) {
    case 0: syscall(SYS_fchownat, dir, path, 5, 6, 0); break;
    case 1: syscall(SYS_fchownat, dir, path, 7, 8, AT_SYMLINK_NOFOLLOW); break;
    case 2: syscall(SYS_fchownat, dir, path, 7, 8, AT_EMPTY_PATH); break;
    case 3: close(openat(dir, path, O_CREAT | O_WRONLY | O_NONBLOCK, 0666)); break;
    case 4: close(openat(dir, path, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 04777)); break;
    case 5: close(openat(dir, path, O_TMPFILE | O_RDWR, 0666)); break;
    case 6: mkdirat(dir, path, 0777); break;
    case 7: mknodat(dir, path, S_IFIFO | 0666, 0); break;
    case 8: symlinkat("/etc/passwd", dir, path); break;
    case 9: renameat(AT_FDCWD, "mine", dir, path); break;
    case 10: linkat(AT_FDCWD, "mine", dir, path, 0); break;
    case 11: syscall(SYS_utimensat, dir, path, times, AT_SYMLINK_NOFOLLOW); break;
    case 12: syscall(SYS_utimensat, dir, path, times, 0); break;
    case 13: setxattr(path, "user.shmocker.owner", "9:9", 3, 0); break;
    case 14: removexattr(path, "user.shmocker.owner"); break;
    case 15: fstatat(dir, path, &seen, 0); break;
    case 16: close(open("mine", O_CREAT | O_WRONLY | O_NONBLOCK, 0666)); break;
    case 17: syscall(SYS_execveat, dir, path, 1, 1, 0); break;
    default: fchownat(dir, path, -1, -1, 0);
    }
}

static void *calls(void *first) {
    for (unsigned n = (unsigned long)first; goes_on(); n++) {
        call(n & 32 ? AT_FDCWD : TURNS, turning, n);
        call(TURNS, "file", n);
        call(AT_FDCWD, "turn/file", n);
    }
    return 0;
}

// Directories and links change places, again and again.
static void *exchanges(void *unused) {
    while (goes_on()) {
        syscall(SYS_renameat2, AT_FDCWD, "turn", AT_FDCWD, "other", RENAME_EXCHANGE);
        syscall(SYS_renameat2, AT_FDCWD, "turn", AT_FDCWD, "third", RENAME_EXCHANGE);
        syscall(SYS_renameat2, AT_FDCWD, "turn", AT_FDCWD, canary, RENAME_EXCHANGE);
    }
    return unused;
}

static void *turns_descriptors(void *unused) {
    int all[] = {open("/", O_PATH), open("/proc/self/root", O_PATH), open("/proc/1/cwd", O_PATH), open(canary, O_PATH), open("other", O_PATH | O_NOFOLLOW), open("/proc/self/fd", O_RDONLY), open("/proc/self/ns/mnt", O_RDONLY), open("/dev/null", O_RDWR)};
    for (unsigned n = 0; goes_on(); n++) {
        dup2(all[n % 8], TURNS);
        if (n % 16 == 0) close(TURNS);
    }
    return unused;
}

static void threads(void) {
    pthread_t all[8];
    pthread_create(&all[0], 0, rewrites, 0);
    pthread_create(&all[1], 0, exchanges, 0);
    pthread_create(&all[2], 0, turns_descriptors, 0);
    for (long i = 3; i < 8; i++) pthread_create(&all[i], 0, calls, (void *)(i * 5));
    for (int i = 0; i < 8; i++) pthread_join(all[i], 0);
}

static void *one_call(void *path) {
    for (unsigned n = 0;; n++) call(AT_FDCWD, path, n);
    return 0;
}

// Those whose caller is gone before it is answered.
static void dies(void) {
    while (goes_on()) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            pthread_create(&thread, 0, one_call, targets[getpid() % count]);
            usleep(getpid() % 300);
            if (getpid() % 2) raise(SIGKILL);
            _exit(0);
        }
        if (child % 3 == 0) kill(child, SIGKILL);
        waitpid(child, 0, 0);
    }
}

// A change of root that keeps a directory outside of it, and climbs from there.
static void climbs(void) {
    char path[1024];
    mkdir("jail", 0777);
    int above = open("..", O_PATH | O_DIRECTORY);
    if (chroot("jail")) return;
    snprintf(path, sizeof path, "../../../../../../../../..%s/file", canary);
    for (unsigned n = 0; goes_on(); n++) {
        call(above, path, n);
        call(AT_FDCWD, path, n);
        if (n % 64 == 0) {
            mkdir("deeper", 0777);
            if (chroot("deeper") == 0 && fchdir(above) == 0) chroot(".");
        }
    }
}

#ifdef __x86_64__
// A tracer that puts another path where the call's argument is, before and after the filter has seen it.
static void traces(void) {
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        for (unsigned n = 0;; n++) call(AT_FDCWD, "mine", n);
    }
    waitpid(child, 0, 0);
    ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACESECCOMP);
    for (unsigned n = 0; goes_on(); n++) {
        struct user_regs_struct registers;
        int status;
        if (ptrace(PTRACE_SYSCALL, child, 0, 0) || waitpid(child, &status, 0) < 0 || !WIFSTOPPED(status)) break;
        if (ptrace(PTRACE_GETREGS, child, 0, &registers)) break;
        if (n % 2 == 0 && registers.orig_rax != (unsigned long)-1) {
            registers.rsi = (unsigned long)targets[n / 2 % count];
            ptrace(PTRACE_SETREGS, child, 0, &registers);
        }
    }
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
}

static long old_call(long number, long a, long b, long c, long d) {
    long answer;
    __asm__ volatile("int $0x80" : "=a"(answer) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return answer;
}
// Whether there is the 32-bit interface at all.
static int is_old(void) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) _exit(old_call(20, 0, 0, 0, 0) <= 0);
    waitpid(child, &status, 0);
    return status == 0;
}
#else
static void traces(void) {}
#endif

static void expect(const char *what, int is_so) {
    if (!is_so) {
        printf("WRONG: %s\n", what);
        fflush(stdout);
    }
}

// Who a process is cannot be changed but by asking.
static void forges_marks(void) {
    struct rlimit forged = {0x53484D4B00000001, RLIM_INFINITY}, seen;
    uid_t before = getuid();
    setrlimit(RLIMIT_LOCKS, &forged);
    syscall(SYS_prlimit64, 0, RLIMIT_LOCKS, &forged, 0);
    syscall(SYS_prlimit64, getppid(), RLIMIT_LOCKS, &forged, 0);
    syscall(SYS_prlimit64, 0, 0x100000000 + RLIMIT_LOCKS, &forged, 0);
    getrlimit(RLIMIT_LOCKS, &seen);
    expect("a forged mark is not taken", seen.rlim_cur != forged.rlim_cur || before != 0);
#ifdef __x86_64__
    if (!is_old()) return;
    struct rlimit *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    struct rlimit first = seen;
    *low = (struct rlimit){0x53484D4B00000002, RLIM_INFINITY};
    old_call(340, 0, RLIMIT_LOCKS, (long)low, 0);
    ((unsigned *)low)[0] = 2;
    ((unsigned *)low)[1] = -1;
    old_call(75, RLIMIT_LOCKS, (long)low, 0, 0);
    getrlimit(RLIMIT_LOCKS, &seen);
    expect("nor through the other interface", seen.rlim_cur == first.rlim_cur);
#endif
    expect("it is who it was", getuid() == before);
}

static void asks_for_what_is_refused(void) {
    expect("no other namespaces", unshare(CLONE_NEWUSER) && unshare(CLONE_NEWNS) && unshare(CLONE_NEWPID));
    expect("no new ones either", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0) < 0);
    int namespace = open("/proc/1/ns/user", O_RDONLY);
    expect("none of others", setns(namespace, 0) && setns(open("/proc/1/ns/mnt", O_RDONLY), 0));
    expect("no mount", mount("x", "/tmp", "tmpfs", 0, 0) && syscall(SYS_pivot_root, "/", "/"));
    struct sock_filter allow[] = {{0x06, 0, 0, 0x7fff0000}};
    struct sock_fprog program = {1, allow};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    expect("no second listener", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program) < 0);
    expect("no other filter that answers instead", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0 && getuid() == 0);
}

// Somebody else, in as many ways as there are numbers.
static void becomes_many(void) {
    for (unsigned n = 0; goes_on(); n++) {
        pid_t child = fork();
        if (child == 0) {
            static gid_t groups[65536];
            for (unsigned i = 0; i < 65536; i++) groups[i] = n * 7 + i;
            setgroups(n % 3 ? 65536 : 3, groups);
            setresgid(n, n + 1, n + 2);
            setresuid(n, n + 1, n + 2);
            call(AT_FDCWD, "shared/new", n);
            _exit(0);
        }
        waitpid(child, 0, 0);
    }
}

// Some wait for what never comes: a pipe that nobody else opens, where a tracer has changed what is opened.
static void ends_all(int unused) {
    kill(-1, SIGKILL);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    until = now() + atof(argv[1]);
    strcpy(canary, argv[2]);
    target("/etc/passwd");
    target("%s/file");
    target("../../../../../../../../../../../..%s/file");
    target("/proc/1/root%s/file");
    target("/proc/self/root%s/file");
    target("/proc/self/cwd/turn/file");
    target("/proc/thread-self/fd/200");
    target("turn/file");
    target("turn");
    target("third/file");
    target("%s/link");
    target("%s/new");
    target("");
    target("/proc/self/fd/200/file");
    memset(targets[count], '/', sizeof *targets - 1);
    memcpy(targets[count++] + 900, "etc/passwd", 10);
    mkdir("/arena", 0777);
    chmod("/arena", 0777);
    if (chdir("/arena")) return 3;
    mkdir("shared", 01777);
    chmod("shared", 01777);
    mkdir("turn", 0777);
    close(open("turn/file", O_CREAT | O_WRONLY, 0666));
    symlink(canary, "other");
    char around[600];
    snprintf(around, sizeof around, "/proc/self/root%s", canary);
    symlink(around, "third");
    asks_for_what_is_refused();
    forges_marks();
    signal(SIGALRM, ends_all);
    alarm(atoi(argv[1]) + 2);
    void (*const all[])(void) = {threads, threads, dies, dies, climbs, traces, becomes_many};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        if (fork() == 0) {
            // The second of each is nobody in particular.
            if (i == 1 || i == 3) setresgid(65534, 65534, 65534), setresuid(65534, 65534, 65534), forges_marks();
            all[i]();
            _exit(0);
        }
    }
    while (wait(0) > 0 || errno == EINTR) {}
    puts("it has ended");
    return 0;
}
