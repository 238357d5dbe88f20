/*
 * Generated packets whose writers died inside records: only whole records are kept, no committed one is lost uncounted,
 * and no more is counted than records were reserved. `test_recovery PROGRAM FIRST LAST` takes other seeds.
 */
#include "../src/recovery.h"

#include "trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PACKET_SIZE_MAX 60000
#define RECORDS_MAX 2000
#define BEGIN 84 /* behind the packet header */

enum event { NUMBERED, BULKY, COPIED, EVENT_COUNT };

/* Two int32, an int64, a string; an int64, a sequence with an u32 length; an int64 and 64 bytes. */
static const uint8_t numbered_layout[] = { 1, 16, 0, 0, 0, 2 }, bulky_layout[] = { 1, 8, 0, 0, 0, 3, 4, 0, 1, 0, 0, 0 },
		     copied_layout[] = { 1, 72, 0, 0, 0 };

struct reserved {
	size_t begin, end;
	uint64_t time;
	bool is_extended, is_dead;
};

struct packet {
	uint8_t bytes[PACKET_SIZE_MAX];
	size_t size;
	int header_type;
	uint64_t begin, end, time, range;
	size_t prefix, missing;
	struct reserved records[RECORDS_MAX];
	int count, dead;
};

static uint64_t random_state;

static uint64_t draw(uint64_t below)
{
	/* splitmix64 */
	uint64_t z = random_state += UINT64_C(0x9E3779B97F4A7C15);

	z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
	return (z ^ z >> 31) % below;
}

static size_t put(struct packet *packet, size_t at, const void *bytes, size_t size)
{
	memcpy(packet->bytes + at, bytes, size);
	return at + size;
}

static size_t put_header(struct packet *packet, size_t at, uint32_t id, uint64_t previous_time)
{
	const bool is_large = packet->header_type == 2;

	if (packet->time - previous_time >= packet->range) {
		at = is_large ? put(packet, at, &(uint16_t){ UINT16_MAX }, 2) : put(packet, at, &(uint8_t){ 31 }, 1);
		at = put(packet, at, &id, 4);
		return put(packet, at, &packet->time, 8);
	}
	if (is_large) {
		at = put(packet, at, &(uint16_t){ (uint16_t)id }, 2);
		return put(packet, at, &(uint32_t){ (uint32_t)packet->time }, 4);
	}
	return put(packet, at, &(uint32_t){ id | (uint32_t)packet->time << 5 }, 4);
}

/* One record behind the others. A dead writer's may have only the header, and a part of the fields. */
static void add_record(struct packet *packet, enum event event, uint64_t step, bool is_dead)
{
	const size_t at = packet->size;
	const uint64_t previous_time = packet->time;
	const int64_t number = (int64_t)draw(300);
	size_t fields, end;
	char text[128];

	packet->time += step;
	fields = end = put_header(packet, at, event, previous_time);
	switch (event) {
	case NUMBERED:
		end = put(packet, end, &(int32_t){ (int32_t)draw(40000) }, 4);
		end = put(packet, end, &(int32_t){ (int32_t)draw(3) }, 4);
		end = put(packet, end, &number, 8);
		end = put(packet, end, text, 1 + (size_t)snprintf(text, sizeof(text), "record %d", (int)number));
		break;
	case BULKY:
		memset(text, 'x', sizeof(text));
		end = put(packet, end, &number, 8);
		end = put(packet, end, &(uint32_t){ (uint32_t)(number % 100) }, 4);
		end = put(packet, end, text, (size_t)(number % 100));
		break;
	default:
		end = put(packet, end, &number, 8);
		memset(text, (int)draw(256), 64);
		end = put(packet, end, text, 64);
		break;
	}
	packet->size = end;
	CHECK(packet->count < RECORDS_MAX && end + 200 < PACKET_SIZE_MAX);
	packet->records[packet->count++] = (struct reserved){ .begin = at,
							       .end = end,
							       .time = packet->time,
							       .is_extended = packet->time - previous_time >= packet->range,
							       .is_dead = is_dead };
	if (!is_dead)
		return;
	fields += draw(end - fields + 1);
	memset(packet->bytes + fields, 0, end - fields);
	if (packet->dead++ == 0)
		packet->prefix = at;
	packet->missing += end - at;
}

static void generate(struct packet *packet, uint64_t seed)
{
	static const uint64_t steps[] = { 300, 50000, 3000000, 200000000 };
	uint64_t step;
	int dead;

	random_state = seed;
	step = steps[draw(4)];
	dead = 1 + (int)draw(6);
	memset(packet, 0, sizeof(*packet));
	packet->header_type = 1 + (int)draw(2);
	packet->range = UINT64_C(1) << (packet->header_type == 2 ? 32 : 27);
	/* Near the point where short times begin anew, in one packet of four. */
	packet->begin = (UINT64_C(190) << 32) + (draw(4) == 0 ? -draw(50 * step + 1) : draw(UINT64_C(1) << 32));
	packet->time = packet->begin;
	packet->size = BEGIN;
	for (int i = (int)draw(5); i >= 0; i--)
		add_record(packet, NUMBERED, 1 + draw(step), false);
	while (packet->dead < dead) {
		add_record(packet, draw(3) ? COPIED : (enum event)draw(EVENT_COUNT), 1 + draw(step), true);
		for (int i = (int)draw(60); i >= 0; i--)
			add_record(packet, draw(4) ? NUMBERED : (enum event)draw(EVENT_COUNT), 1 + draw(step), false);
	}
	packet->end = packet->time + draw(step);
}

static struct tf_record_layouts *make_layouts(int header_type)
{
	struct tf_record_layouts *layouts = tf_record_layouts_create(header_type);

	CHECK(layouts != NULL);
	CHECK(tf_record_layouts_set(layouts, TF_CONTEXT_LAYOUT, NULL, 0) == 0);
	CHECK(tf_record_layouts_set(layouts, NUMBERED, numbered_layout, sizeof(numbered_layout)) == 0);
	CHECK(tf_record_layouts_set(layouts, BULKY, bulky_layout, sizeof(bulky_layout)) == 0);
	CHECK(tf_record_layouts_set(layouts, COPIED, copied_layout, sizeof(copied_layout)) == 0);
	return layouts;
}

/* How many records are kept, or -1 when something else is, or when a reader would take one for another time's. */
static int count_kept(const struct packet *packet, const struct tf_recovery *recovery)
{
	uint64_t time = packet->begin;
	int count = 0, i = 0;

	for (size_t segment = 0; segment < recovery->kept_count; segment++) {
		const struct tf_segment *kept = &recovery->kept[segment];
		size_t at = kept->begin;

		while (i < packet->count && packet->records[i].begin < at)
			i++;
		for (; at < kept->end && i < packet->count && packet->records[i].begin == at; i++, count++) {
			const struct reserved *record = &packet->records[i];

			if (!record->is_extended && record->time - time >= packet->range)
				return -1;
			time = record->time;
			at = record->end;
		}
		if (at != kept->end)
			return -1;
	}
	return count;
}

static bool is_verbose;
static int failures, plain_failures, exact;

static void check(uint64_t seed, struct tf_record_layouts *layouts, const struct packet *packet)
{
	const int committed = packet->count - packet->dead;
	struct tf_damage_search search = { .bytes = packet->bytes,
					   .begin = BEGIN,
					   .prefix = packet->prefix,
					   .data_end = packet->size,
					   .missing = packet->missing,
					   .time_begin = packet->begin,
					   .time_end = packet->end };
	struct tf_recovery recovery = { .kept = { { BEGIN, packet->prefix } }, .kept_count = 1 };
	bool is_recovered = tf_records_recover(layouts, &search, &recovery);
	int kept, books;

	if (!is_recovered) {
		recovery = (struct tf_recovery){ .kept = { { BEGIN, packet->prefix } }, .kept_count = 1 };
		recovery.lost_count = tf_records_count_at_most(layouts, &search);
	}
	kept = count_kept(packet, &recovery);
	books = kept + (int)recovery.lost_count - committed;
	exact += books == packet->dead;
	if (kept < 0 || books < 0 || (is_recovered && books > packet->dead)) {
		failures++;
		plain_failures += packet->dead <= 3 && packet->end - packet->begin < packet->range;
		if (!is_verbose)
			return;
		printf("seed %" PRIu64 ": header %d, lasted %" PRIu64 ", %d committed, %d dead: %s, %d kept, %" PRIu64
		       " lost\n",
		       seed, packet->header_type, packet->end - packet->begin, committed, packet->dead,
		       is_recovered ? "explained" : "unexplained", kept, recovery.lost_count);
	}
}

int main(int argc, char **argv)
{
	static struct packet packet;
	struct tf_record_layouts *layouts[] = { NULL, make_layouts(1), make_layouts(2) };
	const uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	const uint64_t last = argc > 3 ? strtoull(argv[3], NULL, 0) : first + 999;

	is_verbose = argc > 2;
	for (uint64_t seed = first; seed <= last; seed++) {
		generate(&packet, seed);
		check(seed, layouts[packet.header_type], &packet);
	}
	tf_record_layouts_free(layouts[1]);
	tf_record_layouts_free(layouts[2]);
	if (is_verbose)
		printf("%d failures, %d exact\n", failures, exact);
	/* Many dead writers, or times that tell nothing, may leave several explanations; else there is but one. */
	CHECK(plain_failures == 0);
	CHECK(failures <= (int)(last - first + 1) / 20);
	return 0;
}
