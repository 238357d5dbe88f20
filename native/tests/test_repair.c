/* Programs that die inside an event record: the buffer goes on, and the books balance. */
#include "trace.h"

#include <tracefleet/pump.h>

#include <signal.h>
#include <string.h>
#include <sys/wait.h>

static const char *program;

static int start(struct recording *recording, const char *writer, const char *count, const char *size, const char *end)
{
	char *arguments[] = { "program", (char *)writer, (char *)count, (char *)size, "0", (char *)end, NULL };

	return session_start(&recording->session, program, arguments);
}

/* The program @app is inside its record when it has stopped itself there. */
static void wait_inside(struct recording *recording, int app)
{
	int status;

	CHECK(waitpid(recording->session.apps[app].pid, &status, WUNTRACED) > 0 && WIFSTOPPED(status));
}

static void end_of(struct recording *recording, uint64_t emitted, int repaired)
{
	struct trace trace;

	CHECK(tf_channel_flush(recording->channel, true) == 0);
	CHECK(tf_channel_drain(recording->channel, 2000) == (repaired == 0));
	CHECK(tf_channel_repair(recording->channel, false) == repaired);
	CHECK(tf_channel_drain(recording->channel, 2000) == 1);
	trace = read_trace(recording->directory, 0);
	CHECK(trace.record_count + trace.discarded_event_count == emitted);
	CHECK(recording_books(recording).discarded_event_count == trace.discarded_event_count);
	CHECK(trace.lost_packet_count == 0);
}

/* As a session daemon does: a repair is exact when it knows how the records are laid out. */
static void tell_layouts(struct recording *recording)
{
	/* 12 bytes of writer and number, then the payload, a sequence with an u32 length. */
	static const uint8_t number_layout[] = { 1, 12, 0, 0, 0, 3, 4, 0, 1, 0, 0, 0 };

	CHECK(tf_channel_set_record_layout(recording->channel, -1, NULL, 0) == 0);
	CHECK(tf_channel_set_record_layout(recording->channel, 0, number_layout, sizeof(number_layout)) == 0);
}

/* The last record of the buffer has no end. */
static void test_death_at_the_end(struct tf_channel_attributes attributes)
{
	struct recording recording;
	int app;

	recording_open(&recording, attributes);
	tell_layouts(&recording);
	app = start(&recording, "0", "100", "100", "die");
	CHECK(WTERMSIG(session_wait(&recording.session, app)) == SIGSEGV);
	end_of(&recording, 101, 1);
	CHECK(recording_books(&recording).discarded_event_count == 1);
	recording_close(&recording);
}

/* Others write on behind the hole: in the same sub-buffer, and until the buffer is full. */
static void test_records_behind_the_hole(struct tf_channel_attributes attributes, const char *count)
{
	struct recording recording;
	int dead, living;

	recording_open(&recording, attributes);
	tell_layouts(&recording);
	dead = start(&recording, "0", "10", "40", "hang");
	wait_inside(&recording, dead);
	living = start(&recording, "1", count, "100", "");
	CHECK(session_wait(&recording.session, living) == 0);
	kill(recording.session.apps[dead].pid, SIGKILL);
	session_wait(&recording.session, dead);
	end_of(&recording, 11 + strtoull(count, NULL, 10), 1);
	/* The buffer is of use again. */
	CHECK(tf_channel_resume(recording.channel) == 0);
	living = start(&recording, "2", "200", "100", "");
	CHECK(session_wait(&recording.session, living) == 0);
	end_of(&recording, 211 + strtoull(count, NULL, 10), 0);
	recording_close(&recording);
}

/* Two dead writers in one sub-buffer, with records of one size, and no layouts: what was committed before them is kept. */
static void test_two_holes(struct tf_channel_attributes attributes)
{
	struct recording recording;
	int first, second, living;
	struct trace trace;

	recording_open(&recording, attributes);
	first = start(&recording, "0", "5", "100", "hang");
	wait_inside(&recording, first);
	living = start(&recording, "1", "3", "100", "");
	CHECK(session_wait(&recording.session, living) == 0);
	second = start(&recording, "2", "5", "100", "hang");
	wait_inside(&recording, second);
	living = start(&recording, "3", "4", "100", "");
	CHECK(session_wait(&recording.session, living) == 0);
	kill(recording.session.apps[first].pid, SIGKILL);
	kill(recording.session.apps[second].pid, SIGKILL);
	session_wait(&recording.session, first);
	session_wait(&recording.session, second);
	/* Nobody can tell where records begin behind the first hole, so their number is an estimate. */
	CHECK(tf_channel_flush(recording.channel, true) == 0);
	CHECK(tf_channel_drain(recording.channel, 2000) == 0);
	CHECK(tf_channel_repair(recording.channel, false) == 1);
	CHECK(tf_channel_drain(recording.channel, 2000) == 1);
	trace = read_trace(recording.directory, 0);
	CHECK(trace.record_count == 5 && trace.record_counts[0] == 5 && trace.discarded_event_count >= 2);
	recording_close(&recording);
}

/* A writer that is only slow: nothing to repair, nothing lost. */
static void test_slow_writer(struct tf_channel_attributes attributes)
{
	struct recording recording;
	int app;

	recording_open(&recording, attributes);
	tell_layouts(&recording);
	app = start(&recording, "0", "10", "40", "hang");
	wait_inside(&recording, app);
	CHECK(tf_channel_flush(recording.channel, false) == 0);
	CHECK(tf_channel_drain(recording.channel, 50) == 0);
	CHECK(tf_channel_repair(recording.channel, true) == 0); /* no jam was reported: hands off */
	kill(recording.session.apps[app].pid, SIGKILL);
	session_wait(&recording.session, app);
	end_of(&recording, 11, 1);
	recording_close(&recording);
}

/* The pump notices, and the repair works under its eyes while others record. */
static void test_jam_report(struct tf_channel_attributes attributes)
{
	struct recording recording;
	struct tf_report report;
	struct tf_pump *pump;
	int dead, living;

	recording_open(&recording, attributes);
	tell_layouts(&recording);
	CHECK(tf_pump_create(&pump) == 0 && tf_pump_add(pump, recording.channel, 1) == 0);
	dead = start(&recording, "0", "10", "40", "hang");
	wait_inside(&recording, dead);
	living = start(&recording, "1", "10000", "100", "wait");
	CHECK(tf_pump_wait(pump, 5000, &report, 1) == 1 && report.kind == TF_REPORT_JAMMED);
	kill(recording.session.apps[dead].pid, SIGKILL);
	session_wait(&recording.session, dead);
	CHECK(tf_channel_repair(recording.channel, true) == 1);
	CHECK(tf_channel_repair(recording.channel, true) == 0);
	session_wait(&recording.session, living);
	end_of(&recording, 10011, 0);
	CHECK(tf_pump_remove(pump, recording.channel) == 0);
	tf_pump_free(pump);
	recording_close(&recording);
}

int main(int argc, char **argv)
{
	const struct tf_channel_attributes discard = { .sub_buffer_size = 4096, .sub_buffer_count = 8 };
	const struct tf_channel_attributes overwrite = { .sub_buffer_size = 4096,
							 .sub_buffer_count = 8,
							 .is_overwrite = true };

	program = argc > 1 ? argv[1] : "build/program";
	CHECK(tf_initialize() == 0 && tf_has_repair());
	stay_on_one_cpu();
	test_death_at_the_end(discard);
	test_death_at_the_end(overwrite);
	test_records_behind_the_hole(discard, "5");
	test_records_behind_the_hole(discard, "100");
	test_records_behind_the_hole(discard, "5000");
	test_records_behind_the_hole(overwrite, "100");
	test_records_behind_the_hole(overwrite, "5000");
	test_two_holes(discard);
	test_two_holes(overwrite);
	test_slow_writer(discard);
	test_jam_report(discard);
	test_jam_report(overwrite);
	return 0;
}
