#include "pump.h"

#include "channel.h"
#include "clock.h"
#include "fleet.h"
#include "output.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <lttng/ust-ctl.h>

/*
 * A write keeps its thread until the device is done, so two are needed to have the next stream's write under
 * way meanwhile; more than a few have nothing to add on one disk.
 */
#define THREAD_COUNT_MIN 2
#define THREAD_COUNT_MAX 4
/* Writes per visit of a stream, before the others get their turn. */
#define TURNS_PER_VISIT 2
/* How often holes and failed writes are looked at again; and all others, since a hole wakes nobody. */
#define TICK_MS 25
#define IDLE_TICK_MS 100

/* More often would be of no use to anybody who reads along. */
#define LIVE_PERIOD_US_MIN 1000

/* What an epoll event is about, in the low half of its data beside the entry's index: a CPU, or one of these. */
#define OF_CHANNEL UINT32_MAX
#define OF_SWITCH_TIMER (UINT32_MAX - 1)
#define OF_READ_TIMER (UINT32_MAX - 2)
/* Entry indices of the pump's own descriptors. */
#define OF_TICK UINT32_MAX
#define OF_STOP (UINT32_MAX - 1)

struct entry {
	struct tf_channel *channel; /* NULL: free */
	uint64_t token;
	int visitor_count;
	bool is_leaving;
	int switch_timer_fd, read_timer_fd; /* -1: none */
};

struct tf_pump {
	int epoll_fd, stop_fd, tick_fd;
	int thread_count;
	pthread_t threads[THREAD_COUNT_MAX];
	pthread_mutex_t lock; /* of everything below; taken after channel and stream locks */
	pthread_cond_t left;  /* a visitor has left an entry */
	struct entry **entries;
	uint32_t entry_count;
	pthread_cond_t reported;
	struct tf_report *reports;
	size_t report_count, report_capacity;
	bool is_woken;
};

/* ---- reports ---- */

/* With the pump's lock held. Without memory the report is lost; what it tells stays in the channel's error. */
static void push_report(struct tf_pump *pump, const struct tf_report *report)
{
	if (pump->report_count == pump->report_capacity) {
		const size_t capacity = pump->report_capacity * 2 + 16;
		struct tf_report *reports = realloc(pump->reports, capacity * sizeof(*reports));

		if (!reports)
			return;
		pump->reports = reports;
		pump->report_capacity = capacity;
	}
	pump->reports[pump->report_count++] = *report;
	pthread_cond_signal(&pump->reported);
}

/* With the stream's lock held. */
static void collect_reports(struct tf_pump *pump, const struct entry *entry, struct tf_stream *stream)
{
	if (stream->reports == 0)
		return;
	pthread_mutex_lock(&pump->lock);
	for (int32_t kind = TF_REPORT_JAMMED; kind <= TF_REPORT_BROKEN; kind++) {
		const bool is_failure = kind == TF_REPORT_WRITE_FAILED || kind == TF_REPORT_BROKEN;
		const struct tf_report report = { .kind = kind,
						  .cpu = (int32_t)stream->cpu,
						  .token = entry->token,
						  .error = is_failure ? -stream->error : 0 };

		if (stream->reports & (1u << kind))
			push_report(pump, &report);
	}
	pthread_mutex_unlock(&pump->lock);
	stream->reports = 0;
}

int tf_pump_wait(struct tf_pump *pump, int timeout_ms, struct tf_report *reports, size_t capacity)
{
	struct timespec end;
	size_t count;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += timeout_ms / 1000;
	end.tv_nsec += timeout_ms % 1000 * 1000000L;
	if (end.tv_nsec >= 1000000000L) {
		end.tv_sec++;
		end.tv_nsec -= 1000000000L;
	}
	pthread_mutex_lock(&pump->lock);
	while (pump->report_count == 0 && !pump->is_woken) {
		if (timeout_ms < 0)
			pthread_cond_wait(&pump->reported, &pump->lock);
		else if (pthread_cond_timedwait(&pump->reported, &pump->lock, &end) == ETIMEDOUT)
			break;
	}
	pump->is_woken = false;
	count = pump->report_count < capacity ? pump->report_count : capacity;
	memcpy(reports, pump->reports, count * sizeof(*reports));
	pump->report_count -= count;
	memmove(pump->reports, pump->reports + count, pump->report_count * sizeof(*reports));
	pthread_mutex_unlock(&pump->lock);
	return (int)count;
}

void tf_pump_wake(struct tf_pump *pump)
{
	pthread_mutex_lock(&pump->lock);
	pump->is_woken = true;
	pthread_cond_broadcast(&pump->reported);
	pthread_mutex_unlock(&pump->lock);
}

/* ---- descriptors ---- */

static int watch(struct tf_pump *pump, int operation, int fd, uint32_t events, uint32_t entry_index, uint32_t part)
{
	struct epoll_event event = { .events = events, .data.u64 = (uint64_t)entry_index << 32 | part };

	return epoll_ctl(pump->epoll_fd, operation, fd, &event) < 0 ? -errno : 0;
}

static void arm_tick(struct tf_pump *pump)
{
	const struct itimerspec soon = { .it_value = { .tv_nsec = TICK_MS * 1000000L } };

	timerfd_settime(pump->tick_fd, 0, &soon, NULL);
}

static void arm_idle_tick(struct tf_pump *pump)
{
	const struct itimerspec later = { .it_value = { .tv_nsec = IDLE_TICK_MS * 1000000L } };

	timerfd_settime(pump->tick_fd, 0, &later, NULL);
}

static void empty(int fd)
{
	char bytes[4096];

	while (read(fd, bytes, sizeof(bytes)) == sizeof(bytes))
		;
}

static int open_timer(uint32_t period_us)
{
	const struct timespec period = { .tv_sec = period_us / 1000000, .tv_nsec = period_us % 1000000 * 1000L };
	const struct itimerspec setting = { .it_value = period, .it_interval = period };
	const int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	if (fd >= 0)
		timerfd_settime(fd, 0, &setting, NULL);
	return fd < 0 ? -errno : fd;
}

/* ---- visits ---- */

/* Something of the stream's, or of another to the same relay daemon, waits for that to take it. */
static bool is_held_up(struct tf_stream *stream)
{
	return stream->relay && tf_relay_is_waiting(stream->relay) && tf_relay_poll(stream->relay) == 1;
}

/* With the stream's lock held: write what is ready; true when somebody has to look again before it wakes us. */
static bool visit_stream(struct tf_pump *pump, struct entry *entry, struct tf_stream *stream)
{
	enum tf_turn_result result = TF_TURN_WROTE;

	for (int i = 0; i < TURNS_PER_VISIT && result == TF_TURN_WROTE; i++)
		result = tf_stream_turn(stream, false);
	/* More is ready, but others wait: come back through the same door as a writer. */
	if (result == TF_TURN_WROTE) {
		const ssize_t ret = write(stream->wakeup_fd, "", 1);

		(void)ret; /* a full pipe wakes as well */
	}
	collect_reports(pump, entry, stream);
	return result == TF_TURN_HOLE || (result == TF_TURN_FAILED && !stream->is_broken) || is_held_up(stream);
}

/*
 * The live timer has expired: write what there is. When that is nothing, the relay daemon is told that nothing happened
 * up to now; the clock is read first, since whatever comes during the look is later.
 */
static bool visit_live_stream(struct tf_pump *pump, struct entry *entry, struct tf_stream *stream)
{
	const uint64_t packet_count = tf_stream_count_passed(stream);
	bool is_unfinished;
	uint64_t now;

	/* An empty packet or a beacon of a stream that the metadata does not know ends babeltrace2. */
	if (!stream->has_sink || !tf_output_describes(stream->output, stream->stream_id) ||
	    tf_stream_timestamp(stream, &now) < 0)
		return false;
	tf_output_write_metadata(stream->output); /* a failure shows again with the next packet */
	tf_stream_open_packet(stream);
	tf_stream_flush(stream, false);
	is_unfinished = visit_stream(pump, entry, stream);
	if (tf_stream_count_passed(stream) != packet_count || !tf_stream_is_idle(stream))
		return is_unfinished;
	if (stream->fleet)
		tf_fleet_send_beacon(stream->fleet, stream->fleet_key, stream->stream_id, stream->cpu, now);
	else
		tf_relay_send_beacon(stream->relay, &stream->relayed, now);
	return is_unfinished;
}

static void on_stream(struct tf_pump *pump, struct entry *entry, uint32_t index, uint32_t cpu)
{
	struct tf_stream *stream = &entry->channel->streams[cpu];
	bool is_unfinished;

	pthread_mutex_lock(&stream->lock);
	if (!entry->channel->is_closed) {
		empty(stream->wait_fd); /* before the look at the buffer: what comes after it, wakes again */
		is_unfinished = visit_stream(pump, entry, stream);
		if (is_unfinished)
			arm_tick(pump);
		if (!stream->is_broken)
			watch(pump, EPOLL_CTL_MOD, stream->wait_fd, EPOLLIN | EPOLLONESHOT, index, cpu);
	}
	pthread_mutex_unlock(&stream->lock);
}

static bool is_for_live_reading(const struct tf_channel *channel)
{
	return channel->attributes.live_timer_period_us > 0 && channel->output &&
	       (tf_output_relay(channel->output) || tf_output_fleet(channel->output));
}

static void on_timer(struct tf_pump *pump, struct entry *entry, uint32_t index, uint32_t part)
{
	const int fd = part == OF_SWITCH_TIMER ? entry->switch_timer_fd : entry->read_timer_fd;
	const bool is_live = part == OF_SWITCH_TIMER && is_for_live_reading(entry->channel);

	empty(fd);
	for (uint32_t i = 0; i < entry->channel->stream_count; i++) {
		struct tf_stream *stream = &entry->channel->streams[i];

		pthread_mutex_lock(&stream->lock);
		if (!entry->channel->is_closed) {
			bool is_unfinished;

			if (is_live) {
				is_unfinished = visit_live_stream(pump, entry, stream);
			} else {
				if (part == OF_SWITCH_TIMER)
					tf_stream_flush(stream, false);
				is_unfinished = visit_stream(pump, entry, stream);
			}
			if (is_unfinished)
				arm_tick(pump);
		}
		pthread_mutex_unlock(&stream->lock);
	}
	watch(pump, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT, index, part);
}

static void on_hang_up(struct tf_pump *pump, struct entry *entry)
{
	const struct tf_report report = { .kind = TF_REPORT_HUNG_UP, .cpu = -1, .token = entry->token };

	pthread_mutex_lock(&pump->lock);
	push_report(pump, &report);
	pthread_mutex_unlock(&pump->lock);
}

/* The entry with that index, kept from leaving until leave_entry(). */
static struct entry *enter_entry(struct tf_pump *pump, uint32_t index)
{
	struct entry *entry = NULL;

	pthread_mutex_lock(&pump->lock);
	if (index < pump->entry_count && pump->entries[index]->channel && !pump->entries[index]->is_leaving) {
		entry = pump->entries[index];
		entry->visitor_count++;
	}
	pthread_mutex_unlock(&pump->lock);
	return entry;
}

static void leave_entry(struct tf_pump *pump, struct entry *entry)
{
	pthread_mutex_lock(&pump->lock);
	entry->visitor_count--;
	if (entry->is_leaving && entry->visitor_count == 0)
		pthread_cond_broadcast(&pump->left);
	pthread_mutex_unlock(&pump->lock);
}

/* Look at every stream: what some of them wait for wakes nobody. */
static void on_tick(struct tf_pump *pump)
{
	bool is_unfinished = false, is_idle = true;
	struct entry *entry;
	uint32_t count;

	empty(pump->tick_fd);
	pthread_mutex_lock(&pump->lock);
	count = pump->entry_count;
	pthread_mutex_unlock(&pump->lock);
	for (uint32_t index = 0; index < count; index++) {
		entry = enter_entry(pump, index);
		if (!entry)
			continue;
		is_idle = false;
		for (uint32_t cpu = 0; cpu < entry->channel->stream_count; cpu++) {
			struct tf_stream *stream = &entry->channel->streams[cpu];

			pthread_mutex_lock(&stream->lock);
			if (!entry->channel->is_closed && !stream->is_broken && stream->has_sink &&
			    (tf_stream_has_unread(stream) || (stream->relay && tf_relay_is_waiting(stream->relay))))
				is_unfinished |= visit_stream(pump, entry, stream);
			collect_reports(pump, entry, stream);
			pthread_mutex_unlock(&stream->lock);
		}
		leave_entry(pump, entry);
	}
	watch(pump, EPOLL_CTL_MOD, pump->tick_fd, EPOLLIN | EPOLLONESHOT, OF_TICK, 0);
	if (is_unfinished)
		arm_tick(pump);
	else if (!is_idle)
		arm_idle_tick(pump);
}

static void *run(void *argument)
{
	struct tf_pump *pump = argument;

	for (;;) {
		struct epoll_event event;
		struct entry *entry;
		uint32_t index, part;

		/* One at a time, so that what is ready spreads over the threads. */
		if (epoll_wait(pump->epoll_fd, &event, 1, -1) < 1)
			continue;
		index = (uint32_t)(event.data.u64 >> 32);
		part = (uint32_t)event.data.u64;
		if (index == OF_STOP)
			return NULL;
		if (index == OF_TICK) {
			on_tick(pump);
			continue;
		}
		entry = enter_entry(pump, index);
		if (!entry)
			continue;
		if (part == OF_CHANNEL)
			on_hang_up(pump, entry);
		else if (part == OF_SWITCH_TIMER || part == OF_READ_TIMER)
			on_timer(pump, entry, index, part);
		else
			on_stream(pump, entry, index, part);
		leave_entry(pump, entry);
	}
}

/* ---- channels come and go ---- */

/* With the pump's lock held. A free entry, or -ENOMEM. */
static int64_t find_room(struct tf_pump *pump)
{
	struct entry **entries, *entry;

	for (uint32_t i = 0; i < pump->entry_count; i++)
		if (!pump->entries[i]->channel)
			return i;
	entries = realloc(pump->entries, (pump->entry_count + 1) * sizeof(struct entry *));
	if (!entries)
		return -ENOMEM;
	pump->entries = entries;
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	entries[pump->entry_count] = entry;
	return pump->entry_count++;
}

static int watch_timer(struct tf_pump *pump, uint32_t period_us, uint32_t index, uint32_t part, int *fd)
{
	if (period_us == 0)
		return 0;
	*fd = open_timer(period_us);
	return *fd < 0 ? *fd : watch(pump, EPOLL_CTL_ADD, *fd, EPOLLIN | EPOLLONESHOT, index, part);
}

static uint32_t switch_period_us(const struct tf_channel *channel)
{
	const uint32_t live_us = channel->attributes.live_timer_period_us;

	if (!is_for_live_reading(channel))
		return channel->attributes.switch_timer_period_us;
	return live_us < LIVE_PERIOD_US_MIN ? LIVE_PERIOD_US_MIN : live_us;
}

static int watch_channel(struct tf_pump *pump, struct entry *entry, uint32_t index, struct tf_channel *channel)
{
	const struct tf_channel_attributes *attributes = &channel->attributes;
	int ret;

	ret = watch(pump, EPOLL_CTL_ADD, lttng_ust_ctl_channel_get_wait_fd(channel->ust), EPOLLONESHOT, index,
		    OF_CHANNEL);
	if (ret == 0)
		ret = watch_timer(pump, switch_period_us(channel), index, OF_SWITCH_TIMER, &entry->switch_timer_fd);
	if (ret == 0 && channel->output)
		ret = watch_timer(pump, attributes->read_timer_period_us, index, OF_READ_TIMER,
				  &entry->read_timer_fd);
	/* Flushes signal even where writers do not, so the streams are watched in any case. */
	for (uint32_t i = 0; ret == 0 && i < channel->stream_count; i++)
		ret = watch(pump, EPOLL_CTL_ADD, channel->streams[i].wait_fd, EPOLLIN | EPOLLONESHOT, index, i);
	return ret;
}

static void forget_channel(struct tf_pump *pump, struct entry *entry)
{
	struct tf_channel *channel = entry->channel;

	if (!channel->is_closed) { /* else closing them made the kernel forget them */
		epoll_ctl(pump->epoll_fd, EPOLL_CTL_DEL, lttng_ust_ctl_channel_get_wait_fd(channel->ust), NULL);
		for (uint32_t i = 0; i < channel->stream_count; i++)
			epoll_ctl(pump->epoll_fd, EPOLL_CTL_DEL, channel->streams[i].wait_fd, NULL);
	}
	if (entry->switch_timer_fd >= 0)
		close(entry->switch_timer_fd);
	if (entry->read_timer_fd >= 0)
		close(entry->read_timer_fd);
	entry->channel = NULL;
}

int tf_pump_add(struct tf_pump *pump, struct tf_channel *channel, uint64_t token)
{
	struct entry *entry;
	int64_t index;
	int ret;

	pthread_mutex_lock(&channel->lock);
	ret = channel->is_closed ? -EBADF : channel->pump ? -EBUSY : 0;
	if (ret < 0)
		goto out;
	pthread_mutex_lock(&pump->lock);
	index = find_room(pump);
	if (index < 0) {
		ret = (int)index;
	} else {
		entry = pump->entries[index];
		*entry = (struct entry){
			.channel = channel, .token = token, .switch_timer_fd = -1, .read_timer_fd = -1
		};
		ret = watch_channel(pump, entry, (uint32_t)index, channel);
		if (ret < 0)
			forget_channel(pump, entry);
		else
			channel->pump = pump;
		arm_tick(pump);
	}
	pthread_mutex_unlock(&pump->lock);
out:
	pthread_mutex_unlock(&channel->lock);
	return ret;
}

int tf_pump_remove(struct tf_pump *pump, struct tf_channel *channel)
{
	struct entry *entry = NULL;

	pthread_mutex_lock(&channel->lock);
	if (channel->pump != pump) {
		pthread_mutex_unlock(&channel->lock);
		return -ENOENT;
	}
	channel->pump = NULL;
	pthread_mutex_lock(&pump->lock);
	for (uint32_t i = 0; i < pump->entry_count && !entry; i++)
		if (pump->entries[i]->channel == channel)
			entry = pump->entries[i];
	entry->is_leaving = true;
	while (entry->visitor_count > 0)
		pthread_cond_wait(&pump->left, &pump->lock);
	forget_channel(pump, entry);
	pthread_mutex_unlock(&pump->lock);
	pthread_mutex_unlock(&channel->lock);
	return 0;
}

void tf_pump_notice(struct tf_channel *channel)
{
	pthread_mutex_lock(&channel->lock);
	if (channel->pump)
		arm_tick(channel->pump);
	pthread_mutex_unlock(&channel->lock);
}

/* ---- the pump itself ---- */

static int start_threads(struct tf_pump *pump)
{
	int wanted = get_nprocs(), ret = 0;
	sigset_t all, old;

	wanted = wanted < THREAD_COUNT_MIN ? THREAD_COUNT_MIN : wanted > THREAD_COUNT_MAX ? THREAD_COUNT_MAX : wanted;
	/* Signals are for the program's own threads; only what a thread does to itself stays its own. */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGFPE);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (ret == 0 && pump->thread_count < wanted) {
		ret = pthread_create(&pump->threads[pump->thread_count], NULL, run, pump);
		if (ret == 0)
			pthread_setname_np(pump->threads[pump->thread_count++], "tf-pump");
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pump->thread_count > 0 ? 0 : -ret;
}

int tf_pump_create(struct tf_pump **out)
{
	struct tf_pump *pump = calloc(1, sizeof(*pump));
	pthread_condattr_t attributes;
	int ret;

	if (!pump)
		return -ENOMEM;
	pthread_mutex_init(&pump->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&pump->reported, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_cond_init(&pump->left, NULL);
	pump->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	pump->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pump->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (pump->epoll_fd < 0 || pump->stop_fd < 0 || pump->tick_fd < 0) {
		ret = -errno;
		goto err;
	}
	ret = watch(pump, EPOLL_CTL_ADD, pump->stop_fd, EPOLLIN, OF_STOP, 0);
	if (ret == 0)
		ret = watch(pump, EPOLL_CTL_ADD, pump->tick_fd, EPOLLIN | EPOLLONESHOT, OF_TICK, 0);
	if (ret == 0)
		ret = start_threads(pump);
	if (ret < 0)
		goto err;
	*out = pump;
	return 0;

err:
	tf_pump_free(pump);
	return ret;
}

void tf_pump_free(struct tf_pump *pump)
{
	const uint64_t one = 1;
	ssize_t written;

	if (!pump)
		return;
	if (pump->thread_count > 0) {
		written = write(pump->stop_fd, &one, sizeof(one));
		(void)written; /* an eventfd at 0 takes it */
	}
	for (int i = 0; i < pump->thread_count; i++)
		pthread_join(pump->threads[i], NULL);
	for (uint32_t i = 0; i < pump->entry_count; i++)
		free(pump->entries[i]);
	free(pump->entries);
	free(pump->reports);
	if (pump->epoll_fd >= 0)
		close(pump->epoll_fd);
	if (pump->stop_fd >= 0)
		close(pump->stop_fd);
	if (pump->tick_fd >= 0)
		close(pump->tick_fd);
	pthread_cond_destroy(&pump->reported);
	pthread_cond_destroy(&pump->left);
	pthread_mutex_destroy(&pump->lock);
	free(pump);
}
