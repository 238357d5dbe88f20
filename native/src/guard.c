#include "guard.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>

#include <lttng/ust-sigbus.h>
#include <urcu/system.h>

/* liblttng-ust-ctl wants this symbol from the program that loads it. */
__attribute__((visibility("default"))) DEFINE_LTTNG_UST_SIGBUS_STATE();

struct guard {
	const char *begin, *end;
	sigjmp_buf back;
};

/* Initial-exec, so that the handler's access to it allocates nothing. */
static __thread __attribute__((tls_model("initial-exec"))) struct guard *volatile current;

/*
 * The library has a way out of its own, `lttng_ust_ctl_sigbus_handle`, which in 2.13 leads back to the very
 * access that failed, again and again. So its calls run under our guard as well; here the library only says
 * which memory is shared, and is told that its call is over.
 */
static bool is_in_library_call(const char *address)
{
	struct lttng_ust_sigbus_range *range;

	if (!CMM_LOAD_SHARED(lttng_ust_sigbus_state.jmp_ready))
		return false;
	cds_list_for_each_entry(range, &lttng_ust_sigbus_state.head, node)
		if (address >= (char *)range->start && address < (char *)range->end)
			return true;
	return false;
}

static void end_library_call(void)
{
	CDS_INIT_LIST_HEAD(&lttng_ust_sigbus_state.head); /* its one entry was on the stack */
	CMM_STORE_SHARED(lttng_ust_sigbus_state.jmp_ready, 0);
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
	const char *address = info->si_addr;
	struct guard *guard = current;

	(void)context;
	if (guard && is_in_library_call(address)) {
		end_library_call();
		siglongjmp(guard->back, 1);
	}
	if (guard && address >= guard->begin && address < guard->end)
		siglongjmp(guard->back, 1);
	/* Somebody else's fault: returning repeats it, and it ends the process with a core dump. */
	signal(signal_number, SIG_DFL);
}

int tf_guarded(int (*function)(void *argument), void *argument, const void *begin, size_t size)
{
	struct guard guard = { .begin = begin, .end = (const char *)begin + size };
	int ret;

	/* The handler runs with SIGBUS unblocked (SA_NODEFER), so there is no signal mask to save and restore. */
	if (sigsetjmp(guard.back, 0)) {
		current = NULL;
		return TF_GUARD_TRIPPED;
	}
	current = &guard;
	ret = function(argument);
	current = NULL;
	return ret;
}

int tf_guard_install(void)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigemptyset(&action.sa_mask);
	return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}
