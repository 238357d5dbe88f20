#ifndef TRACEFLEET_OUTPUT_H
#define TRACEFLEET_OUTPUT_H

/*
 * Where the files of one registry (one CTF trace) go.
 *
 * Directories and files are made when they are first needed, with the credentials of their owner when the
 * process is root, and never outside the root: below it no symbolic link is followed.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct tf_output;

/*
 * Remember the place: @relative_path below the absolute @root, for the user @uid with @gid and the
 * @group_count supplementary groups in @groups (copied). Makes nothing yet. Returns 0 or a negative errno:
 * -EINVAL for a root that is not absolute, or a relative path with an empty component, "." or "..".
 */
int tf_output_create(const char *root, const char *relative_path, uid_t uid, gid_t gid, const gid_t *groups,
		     size_t group_count, struct tf_output **out);

/* Make the directories now, and see that files can be made there. Returns 0 or a negative errno. */
int tf_output_prepare(struct tf_output *output);

/*
 * Append @size bytes of TSDL text to the metadata stream as CTF 1.8 metadata packets, all of it or nothing.
 * Returns 0 or a negative errno.
 */
int tf_output_append_metadata(struct tf_output *output, const char *text, size_t size, const uint8_t uuid[16]);

/* Close the metadata file and the directory. A channel that still writes here opens the latter again. */
void tf_output_close(struct tf_output *output);

/* Drop a reference; channels hold one each. */
void tf_output_put(struct tf_output *output);

#endif
