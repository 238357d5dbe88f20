/* What programs emit is in the trace, or counted. */
#include "trace.h"

#include <tracefleet/pump.h>

#include <string.h>

static const char *program;

static void record(struct tf_channel_attributes attributes, const char *count, const char *rate, int file_limit,
		   struct trace *trace)
{
	struct recording recording;
	struct tf_stream_books books;
	struct tf_report report;
	struct tf_pump *pump;

	recording_open(&recording, attributes);
	CHECK(tf_pump_create(&pump) == 0);
	CHECK(tf_pump_add(pump, recording.channel, 7) == 0);
	CHECK(tf_pump_add(pump, recording.channel, 8) < 0);
	for (int i = 0; i < 2; i++) {
		char writer[2] = { (char)('0' + i), '\0' };
		char *arguments[] = { "program", writer, (char *)count, "100", (char *)rate, NULL };

		session_start(&recording.session, program, arguments);
	}
	tf_channel_join_pages(recording.channel); /* under the writers' hands */
	for (int i = 0; i < 2; i++)
		CHECK(session_wait(&recording.session, i) == 0);
	CHECK(tf_channel_flush(recording.channel, true) == 0);
	CHECK(tf_channel_drain(recording.channel, 10000) == 1);
	/* Nothing is left to flush, and a second final flush adds no packet. */
	books = recording_books(&recording);
	CHECK(tf_channel_flush(recording.channel, true) == 0 && tf_channel_flush(recording.channel, false) == 0);
	CHECK(tf_channel_drain(recording.channel, 10000) == 1);
	CHECK(recording_books(&recording).packet_count == books.packet_count);
	session_release(&recording.session);
	CHECK(tf_pump_wait(pump, 5000, &report, 1) == 1);
	CHECK(report.kind == TF_REPORT_HUNG_UP && report.token == 7 && report.cpu == -1);
	CHECK(tf_pump_remove(pump, recording.channel) == 0);
	CHECK(tf_pump_remove(pump, recording.channel) < 0);
	tf_pump_free(pump);
	tf_channel_close(recording.channel);
	tf_channel_join_pages(recording.channel);
	CHECK(tf_channel_flush(recording.channel, true) < 0);
	*trace = read_trace(recording.directory, file_limit);
	if (attributes.trace_file_count == 0)
		CHECK(trace->packet_count == books.packet_count);
	CHECK(trace->discarded_event_count == books.discarded_event_count);
	CHECK(trace->lost_packet_count == books.lost_packet_count || attributes.trace_file_count > 0);
	recording_close(&recording);
}

int main(int argc, char **argv)
{
	const struct tf_channel_attributes usual = { .sub_buffer_size = 131072, .sub_buffer_count = 4 };
	struct tf_channel_attributes attributes;
	struct trace trace;

	program = argc > 1 ? argv[1] : "build/program";
	CHECK(tf_initialize() == 0 && tf_has_repair());

	/* Slow enough to lose nothing, then as fast as it goes: all there or counted. */
	record(usual, "30000", "50000", 0, &trace);
	CHECK(trace.record_counts[0] + trace.record_counts[1] + trace.discarded_event_count == 60000);
	record(usual, "300000", "0", 0, &trace);
	CHECK(trace.record_count + trace.discarded_event_count == 600000);

	attributes = usual;
	attributes.sub_buffer_size = 524288; /* and with them large pages, where there are any */
	record(attributes, "300000", "0", 0, &trace);
	CHECK(trace.record_count + trace.discarded_event_count == 600000);

	attributes = usual;
	attributes.sub_buffer_size = 4096; /* and with them the packets of one page, many to a write */
	attributes.sub_buffer_count = 256;
	record(attributes, "30000", "0", 0, &trace);
	CHECK(trace.record_count + trace.discarded_event_count == 60000);

	attributes = usual;
	attributes.is_overwrite = true;
	record(attributes, "100000", "0", 0, &trace);
	if (trace.lost_packet_count == 0)
		CHECK(trace.record_count + trace.discarded_event_count == 200000);
	else
		CHECK(trace.record_count + trace.discarded_event_count < 200000);

	attributes = usual;
	attributes.trace_file_size = 500000;
	record(attributes, "20000", "20000", 100, &trace);
	CHECK(trace.file_count >= 10 && trace.record_count + trace.discarded_event_count == 40000);

	attributes = usual;
	attributes.read_timer_period_us = 10000;
	attributes.switch_timer_period_us = 5000;
	record(attributes, "10000", "10000", 0, &trace);
	CHECK(trace.packet_count >= 40 && trace.record_count + trace.discarded_event_count == 20000);
	return 0;
}
