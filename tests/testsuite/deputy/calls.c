// Random calls about owners and identities, the same for the same seed, and what each of them answers: one line a call.
//
//   calls FIRST COUNT DIRECTORY      sequences FIRST to FIRST + COUNT - 1, each in a directory of its own
//
// Left out is what docs/no-setup.md says to be different: who may read, overwrite and delete what is there. So a process
// that is not root makes new things, looks, and gives away what it may; only root renames, links, removes, changes modes.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static uint64_t state;
static unsigned depth;
// Whether it has always been root.
static int is_pure = 1;

static unsigned below(unsigned n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state * 0x2545F4914F6CDD1DULL >> 33) % n;
}

static const char *const NAMES[] = {"a", "b", "c", "d", "e", "f", "link", "pipe", "d0", "d1", "d0/d2"};
static const char *const DIRS[] = {"d0", "d1", "d0/d2", ".", "d0/../d1", "d1//.", "to-d1"};
#define PICK(list) list[below(sizeof list / sizeof *list)]

static char top[256];
static int held[4] = {-1, -1, -1, -1};

// A path, and the directory that it is from.
static int path(char *out) {
    char short_path[300];
    switch (below(12)) {
    case 0: case 1: case 2: case 3:
        snprintf(short_path, sizeof short_path, "%s", PICK(NAMES));
        break;
    case 4: case 5: case 6: case 7:
        snprintf(short_path, sizeof short_path, "%s/%s", PICK(DIRS), PICK(NAMES));
        break;
    case 8:
        snprintf(short_path, sizeof short_path, "%s/%s/", PICK(DIRS), PICK(NAMES));
        break;
    case 9:
        snprintf(short_path, sizeof short_path, "%s", PICK(DIRS));
        break;
    case 10:
        snprintf(short_path, sizeof short_path, "to-%s", PICK(NAMES));
        break;
    default:
        snprintf(short_path, sizeof short_path, "%s", below(6) ? "a/not-a-directory" : "");
    }
    if (!below(4) && *short_path) {
        sprintf(out, "%s/%s", top, short_path);
        return below(3) ? AT_FDCWD : 77;
    }
    strcpy(out, short_path);
    return below(20) ? AT_FDCWD : (int)(below(2) ? held[below(4)] : 77);
}

static unsigned id(void) {
    static const unsigned ids[] = {0, 0, 1, 33, 1000, 1000, 5000, 65534, -1};
    return PICK(ids);
}

static unsigned mode(void) {
    static const unsigned modes[] = {0644, 0755, 0777, 0700, 02755, 04755, 06755, 02644, 0600, 02777};
    return PICK(modes);
}

static int flags(void) {
    static const int all[] = {0, 0, 0, AT_SYMLINK_NOFOLLOW, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, 0x10, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH};
    return PICK(all);
}

static long said(const char *what, const char *of, long answer) {
    int error = errno;
    printf("%*s%s %s = %ld%s%s\n", (int)depth * 2, "", what, of, answer, answer < 0 ? " " : "", answer < 0 ? strerrorname_np(error) : "");
    return answer;
}

static void tell_stat(const char *what, const char *of, long answer, const struct stat *seen) {
    if (answer < 0) {
        said(what, of, answer);
    } else {
        printf("%*s%s %s: %06o %u:%u %lu\n", (int)depth * 2, "", what, of, seen->st_mode, seen->st_uid, seen->st_gid,
               S_ISDIR(seen->st_mode) ? 0 : (unsigned long)seen->st_nlink);
    }
}

static void look(void) {
    char at[600];
    struct stat seen;
    int dir = path(at), flag = flags();
    switch (below(6)) {
    case 0:
        tell_stat("stat", at, syscall(SYS_newfstatat, AT_FDCWD, at, &seen, 0), &seen);
        break;
#ifdef SYS_stat
    case 1:
        tell_stat("old stat", at, syscall(SYS_stat, at, &seen), &seen);
        break;
    case 2:
        tell_stat("old lstat", at, syscall(SYS_lstat, at, &seen), &seen);
        break;
#endif
    case 3: {
        int fd = below(8) ? held[below(4)] : AT_FDCWD;
        tell_stat("fstat", "", syscall(SYS_fstat, fd, &seen), &seen);
        break;
    }
    case 4: {
        struct statx more;
        long answer = syscall(SYS_statx, dir, at, flag, below(2) ? STATX_BASIC_STATS : STATX_UID | STATX_GID | STATX_MODE | STATX_NLINK | STATX_TYPE, &more);
        seen.st_mode = more.stx_mode;
        seen.st_uid = more.stx_uid;
        seen.st_gid = more.stx_gid;
        seen.st_nlink = more.stx_nlink;
        tell_stat("statx", at, answer, &seen);
        break;
    }
    default:
        tell_stat("fstatat", at, syscall(SYS_newfstatat, dir, at, &seen, flag), &seen);
    }
}

static void give(void) {
    char at[600], told[700];
    int dir = path(at), flag = flags();
    unsigned uid = id(), gid = id();
    sprintf(told, "%s %d:%d", at, (int)uid, (int)gid);
    switch (below(5)) {
#ifdef SYS_chown
    case 0:
        said("chown", told, syscall(SYS_chown, at, uid, gid));
        break;
    case 1:
        said("lchown", told, syscall(SYS_lchown, at, uid, gid));
        break;
#endif
    case 2: {
        int fd = below(10) ? held[below(4)] : AT_FDCWD;
        sprintf(told, "%d:%d", (int)uid, (int)gid);
        said("fchown", told, syscall(SYS_fchown, fd, uid, gid));
        break;
    }
    default:
        said("fchownat", told, syscall(SYS_fchownat, dir, at, uid, gid, flag));
    }
}

static void make(void) {
    char at[600], told[700];
    int dir = path(at);
    unsigned bits = mode();
    sprintf(told, "%s %04o", at, bits);
    switch (below(9)) {
    case 0: case 1:
        // Everybody may go through all directories.
        bits |= 0555;
        sprintf(told, "%s %04o", at, bits);
        said("mkdirat", told, syscall(SYS_mkdirat, dir, at, bits));
        break;
    case 2: {
        static const unsigned kinds[] = {0, S_IFREG, S_IFIFO, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFDIR};
        unsigned kind = PICK(kinds);
        sprintf(told, "%s %06o", at, kind | bits);
        said("mknodat", told, syscall(SYS_mknodat, dir, at, kind | bits, kind == S_IFCHR ? 0x501 : 0));
        break;
    }
    case 3: {
        const char *to = PICK(NAMES);
        sprintf(told, "%s -> %s", at, to);
        said("symlinkat", told, syscall(SYS_symlinkat, to, dir, at));
        break;
    }
    case 4: {
        int fd = openat(dir, at, O_TMPFILE | O_RDWR | O_CLOEXEC, bits);
        struct stat seen;
        said("open nameless", told, fd < 0 ? -1 : 0);
        if (fd >= 0) {
            tell_stat("it", "", fstat(fd, &seen), &seen);
            close(fd);
        }
        break;
    }
    default: {
        // What is there may be overwritten by everybody, so others than root ask for new files.
        static const int more[] = {0, O_TRUNC, O_NOFOLLOW, O_DIRECTORY, O_APPEND};
        int flag = O_CREAT | O_NONBLOCK | O_CLOEXEC | PICK(more) | (is_pure && below(2) ? 0 : O_EXCL) | (below(2) ? O_WRONLY : O_RDWR);
        int slot = below(4);
        sprintf(told, "%s %04o %x", at, bits, flag);
        struct { uint64_t flags, mode, resolve; } how = {flag, bits & 0777, 0};
        int fd = below(4) ? openat(dir, at, flag, bits) : (int)syscall(SYS_openat2, dir, at, &how, sizeof how);
        said("open", told, fd < 0 ? -1 : 0);
        if (fd >= 0) {
            if (held[slot] >= 0) close(held[slot]);
            held[slot] = fcntl(fd, F_DUPFD_CLOEXEC, 100);
            close(fd);
        }
    }
    }
}

static void hold(void) {
    char at[600];
    int dir = path(at), slot = below(4);
    static const int ways[] = {O_PATH, O_PATH | O_NOFOLLOW, O_RDONLY | O_NONBLOCK, O_RDONLY | O_DIRECTORY};
    int way = is_pure ? PICK(ways) : ways[below(2)];
    int fd = openat(dir, at, way | O_CLOEXEC);
    said(way & O_PATH ? "hold" : "read", at, fd < 0 ? -1 : 0);
    if (fd >= 0) {
        if (held[slot] >= 0) close(held[slot]);
        held[slot] = fcntl(fd, F_DUPFD_CLOEXEC, 100);
        close(fd);
    }
}

static void move(void) {
    char at[600], to[600], told[1300];
    int dir = path(at), other = path(to);
    sprintf(told, "%s %s", at, to);
    switch (below(8)) {
    case 0: case 1:
        said("rename", told, syscall(SYS_renameat2, dir, at, other, to, below(3) ? 0 : RENAME_EXCHANGE));
        break;
    case 2: case 3:
        said("link", told, syscall(SYS_linkat, dir, at, other, to, 0));
        break;
    case 4:
        said("unlink", at, syscall(SYS_unlinkat, dir, at, below(2) ? AT_REMOVEDIR : 0));
        break;
    case 5: {
        struct timespec times[2] = {{below(1000), 5}, {1000000 + below(1000), 6}};
        int flag = flags();
        said("utimensat", at, syscall(SYS_utimensat, dir, at, below(3) ? times : 0, flag));
        break;
    }
    case 6: {
        struct timespec times[2] = {{below(1000), 5}, {1000000 + below(1000), 6}};
        said("futimens", "", syscall(SYS_utimensat, held[below(4)], 0, below(3) ? times : 0, 0));
        break;
    }
    default: {
        unsigned bits = mode() | 0555;
        sprintf(told, "%s %04o", at, bits);
        said("chmod", told, syscall(SYS_fchmodat, dir, at, bits));
    }
    }
}

static void attribute(void) {
    char at[600];
    path(at);
    switch (below(3)) {
    case 0:
        said("setxattr", at, setxattr(at, "user.mine", "v", 1, 0));
        break;
    case 1:
        said("removexattr", at, removexattr(at, "user.mine"));
        break;
    default:
        said("setxattr capability", at, setxattr(at, "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
    }
}

static void tell_who(void) {
    uid_t u[3];
    gid_t g[3], groups[64];
    getresuid(u, u + 1, u + 2);
    getresgid(g, g + 1, g + 2);
    int count = getgroups(64, groups);
    printf("%*swho %u,%u,%u,%d %u,%u,%u,%d [", (int)depth * 2, "", u[0], u[1], u[2], setfsuid(-1), g[0], g[1], g[2], setfsgid(-1));
    for (int i = 0; i < count; i++) printf(" %u", groups[i]);
    printf("] %u %u %u %u %ld\n", getuid(), geteuid(), getgid(), getegid(), syscall(SYS_getgroups, 0, 0));
}

static void become(void) {
    char told[100];
    unsigned a = id(), b = id(), c = id();
    sprintf(told, "%d %d %d", (int)a, (int)b, (int)c);
    is_pure = 0;
    switch (below(11)) {
    case 0: said("setuid", told, syscall(SYS_setuid, a)); break;
    case 1: said("setgid", told, syscall(SYS_setgid, a)); break;
    case 2: said("setreuid", told, syscall(SYS_setreuid, a, b)); break;
    case 3: said("setregid", told, syscall(SYS_setregid, a, b)); break;
    case 4: said("setresuid", told, syscall(SYS_setresuid, a, b, c)); break;
    case 5: said("setresgid", told, syscall(SYS_setresgid, a, b, c)); break;
    case 6: said("setfsuid", told, syscall(SYS_setfsuid, a)); break;
    case 7: said("setfsgid", told, syscall(SYS_setfsgid, a)); break;
    case 8: {
        gid_t groups[4] = {a, b, c, 7};
        int bad = a == -1u || b == -1u || c == -1u;
        said("setgroups", told, syscall(SYS_setgroups, bad ? below(2) * 70000 : below(5), groups));
        break;
    }
    case 9: said("setresuid", "aside", syscall(SYS_setresuid, -1, b, -1)); break;
    default: said("setresgid", "aside", syscall(SYS_setresgid, -1, b, -1));
    }
    tell_who();
}

static void limit(void) {
    struct rlimit limits = {below(100), RLIM_INFINITY};
    said("setrlimit", "locks", setrlimit(RLIMIT_LOCKS, &limits));
    tell_who();
}

static char *self;

static void step(unsigned left);

static void steps(unsigned count) {
    while (count--) step(count);
}

static void step(unsigned left) {
    switch (below(24)) {
    case 0: case 1: case 2: case 3: case 4:
        look();
        return;
    case 5: case 6: case 7: case 8:
        give();
        return;
    case 9: case 10: case 11: case 12: case 13:
        make();
        return;
    case 14:
        hold();
        return;
    case 15: case 16: case 17:
        if (is_pure) move();
        return;
    case 18:
        if (is_pure) attribute();
        return;
    case 19: case 20:
        // Who has been somebody else has other access; so that is done aside, and root goes on.
        if (depth) become();
        return;
    case 21:
        limit();
        return;
    case 22:
        if (depth >= 3) return;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            depth++;
            if (below(2)) become();
            steps(6 + below(12));
            fflush(stdout);
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        printf("%*schild %x\n", (int)depth * 2, "", status);
        // What the child drew, it drew for itself.
        below(2);
        return;
    default: {
        // Goes on in another program, which may give it rights.
        if (!depth || below(3)) return;
        char seed[32], rest[32], deep[32], file[300];
        static const char *const programs[] = {"", "-user", "-group", "-both", "-root"};
        unsigned program = below(5);
        sprintf(file, "%s%s", self, programs[program]);
        sprintf(seed, "%llu", (unsigned long long)state);
        sprintf(rest, "%u", left);
        sprintf(deep, "%u", depth);
        fflush(stdout);
        for (int i = 0; i < 4; i++) held[i] = -1;
        printf("%*sexecutes %s\n", (int)depth * 2, "", strrchr(file, '/') + 1);
        fflush(stdout);
        execl(file, file, is_pure && program % 4 == 0 ? "pure" : "on", seed, rest, deep, top, self, NULL);
        said("execl", file, -1);
    }
    }
}

// All that there is at the end.
static void list(const char *at, int levels) {
    struct stat seen;
    tell_stat("is", at + strlen(top), lstat(at, &seen), &seen);
    if (!S_ISDIR(seen.st_mode) || !levels) return;
    for (unsigned i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        char inner[600];
        if (strchr(NAMES[i], '/')) continue;
        snprintf(inner, sizeof inner, "%s/%s", at, NAMES[i]);
        if (lstat(inner, &seen) == 0) list(inner, levels - 1);
    }
}

int main(int argc, char **argv) {
    static char out[1 << 16];
    setvbuf(stdout, out, _IOFBF, sizeof out);
    if (argc == 7) {
        is_pure = !strcmp(argv[1], "pure");
        state = strtoull(argv[2], 0, 10);
        depth = atoi(argv[4]);
        strcpy(top, argv[5]);
        self = argv[6];
        tell_who();
        steps(atoi(argv[3]));
        fflush(stdout);
        return 0;
    }
    if (argc != 4) return 2;
    self = argv[0];
    unsigned long first = strtoul(argv[1], 0, 10), count = strtoul(argv[2], 0, 10);
    umask(022);
    for (unsigned long seed = first; seed < first + count; seed++) {
        state = seed * 0x9E3779B97F4A7C15ULL + 1;
        snprintf(top, sizeof top, "%s/%lu", argv[3], seed);
        printf("sequence %lu\n", seed);
        mkdir(top, 0755);
        if (chdir(top)) return 3;
        mkdir("d0", 0777);
        mkdir("d1", 0755);
        mkdir("d0/d2", 02775);
        chmod("d0", 0777);
        chmod("d0/d2", 02775);
        chown("d0/d2", 1000, 5000);
        chown("d1", 33, 33);
        symlink("d1", "to-d1");
        symlink("a", "to-a");
        symlink("d0/b", "to-b");
        symlink("link", "to-link");
        steps(60);
        for (int i = 0; i < 4; i++) {
            if (held[i] >= 0) close(held[i]);
            held[i] = -1;
        }
        chdir("/");
        list(top, 3);
    }
    fflush(stdout);
    return 0;
}
