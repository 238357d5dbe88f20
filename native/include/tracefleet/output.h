#ifndef TRACEFLEET_OUTPUT_H
#define TRACEFLEET_OUTPUT_H

/*
 * Where one registry (one CTF trace) goes: into files, or to a relay daemon.
 *
 * Directories and files are made when they are first needed, with the credentials of their owner when the
 * process is root, and never outside the root: below it no symbolic link is followed.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct tf_output;
struct tf_relay;
struct tf_fleet;

/*
 * Remember the place: @relative_path below the absolute @root, for the user @uid with @gid and the
 * @group_count supplementary groups in @groups (copied). Makes nothing yet. Returns 0 or a negative errno:
 * -EINVAL for a root that is not absolute, or a relative path with an empty component, "." or "..".
 */
int tf_output_create(const char *root, const char *relative_path, uid_t uid, gid_t gid, const gid_t *groups,
		     size_t group_count, struct tf_output **out);

/*
 * The same for a trace that goes to the relay daemon behind @relay (it keeps a reference), where its metadata stream is
 * called @metadata_handle. Each piece of metadata goes as one packet, so that whoever reads along never has half of it.
 */
int tf_output_create_relayed(struct tf_relay *relay, uint64_t metadata_handle, struct tf_output **out);

/* The same for a trace that goes through @fleet (it keeps a reference): its metadata is the stream @metadata_key. */
int tf_output_create_fleet(struct tf_fleet *fleet, uint32_t metadata_key, struct tf_output **out);

/* Make the directories now, and see that files can be made there. Returns 0 or a negative errno. */
int tf_output_prepare(struct tf_output *output);

/*
 * The memory (a memfd) in which the session daemon publishes the metadata of the trace: this header, and text from
 * TF_METADATA_TEXT_OFFSET on. The text grows; what was published once stays as it is.
 */
#define TF_METADATA_MEMORY_MAGIC 0x74664d44u
#define TF_METADATA_MEMORY_VERSION 2u
#define TF_METADATA_TEXT_OFFSET 4096
#define TF_METADATA_CHANNEL_COUNT 4080

struct tf_metadata_memory {
	uint32_t magic, version;
	uint64_t text_size; /* bytes published; atomic, stored with release after the text */
	/* By channel id: 1 when its stream class is in the text. Atomic, stored with release after text_size. */
	uint8_t is_described[TF_METADATA_CHANNEL_COUNT];
};

/*
 * Take the metadata of the trace with @uuid from the memory behind @fd, which stays the caller's. Before any channel
 * writes here. Returns 0 or a negative errno: -EINVAL for what is no such memory, or could be shrunk under us.
 */
int tf_output_set_metadata(struct tf_output *output, int fd, const uint8_t uuid[16]);

/*
 * True when the text that is published has the stream class of that channel: before, no program records into it, and
 * readers end with an error when they hear of its streams. Also true without metadata, and for ids beyond the table.
 */
bool tf_output_describes(const struct tf_output *output, uint32_t channel_id);

/*
 * Append what was published since the last time to the metadata file as CTF 1.8 metadata packets, all of it or nothing.
 * Costs next to nothing when that is nothing. Returns 0 or a negative errno: -EBADMSG when the memory says what cannot
 * be, -EBADF after the close.
 */
int tf_output_write_metadata(struct tf_output *output);

/*
 * Write what is left of the metadata, and close its file and the directory. A channel that still writes here opens the
 * latter again. Returns 0, or what tf_output_write_metadata() says; it is closed then as well.
 */
int tf_output_close(struct tf_output *output);

/* Drop a reference; channels hold one each. */
void tf_output_put(struct tf_output *output);

#endif
