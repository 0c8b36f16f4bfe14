/* User Mode Linux 6.1 has room for 2696 bytes of a process's extended registers.  Where the CPU has
 * AMX the host's ptrace accepts only the whole of them (11008 bytes), and User Mode Linux stops with
 * "ptrace set fp regs failed, errno = 14".  Preloaded, this fills in the rest, with the AMX tiles
 * marked as unused. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define NT_X86_XSTATE 0x202
#define XSTATE_BV_OFFSET 512
#define XSTATE_AMX_TILES (3ULL << 17)

static char whole[1 << 16] __attribute__((aligned(64)));
static size_t whole_bytes;

long ptrace(enum __ptrace_request request, ...)
{
    static long (*next)(int, ...);
    va_list arguments;
    va_start(arguments, request);
    long pid = va_arg(arguments, long);
    void *address = va_arg(arguments, void *), *data = va_arg(arguments, void *);
    va_end(arguments);
    if (!next)
        next = (long (*)(int, ...))dlsym(RTLD_NEXT, "ptrace");
    if (request != PTRACE_SETREGSET || (long)address != NT_X86_XSTATE)
        return next(request, pid, address, data);

    struct iovec *given = data, filled = { whole, sizeof whole };
    if (!whole_bytes) {
        if (next(PTRACE_GETREGSET, pid, address, &filled) < 0)
            return -1;
        whole_bytes = filled.iov_len;
    }
    if (given->iov_len >= whole_bytes)
        return next(request, pid, address, data);
    uint64_t used;
    memset(whole, 0, whole_bytes);
    memcpy(whole, given->iov_base, given->iov_len);
    memcpy(&used, whole + XSTATE_BV_OFFSET, sizeof used);
    used &= ~XSTATE_AMX_TILES;
    memcpy(whole + XSTATE_BV_OFFSET, &used, sizeof used);
    filled.iov_len = whole_bytes;
    return next(request, pid, address, &filled);
}
