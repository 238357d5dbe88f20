#include "recovery.h"

#include <stdlib.h>
#include <string.h>

/* Bounds of the effort; with all of them used it takes a fraction of a second. */
#define GUESSES_MAX 20000
#define PATHS_MAX 32
#define CELLS_MAX (1u << 27)

/* How unlikely: one dead writer, and what makes it less or more so. */
#define COST_DEAD 100
#define COST_NO_HEADER 200    /* it is the first that a writer writes */
#define COST_ODD_REST 350      /* behind the fields that can be read: not what nobody has written yet */
#define COST_STEP_BACK 20     /* the walk went on for a record, and came to an end only then */
#define BONUS_FIRST 10	      /* the tracer's own note ends here */
#define BONUS_ZEROS_MAX 45    /* bytes at the end that look unwritten; two such are still less likely than one other */
#define STEPS_BACK 3

/* A record that is taken for broken, and all before it that are. */
struct guess {
	size_t begin, end;
	uint64_t time;	 /* the record behind it is not earlier */
	size_t size_sum; /* of this one and those before */
	uint32_t cost;	 /* likewise */
	int previous;	 /* -1: none */
};

/* One slot of a path from the prefix to the end. */
struct slot {
	size_t begin, end;
	uint64_t time;
	bool is_extended, is_dead;
};

struct path {
	struct slot *slots;
	size_t count, capacity;
};

struct search {
	const struct tf_record_layouts *layouts;
	const struct tf_damage_search *damage;
	struct guess *guesses;
	int guess_count;
	int *heap; /* guesses whose way on was not looked at yet, the likeliest first */
	int heap_count;
	struct path path, best;
	uint32_t best_cost;
};

static bool read_record(const struct search *search, size_t at, uint64_t earliest, struct tf_record *record)
{
	return tf_record_read(search->layouts, search->damage->bytes, at, search->damage->data_end, earliest,
			      search->damage->time_end, record);
}

/* ---- guesses, the likeliest first ---- */

static void swap(int *a, int *b)
{
	const int other = *a;

	*a = *b;
	*b = other;
}

static void push(struct search *search, const struct guess *guess)
{
	int *heap = search->heap, i = search->heap_count;

	if (search->guess_count == GUESSES_MAX)
		return;
	search->guesses[search->guess_count] = *guess;
	heap[search->heap_count++] = search->guess_count++;
	for (; i > 0 && search->guesses[heap[i]].cost < search->guesses[heap[(i - 1) / 2]].cost; i = (i - 1) / 2)
		swap(&heap[i], &heap[(i - 1) / 2]);
}

static int pop(struct search *search)
{
	int *heap = search->heap;
	const int top = heap[0];

	heap[0] = heap[--search->heap_count];
	for (int i = 0, child; (child = 2 * i + 1) < search->heap_count; i = child) {
		if (child + 1 < search->heap_count &&
		    search->guesses[heap[child + 1]].cost < search->guesses[heap[child]].cost)
			child++;
		if (search->guesses[heap[i]].cost <= search->guesses[heap[child]].cost)
			break;
		swap(&heap[i], &heap[child]);
	}
	return top;
}

/* ---- broken records ---- */

static bool is_zero(const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (bytes[i] != 0)
			return false;
	return true;
}

/* Every size that @broken, behind a record of the time @time, can have had, so that records go on behind it. */
static void guess_sizes(struct search *search, int previous, const struct tf_record *broken, uint64_t time,
			uint32_t cost)
{
	const struct tf_damage_search *damage = search->damage;
	const size_t size_sum = previous < 0 ? 0 : search->guesses[previous].size_sum;
	const size_t smallest = broken->has_header ? broken->fields - broken->begin : 4;
	size_t unwritten = broken->begin;

	/* Of any other size it would not be a record of its event. */
	if (broken->has_header && broken->has_fixed_size)
		return;
	if (broken->has_header) {
		time = broken->time;
		unwritten = broken->end != 0 ? broken->end : damage->data_end;
	} else {
		cost += COST_NO_HEADER;
	}
	for (size_t size = smallest; size_sum + size <= damage->missing; size++) {
		const size_t end = broken->begin + size;
		struct guess guess = { .begin = broken->begin,
				       .end = end,
				       .time = time,
				       .size_sum = size_sum + size,
				       .cost = cost + COST_DEAD,
				       .previous = previous };
		struct tf_record next;

		if (end > damage->data_end)
			break;
		if (end < damage->data_end && !read_record(search, end, time, &next) && !next.has_header)
			continue;
		if (end < unwritten || !is_zero(damage->bytes + unwritten, end - unwritten))
			guess.cost += COST_ODD_REST;
		push(search, &guess);
	}
}

/* Walk on behind the guess. True: up to the end of the packet; else there are new guesses. */
static bool walk_on(struct search *search, int from, size_t at, uint64_t time)
{
	struct tf_record walked[STEPS_BACK + 1];
	uint64_t times[STEPS_BACK + 1]; /* of the records before them */
	size_t count = 0;

	for (;; count++) {
		struct tf_record *record = &walked[count % (STEPS_BACK + 1)];

		if (at == search->damage->data_end)
			return true;
		times[count % (STEPS_BACK + 1)] = time;
		if (!read_record(search, at, time, record))
			break;
		at = record->end;
		time = record->time;
	}
	for (uint32_t back = 0; back <= STEPS_BACK && back <= count; back++) {
		const size_t i = (count - back) % (STEPS_BACK + 1);

		guess_sizes(search, from, &walked[i], times[i], back * COST_STEP_BACK);
	}
	return false;
}

/* ---- paths ---- */

static bool add_slot(struct path *path, struct slot slot)
{
	if (path->count == path->capacity) {
		const size_t capacity = path->capacity ? 2 * path->capacity : 256;
		struct slot *slots = realloc(path->slots, capacity * sizeof(*slots));

		if (!slots)
			return false;
		path->slots = slots;
		path->capacity = capacity;
	}
	path->slots[path->count++] = slot;
	return true;
}

/* All slots from the prefix on, with the broken records that @last and those before it are. */
static bool trace_path(struct search *search, int last, uint64_t time)
{
	int broken[TF_LOST_MAX], count = 0;
	size_t at = search->damage->prefix;

	search->path.count = 0;
	for (; last >= 0; last = search->guesses[last].previous) {
		if (count == TF_LOST_MAX)
			return false;
		broken[count++] = last;
	}
	while (at < search->damage->data_end) {
		const struct guess *guess = count > 0 ? &search->guesses[broken[count - 1]] : NULL;
		struct slot slot = { .begin = at, .is_dead = guess && guess->begin == at };
		struct tf_record record;

		if (slot.is_dead) {
			slot.end = guess->end;
			slot.time = guess->time;
			count--;
		} else if (read_record(search, at, time, &record)) {
			slot.end = record.end;
			slot.time = record.time;
			slot.is_extended = record.is_extended;
		} else {
			return false;
		}
		if (!add_slot(&search->path, slot))
			return false;
		at = slot.end;
		time = slot.time;
	}
	return true;
}

static uint32_t cost_of_death(const struct search *search, const struct slot *slot)
{
	uint32_t zeros = 0;

	for (size_t at = slot->end; at > slot->begin && search->damage->bytes[at - 1] == 0; at--)
		if (++zeros == BONUS_ZEROS_MAX)
			break;
	return COST_DEAD - zeros - (slot->begin == search->damage->prefix ? BONUS_FIRST : 0);
}

/*
 * Find the whole records of the path that are likeliest to be dead, of @size bytes together, and mark them. False when
 * none are.
 */
static bool mark_dead(const struct search *search, struct path *path, size_t size, uint32_t *cost)
{
	const size_t cells = size + 1, row_size = cells / 8 + 1;
	uint32_t *costs; /* of the likeliest with so many bytes together, among the slots so far */
	uint8_t *is_taken;
	bool is_found = false;

	if (size == 0)
		return true;
	if (path->count > CELLS_MAX / cells)
		return false;
	costs = malloc(cells * sizeof(*costs));
	is_taken = calloc(path->count, row_size);
	if (!costs || !is_taken)
		goto out;
	memset(costs, 0xff, cells * sizeof(*costs));
	costs[0] = 0;
	for (size_t i = 0; i < path->count; i++) {
		const struct slot *slot = &path->slots[i];
		const size_t slot_size = slot->end - slot->begin;
		uint32_t slot_cost;

		if (slot->is_dead || slot_size > size)
			continue;
		slot_cost = cost_of_death(search, slot);
		for (size_t sum = size; sum >= slot_size; sum--) {
			if (costs[sum - slot_size] == UINT32_MAX || costs[sum - slot_size] + slot_cost >= costs[sum])
				continue;
			costs[sum] = costs[sum - slot_size] + slot_cost;
			is_taken[i * row_size + sum / 8] |= (uint8_t)(1 << sum % 8);
		}
	}
	is_found = costs[size] != UINT32_MAX;
	if (!is_found)
		goto out;
	*cost += costs[size];
	for (size_t i = path->count; i-- > 0;) {
		if (!(is_taken[i * row_size + size / 8] & 1 << size % 8))
			continue;
		path->slots[i].is_dead = true;
		size -= path->slots[i].end - path->slots[i].begin;
	}
out:
	free(is_taken);
	free(costs);
	return is_found;
}

/* Keep the path of the guess @last when it explains what is missing better than the best so far. */
static bool try_path(struct search *search, int last, uint64_t time)
{
	const struct guess *guess = last < 0 ? NULL : &search->guesses[last];
	uint32_t cost = guess ? guess->cost : 0;
	struct path former;

	if (!trace_path(search, last, time) ||
	    !mark_dead(search, &search->path, search->damage->missing - (guess ? guess->size_sum : 0), &cost) ||
	    cost >= search->best_cost)
		return false;
	former = search->best;
	search->best = search->path;
	search->best_cost = cost;
	search->path = former;
	return true;
}

/* What the best path keeps, but for records that a reader would take for those of another time. */
static bool keep(const struct search *search, uint64_t time, struct tf_recovery *recovery)
{
	const uint64_t range = tf_record_short_range(search->layouts);
	struct tf_segment *last = recovery->kept;

	*last = (struct tf_segment){ search->damage->begin, search->damage->prefix };
	recovery->kept_count = 1;
	recovery->lost_count = 0;
	for (size_t i = 0; i < search->best.count; i++) {
		const struct slot *slot = &search->best.slots[i];

		if (slot->is_dead || (!slot->is_extended && slot->time - time >= range)) {
			recovery->lost_count++;
			continue;
		}
		if (slot->begin != last->end) {
			if (recovery->kept_count == TF_LOST_MAX + 1)
				return false;
			last = &recovery->kept[recovery->kept_count++];
			last->begin = slot->begin;
		}
		last->end = slot->end;
		time = slot->time;
	}
	return true;
}

static bool explain(struct search *search, struct tf_recovery *recovery)
{
	struct tf_record record = { .time = search->damage->time_begin };
	size_t at = search->damage->begin;
	int path_count = 0;

	while (at < search->damage->prefix && read_record(search, at, record.time, &record))
		at = record.end;
	if (at != search->damage->prefix)
		return false; /* the layouts are not those of these records */
	if (walk_on(search, -1, at, record.time))
		try_path(search, -1, record.time);
	while (search->heap_count > 0 && path_count < PATHS_MAX) {
		const int next = pop(search);

		if (search->guesses[next].cost >= search->best_cost)
			break;
		if (walk_on(search, next, search->guesses[next].end, search->guesses[next].time)) {
			try_path(search, next, record.time);
			path_count++;
		}
	}
	return search->best_cost != UINT32_MAX && keep(search, record.time, recovery);
}

bool tf_records_recover(struct tf_record_layouts *layouts, const struct tf_damage_search *damage,
			struct tf_recovery *recovery)
{
	struct search search = { .layouts = layouts, .damage = damage, .best_cost = UINT32_MAX };
	bool is_explained = false;

	if (damage->begin > damage->prefix || damage->prefix > damage->data_end ||
	    !tf_record_layouts_are_known(layouts))
		return false;
	search.guesses = malloc(GUESSES_MAX * sizeof(*search.guesses));
	search.heap = malloc(GUESSES_MAX * sizeof(*search.heap));
	if (search.guesses && search.heap) {
		tf_record_layouts_lock(layouts);
		is_explained = explain(&search, recovery);
		tf_record_layouts_unlock(layouts);
	}
	free(search.path.slots);
	free(search.best.slots);
	free(search.heap);
	free(search.guesses);
	return is_explained;
}

uint64_t tf_records_count_at_most(struct tf_record_layouts *layouts, const struct tf_damage_search *damage)
{
	uint32_t *counts; /* from each offset on: the most whole records behind each other, with anything between them */
	uint64_t count;

	if (damage->prefix > damage->data_end || !tf_record_layouts_are_known(layouts))
		return 0;
	counts = calloc(damage->data_end + 1, sizeof(*counts));
	if (!counts)
		return 0;
	tf_record_layouts_lock(layouts);
	for (size_t at = damage->data_end; at-- > damage->prefix;) {
		struct tf_record record;

		counts[at] = counts[at + 1];
		if (tf_record_read(layouts, damage->bytes, at, damage->data_end, damage->time_begin, damage->time_end,
				   &record) &&
		    counts[record.end] + 1 > counts[at])
			counts[at] = counts[record.end] + 1;
	}
	tf_record_layouts_unlock(layouts);
	count = counts[damage->prefix];
	free(counts);
	return count;
}
