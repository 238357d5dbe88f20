#include "credentials.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * The C library applies setgroups() to all threads of the process, the kernel to one: only the system call
 * itself leaves the other threads alone. setfsuid() and setfsgid() are per thread in both.
 */
static int set_groups(size_t count, const gid_t *groups)
{
	return syscall(SYS_setgroups, count, groups) < 0 ? -errno : 0;
}

/* setfsuid() and setfsgid() report no error, but tell the value in force when asked for an invalid one. */
static bool set_file_ids(uid_t uid, gid_t gid)
{
	setfsgid(gid);
	setfsuid(uid);
	return (gid_t)setfsgid((gid_t)-1) == gid && (uid_t)setfsuid((uid_t)-1) == uid;
}

int tf_credentials_assume(struct tf_credentials *saved, uid_t uid, gid_t gid, const gid_t *groups, size_t group_count)
{
	int ret;

	*saved = (struct tf_credentials){ .is_changed = false, .uid = geteuid(), .gid = getegid() };
	if (saved->uid != 0 || uid == 0)
		return 0;
	saved->group_count = getgroups(0, NULL);
	if (saved->group_count < 0)
		return -errno;
	saved->groups = calloc((size_t)saved->group_count + 1, sizeof(*saved->groups));
	if (!saved->groups)
		return -ENOMEM;
	saved->group_count = getgroups(saved->group_count, saved->groups);
	if (saved->group_count < 0) {
		ret = -errno;
		goto err_free;
	}
	ret = set_groups(group_count, groups);
	if (ret < 0)
		goto err_free;
	saved->is_changed = true;
	if (!set_file_ids(uid, gid)) {
		tf_credentials_restore(saved);
		return -EPERM;
	}
	return 0;

err_free:
	free(saved->groups);
	saved->groups = NULL;
	return ret;
}

void tf_credentials_restore(struct tf_credentials *saved)
{
	if (!saved->is_changed)
		return;
	/* A thread that stayed another user would make the next owner's files for the wrong one. */
	if (!set_file_ids(saved->uid, saved->gid) || set_groups((size_t)saved->group_count, saved->groups) < 0)
		abort();
	free(saved->groups);
	saved->groups = NULL;
	saved->is_changed = false;
}
