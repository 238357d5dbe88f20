/* What programs emit is in the trace of a relay daemon that acknowledges, or counted, whatever happens to the link. */
#include "intake_peer.h"

#include "fleet.h"

#include <tracefleet/pump.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define HANDLE_BASE 500

static const char *program;

/* A recording through a fleet, and a relay daemon's intake with the files of its streams. */
struct relayed {
	struct session session;
	struct tf_fleet *fleet;
	struct tf_output *output;
	struct tf_channel *channel;
	struct tf_pump *pump;
	struct tf_intake *intake;
	uint64_t connection_count;
	pthread_t reporter;
	bool is_over; /* atomic */
};

static void *take_reports(void *argument)
{
	struct relayed *relayed = argument;
	struct tf_intake_report reports[64];

	while (!__atomic_load_n(&relayed->is_over, __ATOMIC_ACQUIRE)) {
		const int count = tf_intake_wait(relayed->intake, 50, reports, 64);

		for (int i = 0; i < count; i++)
			CHECK(reports[i].kind != TF_INTAKE_HOLD);
	}
	return NULL;
}

static void set_files(struct relayed *relayed)
{
	char name[64], path[160];

	snprintf(path, sizeof(path), "%s/index", root);
	CHECK(mkdir(path, 0700) == 0);
	for (int cpu = 0; cpu < tf_possible_cpu_count(); cpu++) {
		struct tf_intake_target target;

		snprintf(name, sizeof(name), "channel0_%d", cpu);
		target = target_of(name, 0);
		snprintf(name, sizeof(name), "index/channel0_%d.idx", cpu);
		target.index_fd = open_file(name, 0);
		CHECK(write(target.index_fd, "\xc1\xf1\xdc\xc1\0\0\0\1\0\0\0\1\0\0\0\x48", 16) == 16);
		target.index_offset = 16;
		CHECK(tf_intake_set_target(relayed->intake, HANDLE_BASE + (uint64_t)cpu, &target) == 0);
	}
	CHECK(tf_intake_set_target(relayed->intake, HANDLE_BASE - 1, &(struct tf_intake_target){
		      .fd = open_file("metadata", 0),
		      .stop_net_seq = TF_INTAKE_NO_STOP,
		      .index_fd = -1 }) == 0);
}

/* All streams, from the oldest packet on that can be sent: what it has, it recognises. */
static void attach(struct relayed *relayed)
{
	const int cpu_count = tf_possible_cpu_count();
	struct tf_fleet_binding bindings[65];
	int ends[2];

	for (int key = 0; key <= cpu_count; key++) {
		struct tf_fleet_stream_state state;

		CHECK(tf_fleet_stream_state(relayed->fleet, (uint32_t)key, &state) == 0);
		bindings[key] = (struct tf_fleet_binding){ (uint32_t)key, HANDLE_BASE - 1 + (uint64_t)key,
							   state.acknowledged_sequence };
	}
	connect_tcp(ends);
	tf_intake_close(relayed->intake, relayed->connection_count); /* the latest one ends those before it */
	CHECK(tf_intake_add(relayed->intake, ends[1], ++relayed->connection_count, TF_INTAKE_FLEET, 0) == 0);
	CHECK(tf_fleet_attach(relayed->fleet, ends[0], bindings, (size_t)cpu_count + 1) == 0);
}

static void open_relayed(struct relayed *relayed, struct tf_channel_attributes attributes, bool has_spool)
{
	const int cpu_count = tf_possible_cpu_count();
	uint64_t needed, available;
	uint32_t keys[64];
	bool is_damaged;
	char path[160];

	memset(relayed, 0, sizeof(*relayed));
	session_open(&relayed->session);
	strcpy(root, "/tmp/tf-native-fleet-XXXXXX");
	CHECK(mkdtemp(root));
	relayed->intake = open_intake();
	set_files(relayed);
	pthread_create(&relayed->reporter, NULL, take_reports, relayed);
	snprintf(path, sizeof(path), "%s/spool", root);
	CHECK(mkdir(path, 0700) == 0);
	CHECK(tf_fleet_create(has_spool ? path : NULL, 1 << 30, &relayed->fleet, &is_damaged) == 0);
	CHECK(tf_fleet_add_stream(relayed->fleet) == 0);
	CHECK(tf_output_create_fleet(relayed->fleet, 0, &relayed->output) == 0);
	attributes.name = "channel0";
	attributes.header_type = 2;
	memcpy(attributes.trace_uuid, relayed->session.uuid, 16);
	CHECK(tf_channel_create(&attributes, relayed->output, &relayed->channel, &needed, &available) == 0);
	session_write_metadata(&relayed->session, relayed->output);
	for (int cpu = 0; cpu < cpu_count; cpu++)
		keys[cpu] = (uint32_t)tf_fleet_add_stream(relayed->fleet);
	CHECK(tf_channel_set_fleet_streams(relayed->channel, keys, (size_t)cpu_count - 1) == -EINVAL);
	CHECK(tf_channel_set_fleet_streams(relayed->channel, keys, (size_t)cpu_count) == 0);
	CHECK(tf_channel_set_fleet_streams(relayed->channel, keys, (size_t)cpu_count) == -EINVAL);
	session_use(&relayed->session, relayed->channel);
	CHECK(tf_pump_create(&relayed->pump) == 0);
	CHECK(tf_pump_add(relayed->pump, relayed->channel, 7) == 0);
}

static struct tf_stream_books books(struct relayed *relayed)
{
	struct tf_stream_books streams[64], sum = { 0 };
	const size_t count = (size_t)tf_possible_cpu_count();

	CHECK(tf_channel_books(relayed->channel, streams, count) == 0);
	for (size_t i = 0; i < count; i++) {
		sum.packet_count += streams[i].packet_count;
		sum.bytes += streams[i].bytes;
		sum.discarded_event_count += streams[i].discarded_event_count;
		sum.lost_packet_count += streams[i].lost_packet_count;
		sum.unwritten_packet_count += streams[i].unwritten_packet_count;
	}
	return sum;
}

static void start_program(struct relayed *relayed, int writer, const char *count, const char *rate)
{
	char name[2] = { (char)('0' + writer), '\0' };
	char *arguments[] = { "program", name, (char *)count, "100", (char *)rate, NULL };

	session_start(&relayed->session, program, arguments);
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
	(void)status;
	(void)type;
	(void)walk;
	return remove(path);
}

/* Nothing is read after it, and the files are gone. */
static void close_relayed(struct relayed *relayed)
{
	tf_pump_remove(relayed->pump, relayed->channel);
	tf_pump_free(relayed->pump);
	tf_channel_free(relayed->channel);
	tf_output_put(relayed->output);
	tf_fleet_put(relayed->fleet);
	__atomic_store_n(&relayed->is_over, true, __ATOMIC_RELEASE);
	pthread_join(relayed->reporter, NULL);
	tf_intake_free(relayed->intake);
	session_close(&relayed->session);
	nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* The books of both ends say the same as the files. Takes the channel out of its pump. */
static struct trace finish(struct relayed *relayed)
{
	struct tf_fleet_books sent;
	struct tf_stream_books kept;
	struct trace trace;
	uint64_t received = 0;

	CHECK(tf_channel_flush(relayed->channel, true) == 0);
	CHECK(tf_channel_drain(relayed->channel, 20000) == 1);
	for (int i = 0; !tf_fleet_is_settled(relayed->fleet, false); i++) { /* the metadata */
		CHECK(i < 20000);
		poll(NULL, 0, 1);
	}
	kept = books(relayed);
	tf_fleet_books(relayed->fleet, &sent);
	for (int cpu = 0; cpu < tf_possible_cpu_count(); cpu++)
		received += books_of(relayed->intake, HANDLE_BASE + (uint64_t)cpu).packet_count;
	CHECK(received == kept.packet_count && kept.unwritten_packet_count == 0);
	CHECK(sent.acknowledged_count == received + 1 && sent.sent_count <= sent.acknowledged_count);
	CHECK(sent.acknowledged_bytes == kept.bytes + size_of("metadata") && size_of("metadata") % 4096 == 0);
	trace = read_trace(root, 0);
	CHECK(trace.packet_count == received && trace.discarded_event_count == kept.discarded_event_count);
	CHECK(trace.lost_packet_count == kept.lost_packet_count);
	return trace;
}

static void record(struct tf_channel_attributes attributes, const char *count, const char *rate, bool is_flapping,
		   struct trace *trace)
{
	struct relayed relayed;
	int lost_count = 0;

	open_relayed(&relayed, attributes, false);
	attach(&relayed);
	for (int i = 0; i < 2; i++)
		start_program(&relayed, i, count, rate);
	for (; is_flapping && lost_count < 60; lost_count++) {
		struct tf_fleet_books sent;
		uint64_t sent_bytes;

		tf_fleet_books(relayed.fleet, &sent);
		sent_bytes = sent.sent_bytes;
		for (int i = 0; i < 100 && sent.sent_bytes < sent_bytes + 3 * attributes.sub_buffer_size; i++) {
			poll(NULL, 0, 1);
			tf_fleet_books(relayed.fleet, &sent);
		}
		if (lost_count % 2)
			tf_fleet_detach(relayed.fleet);
		else
			tf_intake_close(relayed.intake, relayed.connection_count);
		for (tf_fleet_books(relayed.fleet, &sent); sent.is_attached; tf_fleet_books(relayed.fleet, &sent))
			poll(NULL, 0, 1);
		attach(&relayed);
	}
	for (int i = 0; i < 2; i++)
		CHECK(session_wait(&relayed.session, i) == 0);
	*trace = finish(&relayed);
	close_relayed(&relayed);
}

/* The relay daemon reads and does not answer: the programs go on, and what was not acknowledged is unwritten. */
static void record_to_nobody(struct tf_channel_attributes attributes)
{
	struct tf_fleet_binding bindings[65];
	struct relayed relayed;
	struct tf_report report;
	struct tf_stream_books kept;
	int ends[2];

	open_relayed(&relayed, attributes, false);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	for (int key = 0; key <= tf_possible_cpu_count(); key++)
		bindings[key] = (struct tf_fleet_binding){ (uint32_t)key, (uint64_t)key, 0 };
	CHECK(tf_fleet_attach(relayed.fleet, ends[0], bindings, (size_t)tf_possible_cpu_count() + 1) == 0);
	start_program(&relayed, 0, "50000", "0");
	CHECK(session_wait(&relayed.session, 0) == 0);
	CHECK(tf_channel_flush(relayed.channel, true) == 0);
	CHECK(tf_channel_drain(relayed.channel, 50) == 0);
	CHECK(tf_pump_wait(relayed.pump, 10000, &report, 1) == 1);
	CHECK(report.kind == TF_REPORT_WRITE_FAILED && report.error == ETIMEDOUT && report.token == 7);
	CHECK(tf_channel_error(relayed.channel) == ETIMEDOUT);
	CHECK(tf_channel_drain(relayed.channel, 10000) == 0); /* at once, as it is known by now */
	kept = books(&relayed);
	CHECK(kept.packet_count == 0 && kept.unwritten_packet_count >= (uint64_t)tf_possible_cpu_count());
	if (!attributes.is_overwrite)
		CHECK(kept.unwritten_packet_count >= attributes.sub_buffer_count && kept.discarded_event_count > 0);
	CHECK(tf_pump_remove(relayed.pump, relayed.channel) == 0);
	tf_channel_close(relayed.channel);
	CHECK(books(&relayed).packet_count == 0);
	CHECK(books(&relayed).unwritten_packet_count >= kept.unwritten_packet_count);
	close_relayed(&relayed);
	close(ends[1]);
}

/* It comes only when the program has been over for a while, and gets all that fits into the buffers. */
static void record_before_anybody_is_there(struct tf_channel_attributes attributes)
{
	struct relayed relayed;
	struct trace trace;
	struct tf_report report;

	open_relayed(&relayed, attributes, false);
	start_program(&relayed, 0, "3000", "0");
	CHECK(session_wait(&relayed.session, 0) == 0);
	CHECK(tf_channel_flush(relayed.channel, true) == 0);
	CHECK(tf_pump_wait(relayed.pump, 10000, &report, 1) == 1 && report.kind == TF_REPORT_WRITE_FAILED);
	attach(&relayed);
	do {
		CHECK(tf_pump_wait(relayed.pump, 10000, &report, 1) == 1);
	} while (report.kind == TF_REPORT_WRITE_FAILED);
	CHECK(report.kind == TF_REPORT_WRITE_RECOVERED);
	for (int i = 0; tf_channel_error(relayed.channel) != 0; i++) { /* the streams of other CPUs */
		CHECK(i < 10000);
		poll(NULL, 0, 1);
	}
	trace = finish(&relayed);
	CHECK(trace.record_count + trace.discarded_event_count == 3000 && trace.record_count > 0);
	CHECK(tf_channel_error(relayed.channel) == 0);
	close_relayed(&relayed);
}

/* The relay daemon is away most of the time, and the buffers have room for a moment only: nothing is lost. */
static void record_into_the_spool(struct tf_channel_attributes attributes)
{
	struct relayed relayed;
	struct tf_fleet_books sent;
	struct trace trace;

	open_relayed(&relayed, attributes, true);
	for (int i = 0; i < 2; i++)
		start_program(&relayed, i, "60000", "20000");
	for (int i = 0; i < 10; i++) {
		attach(&relayed);
		poll(NULL, 0, 30 * i); /* a link that lives for so long */
		tf_fleet_detach(relayed.fleet);
		poll(NULL, 0, 100);
	}
	for (int i = 0; i < 2; i++)
		CHECK(session_wait(&relayed.session, i) == 0);
	/* With nobody there all is safe, and the books say so. */
	CHECK(tf_channel_flush(relayed.channel, true) == 0);
	CHECK(tf_channel_drain(relayed.channel, 20000) == 1);
	tf_fleet_books(relayed.fleet, &sent);
	CHECK(sent.spooled_count > 0 && !tf_fleet_is_settled(relayed.fleet, false));
	attach(&relayed);
	trace = finish(&relayed);
	CHECK(trace.record_count == 120000 && trace.discarded_event_count == 0);
	close_relayed(&relayed);
}

int main(int argc, char **argv)
{
	const struct tf_channel_attributes usual = { .sub_buffer_size = 131072, .sub_buffer_count = 4 };
	struct tf_channel_attributes attributes;
	struct trace trace;

	program = argc > 1 ? argv[1] : "build/program";
	CHECK(tf_initialize() == 0 && tf_has_repair());

	record(usual, "30000", "0", false, &trace);
	CHECK(trace.record_count + trace.discarded_event_count == 60000);
	record(usual, "100000", "50000", true, &trace);
	CHECK(trace.record_count + trace.discarded_event_count == 200000);

	attributes = usual;
	attributes.sub_buffer_size = 4096;
	attributes.sub_buffer_count = 256;
	record(attributes, "60000", "50000", true, &trace);
	CHECK(trace.record_count + trace.discarded_event_count == 120000);

	attributes = usual;
	attributes.is_overwrite = true;
	record(attributes, "60000", "50000", true, &trace);
	if (trace.lost_packet_count == 0)
		CHECK(trace.record_count + trace.discarded_event_count == 120000);
	else
		CHECK(trace.record_count + trace.discarded_event_count < 120000);

	attributes = usual;
	attributes.live_timer_period_us = 2000; /* and with it beacons */
	attributes.read_timer_period_us = 5000;
	record(attributes, "20000", "20000", true, &trace);
	CHECK(trace.record_count + trace.discarded_event_count == 40000);

	record_to_nobody(usual);
	attributes = usual;
	attributes.is_overwrite = true;
	record_to_nobody(attributes);
	record_before_anybody_is_there(usual);
	attributes = usual;
	attributes.sub_buffer_size = 65536;
	attributes.sub_buffer_count = 16; /* half of it for as long as a thread may have to wait for a processor */
	record_into_the_spool(attributes);
	return 0;
}
