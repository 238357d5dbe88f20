/*
 * Records real programs through the library, and prints what it cost.
 *
 *     record PROGRAM DIRECTORY SUB_BUFFER_SIZE SUB_BUFFER_COUNT is_overwrite PROGRAM_COUNT COUNT PAYLOAD_SIZE [RATE [END]]
 */
#include "../tests/session.h"

#include <tracefleet/pump.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
	struct tf_channel_attributes attributes = { .name = "channel0", .header_type = 2 };
	struct tf_stream_books books[64];
	uint64_t needed, available, bytes = 0, packets = 0, discarded = 0, lost = 0;
	struct session session;
	struct tf_channel *channel;
	struct tf_output *output;
	struct tf_pump *pump;
	char number[16], *arguments[7];
	double cpu, begin, duration, drained;
	int ret, program_count;

	if (argc < 9)
		return 2;
	ret = tf_initialize();
	if (ret < 0)
		return 1;
	session_open(&session);
	memcpy(attributes.trace_uuid, session.uuid, 16);
	attributes.sub_buffer_size = strtoull(argv[3], NULL, 10);
	attributes.sub_buffer_count = strtoull(argv[4], NULL, 10);
	attributes.is_overwrite = atoi(argv[5]);
	program_count = atoi(argv[6]);
	tf_output_create(argv[2], "ust/uid/0/64-bit", 0, 0, NULL, 0, &output);
	ret = tf_channel_create(&attributes, output, &channel, &needed, &available);
	if (ret < 0) {
		fprintf(stderr, "create: %s\n", strerror(-ret));
		return 1;
	}
	session_write_metadata(&session, output);
	session_use(&session, channel);
	tf_pump_create(&pump);
	tf_pump_add(pump, channel, 1);
	cpu = cpu_seconds();
	begin = seconds();
	for (int i = 0; i < program_count; i++) {
		snprintf(number, sizeof(number), "%d", i);
		arguments[0] = argv[1];
		arguments[1] = number;
		for (int j = 2; j < 7; j++)
			arguments[j] = j + 5 < argc ? argv[j + 5] : NULL;
		arguments[6] = NULL;
		session_start(&session, argv[1], arguments);
	}
	for (int i = 0; i < program_count; i++)
		session_wait(&session, i);
	duration = seconds() - begin;
	tf_channel_flush(channel, true);
	drained = seconds();
	ret = tf_channel_drain(channel, 5000);
	drained = seconds() - drained;
	if (ret == 0) {
		printf("repaired %d\n", tf_channel_repair(channel, false));
		ret = tf_channel_drain(channel, 5000);
	}
	cpu = cpu_seconds() - cpu;
	tf_pump_remove(pump, channel);
	tf_pump_free(pump);
	tf_channel_books(channel, books, (size_t)tf_possible_cpu_count());
	for (int i = 0; i < tf_possible_cpu_count(); i++) {
		packets += books[i].packet_count;
		bytes += books[i].bytes;
		discarded += books[i].discarded_event_count;
		lost += books[i].lost_packet_count;
	}
	printf("complete=%d packets=%lu MB=%.1f discarded=%lu lost-packets=%lu | cpu %.3f s, %.3f s/GB | %.2f s, %.0f MB/s, stop %.3f s\n",
	       ret, packets, (double)bytes * 1e-6, discarded, lost, cpu, cpu / ((double)bytes * 1e-9), duration,
	       (double)bytes * 1e-6 / duration, drained);
	tf_channel_free(channel);
	tf_output_put(output);
	session_close(&session);
	return ret != 1;
}
