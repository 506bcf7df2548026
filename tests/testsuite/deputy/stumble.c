// Lets one thread of another process see its next wait fail: what the kernel could always say, and never does.
//
//   stumble THREAD
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    pid_t thread = atoi(argv[1]);
    for (;;) {
        struct user_regs_struct registers;
        if (ptrace(PTRACE_SEIZE, thread, 0, PTRACE_O_TRACESYSGOOD) || ptrace(PTRACE_INTERRUPT, thread, 0, 0)) break;
        if (waitpid(thread, 0, __WALL) < 0) break;
        // From here it runs until it enters or leaves a call.
        for (int stops = 0; stops < 1000; stops++) {
            if (ptrace(PTRACE_SYSCALL, thread, 0, 0) || waitpid(thread, 0, __WALL) < 0) goto out;
            if (ptrace(PTRACE_GETREGS, thread, 0, &registers)) goto out;
            // poll or ppoll, left: its answer is in rax.
            if ((registers.orig_rax == 7 || registers.orig_rax == 271) && (long)registers.rax != -ENOSYS) {
                registers.rax = -EINVAL;
                if (ptrace(PTRACE_SETREGS, thread, 0, &registers)) goto out;
                return ptrace(PTRACE_DETACH, thread, 0, 0) ? 1 : 0;
            }
        }
    }
out:
    perror("stumble");
    return 1;
}
