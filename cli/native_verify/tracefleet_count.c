/*
 * tracefleet-count: how many event records each data stream of a CTF trace holds.
 *
 *	tracefleet-count TRACE-DIRECTORY [PART PARTS]
 *
 * `tracefleet verify` runs it, so that no event record is ever touched by Python. libbabeltrace2's own
 * source.ctf.fs decodes the trace, as it does for every other reader; a sink of ours counts.
 *
 * With PART (from 0) and PARTS it reads every PARTS-th stream only: several of these share the work.
 *
 * Standard output, one line per data stream, fields separated by tabs:
 *
 *	stream	CLASS-ID	INSTANCE-ID	EVENT-RECORDS	PACKETS	ok
 *	stream	CLASS-ID	INSTANCE-ID	EVENT-RECORDS	PACKETS	error	REASON
 *
 * A stream that cannot be read to its end does not stop the others. Exit status: 0, all streams were read to
 * their end; 1, some were not; 2, the trace cannot be read at all (the reason is on standard error).
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <babeltrace2/babeltrace.h>

enum {
	EXIT_ALL_READ = 0,
	EXIT_SOME_UNREADABLE = 1,
	EXIT_UNREADABLE = 2,
};

struct stream_count {
	bool has_stream;
	uint64_t class_id;
	uint64_t instance_id;
	uint64_t event_records;
	uint64_t packets;
};

struct counter {
	uint64_t part;
	uint64_t parts;
	uint64_t stream_count; /* of this part */
	bt_message_iterator **iterators; /* one per input port of the sink */
	bool is_some_unreadable;
};

/* Print what libbabeltrace2 holds about the last error, on one line, and clear it. */
static void print_reason(FILE *out)
{
	const bt_error *error = bt_current_thread_take_error();

	if (!error) {
		fputs("unknown reason", out);
		return;
	}
	/* The first cause is the one nearest to the data. */
	if (bt_error_get_cause_count(error) > 0) {
		const char *at = bt_error_cause_get_message(bt_error_borrow_cause_by_index(error, 0));

		for (; *at; at++)
			fputc((unsigned char) *at < ' ' ? ' ' : *at, out);
	}
	bt_error_release(error);
}

static void count_message(struct stream_count *count, const bt_message *message)
{
	const bt_stream *stream;

	switch (bt_message_get_type(message)) {
	case BT_MESSAGE_TYPE_EVENT:
		count->event_records++;
		break;
	case BT_MESSAGE_TYPE_PACKET_BEGINNING:
		count->packets++;
		break;
	case BT_MESSAGE_TYPE_STREAM_BEGINNING:
		stream = bt_message_stream_beginning_borrow_stream_const(message);
		count->has_stream = true;
		count->instance_id = bt_stream_get_id(stream);
		count->class_id = bt_stream_class_get_id(bt_stream_borrow_class_const(stream));
		break;
	default:
		break;
	}
}

/* Read one data stream to its end, and print its line. */
static void count_stream(struct counter *counter, bt_message_iterator *iterator)
{
	bt_message_iterator_next_status status;
	struct stream_count count = { .has_stream = false };

	for (;;) {
		bt_message_array_const messages;
		uint64_t message_count;

		status = bt_message_iterator_next(iterator, &messages, &message_count);
		if (status == BT_MESSAGE_ITERATOR_NEXT_STATUS_AGAIN)
			continue;
		if (status != BT_MESSAGE_ITERATOR_NEXT_STATUS_OK)
			break;
		for (uint64_t i = 0; i < message_count; i++) {
			count_message(&count, messages[i]);
			bt_message_put_ref(messages[i]);
		}
	}
	if (status == BT_MESSAGE_ITERATOR_NEXT_STATUS_END && !count.has_stream)
		return;
	printf("stream\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\t", count.class_id, count.instance_id,
	       count.event_records, count.packets);
	if (status == BT_MESSAGE_ITERATOR_NEXT_STATUS_END) {
		puts("ok");
		return;
	}
	counter->is_some_unreadable = true;
	fputs("error\t", stdout);
	print_reason(stdout);
	putchar('\n');
}

static bt_component_class_initialize_method_status initialize(bt_self_component_sink *self,
							      bt_self_component_sink_configuration *configuration,
							      const bt_value *parameters, void *data)
{
	struct counter *counter = data;
	char name[32];

	(void) configuration;
	(void) parameters;
	bt_self_component_set_data(bt_self_component_sink_as_self_component(self), counter);
	for (uint64_t i = 0; i < counter->stream_count; i++) {
		snprintf(name, sizeof(name), "%" PRIu64, i);
		if (bt_self_component_sink_add_input_port(self, name, NULL, NULL) !=
		    BT_SELF_COMPONENT_ADD_PORT_STATUS_OK)
			return BT_COMPONENT_CLASS_INITIALIZE_METHOD_STATUS_ERROR;
	}
	return BT_COMPONENT_CLASS_INITIALIZE_METHOD_STATUS_OK;
}

static bt_component_class_sink_graph_is_configured_method_status graph_is_configured(bt_self_component_sink *self)
{
	struct counter *counter = bt_self_component_get_data(bt_self_component_sink_as_self_component(self));

	for (uint64_t i = 0; i < counter->stream_count; i++) {
		bt_self_component_port_input *port = bt_self_component_sink_borrow_input_port_by_index(self, i);

		if (bt_message_iterator_create_from_sink_component(self, port, &counter->iterators[i]) !=
		    BT_MESSAGE_ITERATOR_CREATE_FROM_SINK_COMPONENT_STATUS_OK)
			return BT_COMPONENT_CLASS_SINK_GRAPH_IS_CONFIGURED_METHOD_STATUS_ERROR;
	}
	return BT_COMPONENT_CLASS_SINK_GRAPH_IS_CONFIGURED_METHOD_STATUS_OK;
}

static bt_component_class_sink_consume_method_status consume(bt_self_component_sink *self)
{
	struct counter *counter = bt_self_component_get_data(bt_self_component_sink_as_self_component(self));

	for (uint64_t i = 0; i < counter->stream_count; i++) {
		count_stream(counter, counter->iterators[i]);
		BT_MESSAGE_ITERATOR_PUT_REF_AND_RESET(counter->iterators[i]);
	}
	return BT_COMPONENT_CLASS_SINK_CONSUME_METHOD_STATUS_END;
}

/* Add source.ctf.fs, which opens the trace. Returns NULL when it cannot. */
static const bt_component_source *add_source(bt_graph *graph, const char *directory)
{
	const bt_plugin *plugin = NULL;
	const bt_component_class_source *ctf_fs;
	const bt_component_source *source = NULL;
	bt_value *parameters = NULL;
	bt_value *inputs;

	if (bt_plugin_find("ctf", BT_FALSE, BT_FALSE, BT_TRUE, BT_FALSE, BT_TRUE, &plugin) !=
	    BT_PLUGIN_FIND_STATUS_OK)
		return NULL;
	ctf_fs = bt_plugin_borrow_source_component_class_by_name_const(plugin, "fs");
	parameters = bt_value_map_create();
	if (!ctf_fs || !parameters)
		goto end;
	if (bt_value_map_insert_empty_array_entry(parameters, "inputs", &inputs) !=
		    BT_VALUE_MAP_INSERT_ENTRY_STATUS_OK ||
	    bt_value_array_append_string_element(inputs, directory) != BT_VALUE_ARRAY_APPEND_ELEMENT_STATUS_OK)
		goto end;
	if (bt_graph_add_source_component(graph, ctf_fs, "trace", parameters, BT_LOGGING_LEVEL_NONE, &source) !=
	    BT_GRAPH_ADD_COMPONENT_STATUS_OK)
		source = NULL;
end:
	bt_value_put_ref(parameters);
	bt_plugin_put_ref(plugin); /* the component keeps what it needs of it */
	return source;
}

/* Add the counting sink, and connect each data stream to a port of its own: there is nothing to merge. */
static bool add_sink(bt_graph *graph, const bt_component_source *source, struct counter *counter)
{
	bt_component_class_sink *sink_class = bt_component_class_sink_create("counter", consume);
	const bt_component_sink *sink;
	bool is_added = false;

	if (!sink_class)
		return false;
	bt_component_class_sink_set_initialize_method(sink_class, initialize);
	bt_component_class_sink_set_graph_is_configured_method(sink_class, graph_is_configured);
	if (bt_graph_add_sink_component_with_initialize_method_data(graph, sink_class, "counter", NULL, counter,
								    BT_LOGGING_LEVEL_NONE, &sink) !=
	    BT_GRAPH_ADD_COMPONENT_STATUS_OK)
		goto end;
	for (uint64_t i = 0; i < counter->stream_count; i++) {
		uint64_t port = counter->part + i * counter->parts;

		if (bt_graph_connect_ports(graph,
					   bt_component_source_borrow_output_port_by_index_const(source, port),
					   bt_component_sink_borrow_input_port_by_index_const(sink, i), NULL) !=
		    BT_GRAPH_CONNECT_PORTS_STATUS_OK)
			goto end;
	}
	is_added = true;
end:
	bt_component_class_sink_put_ref(sink_class);
	return is_added;
}

static int count_trace(bt_graph *graph, const char *directory, uint64_t part, uint64_t parts)
{
	struct counter counter = { .part = part, .parts = parts };
	const bt_component_source *source = add_source(graph, directory);
	uint64_t port_count;
	int status = EXIT_UNREADABLE;

	if (!source)
		return EXIT_UNREADABLE;
	port_count = bt_component_source_get_output_port_count(source);
	counter.stream_count = part < port_count ? (port_count - part + parts - 1) / parts : 0;
	if (counter.stream_count == 0)
		return EXIT_ALL_READ;
	counter.iterators = calloc(counter.stream_count, sizeof(*counter.iterators));
	if (!counter.iterators)
		return EXIT_UNREADABLE;
	if (add_sink(graph, source, &counter) && bt_graph_run(graph) == BT_GRAPH_RUN_STATUS_OK)
		status = counter.is_some_unreadable ? EXIT_SOME_UNREADABLE : EXIT_ALL_READ;
	for (uint64_t i = 0; i < counter.stream_count; i++)
		bt_message_iterator_put_ref(counter.iterators[i]);
	free(counter.iterators);
	return status;
}

int main(int argc, char **argv)
{
	bt_graph *graph;
	uint64_t part = 0;
	uint64_t parts = 1;
	int status = EXIT_UNREADABLE;

	if (argc == 4) {
		part = strtoull(argv[2], NULL, 10);
		parts = strtoull(argv[3], NULL, 10);
	}
	if ((argc != 2 && argc != 4) || part >= parts) {
		fprintf(stderr, "Usage: tracefleet-count TRACE-DIRECTORY [PART PARTS]\n");
		return EXIT_UNREADABLE;
	}
	bt_logging_set_global_level(BT_LOGGING_LEVEL_NONE);
	graph = bt_graph_create(0);
	if (graph)
		status = count_trace(graph, argv[1], part, parts);
	if (status == EXIT_UNREADABLE) {
		print_reason(stderr);
		fputc('\n', stderr);
	}
	bt_graph_put_ref(graph);
	return status;
}
