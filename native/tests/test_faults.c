/* Disks that get full, and applications that damage what they share with us. */
#include "trace.h"

#include <tracefleet/pump.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *program;

static const struct tf_channel_attributes usual = { .sub_buffer_size = 65536, .sub_buffer_count = 4 };

static void run_program(struct recording *recording, const char *writer, const char *count)
{
	char *arguments[] = { "program", (char *)writer, (char *)count, "100", "20000", NULL };

	CHECK(session_wait(&recording->session, session_start(&recording->session, program, arguments)) == 0);
}

/* Reports of other kinds are let pass: a full disk may show on both streams. */
static struct tf_report wait_for(struct tf_pump *pump, int32_t kind)
{
	struct tf_report report;

	do {
		CHECK(tf_pump_wait(pump, 5000, &report, 1) == 1);
	} while (report.kind != kind);
	return report;
}

/* A recording whose files are in a file system of its own with @options. */
static void open_on_small_disk(struct recording *recording, const char *options)
{
	struct tf_channel_attributes attributes = usual;
	uint64_t needed, available;

	recording_open(recording, usual);
	CHECK(mount("none", recording->root, "tmpfs", 0, options) == 0);
	/* The first files were made below the mount point: again, in the small file system. */
	tf_channel_free(recording->channel);
	tf_output_put(recording->output);
	session_release(&recording->session);
	CHECK(tf_output_create(recording->root, "ust/uid/0/64-bit", 0, 0, NULL, 0, &recording->output) == 0);
	attributes.name = "channel0";
	attributes.header_type = 2;
	memcpy(attributes.trace_uuid, recording->session.uuid, 16);
	CHECK(tf_channel_create(&attributes, recording->output, &recording->channel, &needed, &available) == 0);
	session_use(&recording->session, recording->channel);
}

static void close_on_small_disk(struct recording *recording)
{
	tf_channel_free(recording->channel);
	recording->channel = NULL;
	CHECK(umount2(recording->root, MNT_DETACH) == 0);
	recording_close(recording);
}

/* Packets that would fit wait for the metadata that does not. */
static void test_no_room_for_metadata(void)
{
	static char text[1 << 20];
	const int memory = metadata_memory_create();
	struct recording recording;
	struct stat status;
	char path[160];

	open_on_small_disk(&recording, "size=512k");
	CHECK(tf_output_set_metadata(recording.output, memory, recording.session.uuid) == 0);
	memset(text, ' ', sizeof(text));
	metadata_memory_append(memory, text, sizeof(text));
	run_program(&recording, "0", "10");
	CHECK(tf_channel_flush(recording.channel, true) == 0 && tf_channel_drain(recording.channel, 100) == 0);
	CHECK(tf_channel_error(recording.channel) == ENOSPC);
	CHECK(recording_books(&recording).packet_count == 0);
	CHECK(read_trace(recording.directory, 0).packet_count == 0);
	snprintf(path, sizeof(path), "%s/metadata", recording.directory);
	CHECK(stat(path, &status) == 0 && status.st_size == 0);

	CHECK(mount("none", recording.root, NULL, MS_REMOUNT, "size=16m") == 0);
	CHECK(tf_channel_drain(recording.channel, 5000) == 1 && tf_channel_error(recording.channel) == 0);
	CHECK(read_trace(recording.directory, 0).record_count == 10);
	CHECK(stat(path, &status) == 0 && status.st_size > (off_t)sizeof(text));
	close(memory);
	close_on_small_disk(&recording);
}

static void test_full_disk(void)
{
	struct recording recording;
	struct trace trace;
	struct tf_pump *pump;
	char filler[128];
	int fd;

	open_on_small_disk(&recording, "size=1m");
	CHECK(tf_pump_create(&pump) == 0 && tf_pump_add(pump, recording.channel, 1) == 0);
	snprintf(filler, sizeof(filler), "%s/filler", recording.root);
	fd = open(filler, O_CREAT | O_WRONLY, 0600);
	CHECK(fd >= 0 && posix_fallocate(fd, 0, 600 << 10) == 0);

	run_program(&recording, "0", "20000");
	CHECK(wait_for(pump, TF_REPORT_WRITE_FAILED).error == ENOSPC);
	CHECK(tf_channel_error(recording.channel) == ENOSPC);
	CHECK(recording_books(&recording).unwritten_packet_count > 0);
	CHECK(tf_channel_drain(recording.channel, 100) == 0);
	trace = read_trace(recording.directory, 0); /* whole packets only, each with its index entry */
	CHECK(trace.packet_count > 0 && trace.record_count < 20000);

	/* Room again: what was kept is written, and recording goes on. */
	CHECK(ftruncate(fd, 0) == 0 && mount("none", recording.root, NULL, MS_REMOUNT, "size=16m") == 0);
	wait_for(pump, TF_REPORT_WRITE_RECOVERED);
	run_program(&recording, "1", "1000");
	CHECK(tf_channel_flush(recording.channel, true) == 0 && tf_channel_drain(recording.channel, 5000) == 1);
	CHECK(tf_channel_error(recording.channel) == 0);
	CHECK(recording_books(&recording).unwritten_packet_count == 0);
	trace = read_trace(recording.directory, 0);
	CHECK(trace.record_count + trace.discarded_event_count == 21000 && trace.discarded_event_count > 0);
	CHECK(recording_books(&recording).discarded_event_count == trace.discarded_event_count);
	close(fd);
	tf_pump_remove(pump, recording.channel);
	tf_pump_free(pump);
	close_on_small_disk(&recording);
}

/* What an application with a grudge can do to memory it shares. */
enum attack { TRUNCATE, SCRIBBLE, MOVE_POSITION };

static void test_hostile_application(enum attack attack)
{
	const size_t size = tf_ring_buffer_size(usual.sub_buffer_size, usual.sub_buffer_count);
	struct recording recording;
	struct tf_channel_usage usage;
	struct tf_pump *pump;
	struct tf_report report;
	uint8_t *map;
	int fd;

	recording_open(&recording, usual);
	CHECK(tf_pump_create(&pump) == 0 && tf_pump_add(pump, recording.channel, 1) == 0);
	run_program(&recording, "0", "100");
	fd = recording.session.fds[1]; /* the shared memory of stream 0 */
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(map != MAP_FAILED);
	if (attack == TRUNCATE) {
		CHECK(ftruncate(fd, 0) == 0);
	} else if (attack == SCRIBBLE) {
		memset(map, 0x5a, size);
	} else {
		*(uint64_t *)(void *)(map + 152) += usual.sub_buffer_size; /* consumed */
		*(uint64_t *)(void *)(map + 128) += 2 * usual.sub_buffer_size; /* produced */
	}
	CHECK(write(recording.session.fds[2], "", 1) == 1);
	report = wait_for(pump, TF_REPORT_BROKEN);
	CHECK(report.cpu == 0 && report.error == EIO);
	/* Everything goes on, without that stream. */
	CHECK(tf_channel_flush(recording.channel, false) == 0 && tf_channel_flush(recording.channel, true) == 0);
	tf_channel_drain(recording.channel, 100);
	CHECK(tf_channel_usage(recording.channel, &usage) == 0);
	CHECK(tf_channel_repair(recording.channel, false) >= 0);
	recording_books(&recording);
	munmap(map, size);
	tf_pump_remove(pump, recording.channel);
	tf_pump_free(pump);
	recording_close(&recording);
}

/* Taken away between two looks: every call on its own meets it. */
static void test_truncation_anywhere(void)
{
	struct recording recording;
	struct tf_channel_usage usage;

	for (int call = 0; call < 4; call++) {
		recording_open(&recording, usual);
		run_program(&recording, "0", "100");
		for (size_t i = 1; i < recording.session.fd_count; i += 2)
			CHECK(ftruncate(recording.session.fds[i], 0) == 0);
		if (call == 0)
			CHECK(tf_channel_flush(recording.channel, true) == 0);
		else if (call == 1)
			CHECK(tf_channel_drain(recording.channel, 100) == 0 || true);
		else if (call == 2)
			CHECK(tf_channel_usage(recording.channel, &usage) == 0);
		else
			CHECK(tf_channel_repair(recording.channel, false) == 0);
		CHECK(tf_channel_error(recording.channel) == EIO);
		recording_close(&recording);
	}
	/* The close is the first to see it. */
	recording_open(&recording, usual);
	for (size_t i = 1; i < recording.session.fd_count; i += 2)
		CHECK(ftruncate(recording.session.fds[i], 0) == 0);
	recording_close(&recording);
}

static void test_no_room_in_shared_memory(void)
{
	struct tf_channel_attributes attributes = usual;
	struct tf_channel *channel;
	uint64_t needed, available;

	attributes.name = "channel0";
	attributes.header_type = 2;
	CHECK(mount("none", "/dev/shm", "tmpfs", 0, "size=256k") == 0);
	CHECK(tf_channel_create(&attributes, NULL, &channel, &needed, &available) == -ENOSPC);
	CHECK(available == 256 << 10);
	CHECK(needed == tf_ring_buffer_size(65536, 4) * (uint64_t)tf_possible_cpu_count());
	attributes.sub_buffer_size = 12345;
	CHECK(tf_channel_create(&attributes, NULL, &channel, &needed, &available) == -EINVAL);
	CHECK(umount("/dev/shm") == 0);
}

int main(int argc, char **argv)
{
	program = argc > 1 ? argv[1] : "build/program";
	CHECK(tf_initialize() == 0 && tf_has_repair());
	test_hostile_application(TRUNCATE);
	test_hostile_application(SCRIBBLE);
	test_hostile_application(MOVE_POSITION);
	test_truncation_anywhere();
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 77; /* the others need mounts of their own */
	test_full_disk();
	test_no_room_for_metadata();
	test_no_room_in_shared_memory();
	return 0;
}
