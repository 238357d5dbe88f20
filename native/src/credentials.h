#ifndef TF_SRC_CREDENTIALS_H
#define TF_SRC_CREDENTIALS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* What the calling thread had before tf_credentials_assume(). */
struct tf_credentials {
	bool is_changed;
	uid_t uid;
	gid_t gid;
	int group_count;
	gid_t *groups; /* owned */
};

/*
 * Let the calling thread, and no other, reach files as @uid, @gid and @groups. Does nothing unless the process
 * is root and @uid is another user. Returns 0 or a negative errno; undone by tf_credentials_restore().
 */
int tf_credentials_assume(struct tf_credentials *saved, uid_t uid, gid_t gid, const gid_t *groups, size_t group_count);
void tf_credentials_restore(struct tf_credentials *saved);

#endif
