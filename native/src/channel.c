#include "channel.h"

#include "records.h"

#include "clock.h"
#include "fleet.h"
#include "guard.h"
#include "output.h"
#include "pump.h"
#include "shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <lttng/ust-ctl.h>

/* How long to sleep between looks at a record that is being committed. */
#define HOLE_POLL_MS 2
/* The same for acknowledgements, which wake as well. */
#define FLEET_POLL_MS 100
/* A reader in its quiet state tells of late losses with a packet of its own; more would be a forger's work. */
#define LOSS_PACKETS_PER_DRAIN 2

static bool has_repair;

int tf_initialize(void)
{
	int ret = tf_guard_install();

	if (ret < 0)
		return ret;
	ret = tf_layout_verify();
	if (ret < 0 && ret != -ENOTSUP)
		return ret;
	has_repair = ret == 0;
	return 0;
}

bool tf_has_repair(void)
{
	return has_repair;
}

int tf_possible_cpu_count(void)
{
	return lttng_ust_ctl_get_nr_stream_per_channel();
}

uint64_t tf_ring_buffer_size(uint64_t sub_buffer_size, uint64_t sub_buffer_count)
{
	return tf_layout_size(sub_buffer_size, sub_buffer_count);
}

/* ---- creation ---- */

static bool is_power_of_two(uint64_t value)
{
	return value != 0 && (value & (value - 1)) == 0;
}

static bool are_valid(const struct tf_channel_attributes *attributes)
{
	const uint64_t size = attributes->sub_buffer_size, count = attributes->sub_buffer_count;

	return is_power_of_two(size) && size >= (uint64_t)sysconf(_SC_PAGESIZE) && is_power_of_two(count) &&
	       size <= INT_MAX && count <= INT_MAX && size * (count + 1) <= INT_MAX && /* the library's limit */
	       (!attributes->is_overwrite || count >= 2) && attributes->blocking_timeout_us >= -1 &&
	       (attributes->header_type == 1 || attributes->header_type == 2) && attributes->name[0] != '\0' &&
	       strchr(attributes->name, '/') == NULL;
}

static struct lttng_ust_ctl_consumer_channel *create_buffers(const struct tf_channel *channel, const int *fds)
{
	const struct tf_channel_attributes *attributes = &channel->attributes;
	struct lttng_ust_ctl_consumer_channel_attr ust = {
		.type = LTTNG_UST_ABI_CHAN_PER_CPU,
		.subbuf_size = attributes->sub_buffer_size,
		.num_subbuf = attributes->sub_buffer_count,
		.overwrite = attributes->is_overwrite,
		/*
		 * The library's timer thread reads shared memory without a guard, so the pump runs the timers.
		 * A read timer, of whatever period, is what tells the writers not to signal.
		 */
		.switch_timer_interval = 0,
		.read_timer_interval = attributes->read_timer_period_us > 0 ? UINT_MAX : 0,
		.output = LTTNG_UST_ABI_MMAP,
		.chan_id = attributes->channel_id,
		.blocking_timeout = attributes->blocking_timeout_us,
	};

	memcpy(ust.uuid, attributes->trace_uuid, sizeof(ust.uuid));
	return lttng_ust_ctl_create_channel(&ust, fds, (int)channel->stream_count);
}

static int map_stream(struct tf_stream *stream, const struct tf_channel_attributes *attributes)
{
	unsigned long size;
	struct stat status;
	uint8_t *map;

	stream->layout.sub_buffer_size = attributes->sub_buffer_size;
	stream->layout.sub_buffer_count = attributes->sub_buffer_count;
	stream->layout.is_overwrite = attributes->is_overwrite;
	stream->library_data = lttng_ust_ctl_get_mmap_base(stream->ust);
	if (!stream->library_data || lttng_ust_ctl_get_mmap_len(stream->ust, &size) < 0)
		return -EIO;
	stream->library_data_size = size;
	if (!has_repair)
		return 0;
	if (fstat(stream->shm_fd, &status) < 0)
		return -errno;
	map = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, stream->shm_fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	if (tf_layout_read(map, (size_t)status.st_size, attributes->sub_buffer_size, attributes->sub_buffer_count,
			   attributes->is_overwrite, stream->cpu, &stream->layout) < 0) {
		munmap(map, (size_t)status.st_size);
		return 0; /* the way without it */
	}
	stream->map = map;
	stream->map_size = (size_t)status.st_size;
	return 0;
}

static int open_stream(struct tf_channel *channel, struct tf_stream *stream)
{
	const struct tf_channel_attributes *attributes = &channel->attributes;

	stream->header_type = attributes->header_type;
	stream->layouts = channel->layouts;
	stream->stream_id = attributes->channel_id;
	memcpy(stream->trace_uuid, attributes->trace_uuid, sizeof(stream->trace_uuid));
	stream->ust = lttng_ust_ctl_create_stream(channel->ust, (int)stream->cpu);
	if (!stream->ust)
		return -ENOMEM;
	stream->wait_fd = lttng_ust_ctl_stream_get_wait_fd(stream->ust);
	stream->wakeup_fd = lttng_ust_ctl_stream_get_wakeup_fd(stream->ust);
	if (stream->wait_fd < 0 || stream->wakeup_fd < 0 || fcntl(stream->wait_fd, F_SETFL, O_NONBLOCK) < 0)
		return -EIO;
	return map_stream(stream, attributes);
}

static int open_sink(struct tf_channel *channel, struct tf_stream *stream)
{
	const struct tf_channel_attributes *attributes = &channel->attributes;
	int ret;

	stream->output = channel->output;
	stream->relay = tf_output_relay(channel->output);
	stream->relayed = (struct tf_relay_stream){ .stream_id = attributes->channel_id, .cpu = stream->cpu };
	stream->fleet = tf_output_fleet(channel->output);
	if (stream->relay || stream->fleet)
		return 0; /* until it has a name there */
	ret = tf_trace_file_open(&stream->file, channel->output, channel->name, stream->cpu, attributes->channel_id,
				 attributes->trace_file_size, attributes->trace_file_count);
	stream->has_sink = ret == 0;
	return ret;
}

struct sinks {
	struct tf_channel *channel;
	int ret;
};

static void *open_sinks(void *data)
{
	struct sinks *sinks = data;
	struct tf_channel *channel = sinks->channel;

	sinks->ret = 0;
	for (uint32_t i = 0; channel->output && i < channel->stream_count && sinks->ret == 0; i++)
		sinks->ret = open_sink(channel, &channel->streams[i]);
	return NULL;
}

static struct tf_channel *allocate(const struct tf_channel_attributes *attributes, struct tf_output *output)
{
	const uint32_t count = (uint32_t)tf_possible_cpu_count();
	struct tf_channel *channel = calloc(1, sizeof(*channel) + count * sizeof(channel->streams[0]));

	if (!channel)
		return NULL;
	channel->name = strdup(attributes->name);
	channel->layouts = tf_record_layouts_create(attributes->header_type);
	if (!channel->name || !channel->layouts) {
		tf_record_layouts_free(channel->layouts);
		free(channel->name);
		free(channel);
		return NULL;
	}
	channel->attributes = *attributes;
	channel->attributes.name = channel->name;
	channel->output = output ? tf_output_get(output) : NULL;
	channel->stream_count = count;
	pthread_mutex_init(&channel->lock, NULL);
	for (uint32_t i = 0; i < count; i++) {
		pthread_mutex_init(&channel->streams[i].lock, NULL);
		channel->streams[i].cpu = i;
		channel->streams[i].shm_fd = -1;
	}
	return channel;
}

/* All or nothing: a tmpfs that gets full half way would leave the applications of others without memory. */
static int check_room(const struct tf_channel *channel, uint64_t *needed, uint64_t *available)
{
	int ret;

	*needed = channel->stream_count *
		  tf_ring_buffer_size(channel->attributes.sub_buffer_size, channel->attributes.sub_buffer_count);
	ret = tf_shared_memory_available(available);
	if (ret < 0)
		return ret;
	return *needed > *available ? -ENOSPC : 0;
}

int tf_channel_create(const struct tf_channel_attributes *attributes, struct tf_output *output,
		      struct tf_channel **out, uint64_t *needed, uint64_t *available)
{
	struct tf_channel *channel;
	struct sinks sinks;
	pthread_t opener;
	bool has_opener;
	size_t shm_size;
	int *fds, ret;

	*needed = *available = 0;
	if (!are_valid(attributes))
		return -EINVAL;
	channel = allocate(attributes, output);
	if (!channel)
		return -ENOMEM;
	fds = calloc(channel->stream_count, sizeof(*fds));
	if (!fds) {
		ret = -ENOMEM;
		goto err_channel;
	}
	ret = check_room(channel, needed, available);
	if (ret < 0)
		goto err_fds;
	*needed = *available = 0;
	shm_size = tf_layout_size(attributes->sub_buffer_size, attributes->sub_buffer_count);
	for (uint32_t i = 0; i < channel->stream_count; i++) {
		ret = tf_shared_memory_open(shm_size);
		if (ret < 0)
			goto err_fds;
		channel->streams[i].shm_fd = fds[i] = ret;
	}
	/* A program waits for all this: the disk has its part to do while the library fills the memory with zeros. */
	sinks.channel = channel;
	has_opener = pthread_create(&opener, NULL, open_sinks, &sinks) == 0;
	errno = 0;
	channel->ust = create_buffers(channel, fds);
	ret = channel->ust ? 0 : errno > 0 ? -errno : -ENOMEM;
	if (has_opener)
		pthread_join(opener, NULL);
	else
		open_sinks(&sinks);
	if (ret == 0)
		ret = sinks.ret;
	if (ret < 0)
		goto err_fds;
	for (uint32_t i = 0; i < channel->stream_count; i++) {
		ret = open_stream(channel, &channel->streams[i]);
		if (ret < 0)
			goto err_fds;
	}
	free(fds);
	*out = channel;
	return 0;

err_fds:
	free(fds);
err_channel:
	tf_channel_free(channel);
	return ret;
}

void tf_channel_join_pages(struct tf_channel *channel)
{
	const struct tf_channel_attributes *attributes = &channel->attributes;
	const size_t size = tf_layout_size(attributes->sub_buffer_size, attributes->sub_buffer_count);

	/* On copies, one at a time: nobody else shall wait for this, and the channel may be closed meanwhile. */
	for (uint32_t i = 0; i < channel->stream_count; i++) {
		int fd;

		pthread_mutex_lock(&channel->lock);
		fd = channel->is_closed ? -1 : fcntl(channel->streams[i].shm_fd, F_DUPFD_CLOEXEC, 0);
		pthread_mutex_unlock(&channel->lock);
		if (fd < 0)
			return;
		tf_shared_memory_join_pages(fd, size);
		close(fd);
	}
}

/* ---- the end ---- */

static bool is_any_broken(const struct tf_channel *channel)
{
	for (uint32_t i = 0; i < channel->stream_count; i++)
		if (channel->streams[i].is_broken)
			return true;
	return false;
}

/*
 * The library reads shared memory without a guard while it destroys, and follows what it finds there. What a
 * hostile application has changed is therefore left mapped, and only the descriptors are given up.
 */
static void abandon_buffers(struct tf_channel *channel)
{
	for (uint32_t i = 0; i < channel->stream_count; i++) {
		struct tf_stream *stream = &channel->streams[i];

		if (!stream->ust)
			continue;
		lttng_ust_ctl_stream_close_wait_fd(stream->ust);
		lttng_ust_ctl_stream_close_wakeup_fd(stream->ust);
	}
	lttng_ust_ctl_channel_close_wait_fd(channel->ust);
	lttng_ust_ctl_channel_close_wakeup_fd(channel->ust);
}

static void destroy_buffers(struct tf_channel *channel)
{
	for (uint32_t i = 0; i < channel->stream_count; i++)
		if (channel->streams[i].ust)
			lttng_ust_ctl_destroy_stream(channel->streams[i].ust);
	lttng_ust_ctl_destroy_channel(channel->ust);
}

static void close_stream(struct tf_stream *stream)
{
	if (stream->ust && stream->has_sink && stream->fleet)
		tf_stream_take_back(stream);
	if (stream->ust && stream->has_sink && !stream->is_broken)
		stream->unwritten_packet_count += tf_stream_count_complete(stream);
	tf_stream_count_discarded(stream);
	if (stream->has_sink && !stream->relay && !stream->fleet)
		tf_trace_file_close(&stream->file);
	free(stream->given);
	stream->given = NULL;
	stream->has_sink = false;
	if (stream->map)
		munmap(stream->map, stream->map_size);
	stream->map = NULL;
}

void tf_channel_close(struct tf_channel *channel)
{
	pthread_mutex_lock(&channel->lock);
	if (channel->is_closed)
		goto out;
	for (uint32_t i = 0; i < channel->stream_count; i++)
		pthread_mutex_lock(&channel->streams[i].lock);
	channel->is_closed = true;
	for (uint32_t i = 0; i < channel->stream_count; i++)
		close_stream(&channel->streams[i]);
	if (channel->ust && is_any_broken(channel))
		abandon_buffers(channel);
	else if (channel->ust)
		destroy_buffers(channel);
	channel->ust = NULL;
	/* The library used the numbers of these up to here. */
	for (uint32_t i = 0; i < channel->stream_count; i++) {
		channel->streams[i].ust = NULL;
		if (channel->streams[i].shm_fd >= 0)
			close(channel->streams[i].shm_fd);
		channel->streams[i].shm_fd = -1;
		pthread_mutex_unlock(&channel->streams[i].lock);
	}
	tf_output_put(channel->output);
	channel->output = NULL;
out:
	pthread_mutex_unlock(&channel->lock);
}

void tf_channel_free(struct tf_channel *channel)
{
	if (!channel)
		return;
	tf_channel_close(channel);
	for (uint32_t i = 0; i < channel->stream_count; i++)
		pthread_mutex_destroy(&channel->streams[i].lock);
	pthread_mutex_destroy(&channel->lock);
	tf_record_layouts_free(channel->layouts);
	free(channel->name);
	free(channel);
}

int tf_channel_set_relay_streams(struct tf_channel *channel, const uint64_t *handles, size_t count)
{
	int ret = 0;

	if (count != channel->stream_count)
		return -EINVAL;
	for (uint32_t i = 0; i < channel->stream_count && ret == 0; i++) {
		struct tf_stream *stream = &channel->streams[i];

		pthread_mutex_lock(&stream->lock);
		if (channel->is_closed)
			ret = -EBADF;
		else if (!stream->relay || stream->has_sink)
			ret = -EINVAL;
		stream->relayed.handle = handles[i];
		stream->has_sink = ret == 0;
		pthread_mutex_unlock(&stream->lock);
	}
	return ret;
}

int tf_channel_relay_positions(struct tf_channel *channel, uint64_t *packet_counts, size_t count)
{
	if (count != channel->stream_count)
		return -EINVAL;
	for (uint32_t i = 0; i < channel->stream_count; i++) {
		pthread_mutex_lock(&channel->streams[i].lock);
		packet_counts[i] = channel->streams[i].relayed.next_number;
		pthread_mutex_unlock(&channel->streams[i].lock);
	}
	return 0;
}

static int set_fleet_stream(struct tf_stream *stream, uint32_t key)
{
	const uint32_t capacity = (uint32_t)stream->layout.sub_buffer_count;
	int ret;

	if (!stream->fleet || stream->has_sink)
		return -EINVAL;
	if (!stream->given)
		stream->given = calloc(capacity, sizeof(*stream->given));
	if (!stream->given)
		return -ENOMEM;
	stream->fleet_key = key;
	ret = tf_fleet_open_source(stream->fleet, key, capacity, tf_stream_settle, stream, stream->wakeup_fd);
	if (ret < 0)
		return ret;
	stream->has_sink = true;
	return 0;
}

int tf_channel_set_fleet_streams(struct tf_channel *channel, const uint32_t *keys, size_t count)
{
	int ret = 0;

	if (count != channel->stream_count)
		return -EINVAL;
	for (uint32_t i = 0; i < channel->stream_count && ret == 0; i++) {
		struct tf_stream *stream = &channel->streams[i];

		pthread_mutex_lock(&stream->lock);
		ret = channel->is_closed ? -EBADF : set_fleet_stream(stream, keys[i]);
		pthread_mutex_unlock(&stream->lock);
	}
	tf_pump_notice(channel);
	return ret;
}

int tf_channel_set_record_layout(struct tf_channel *channel, int64_t event_id, const uint8_t *layout, size_t size)
{
	return tf_record_layouts_set(channel->layouts, event_id, layout, size);
}

/* ---- export ---- */

/* The library tells the bytes of a channel object only through a socket. */
static int receive_object(struct tf_channel *channel, struct lttng_ust_abi_object_data **object)
{
	int sockets[2], size = 2 << 20, ret;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
		return -errno;
	setsockopt(sockets[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	/* At most a megabyte (16 bytes per CPU and a kilobyte, in truth): it fits into the socket's buffer. */
	ret = lttng_ust_ctl_send_channel_to_sessiond(sockets[0], channel->ust);
	if (ret >= 0)
		ret = lttng_ust_ctl_recv_channel_from_consumer(sockets[1], object);
	close(sockets[0]);
	close(sockets[1]);
	return ret < 0 ? -EIO : 0;
}

static int duplicate(int fd)
{
	const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	return copy < 0 ? -errno : copy;
}

static int export_locked(struct tf_channel *channel, int32_t *type, uint8_t **data, size_t *data_size, int *fds)
{
	struct lttng_ust_abi_object_data *object;
	size_t count = 0;
	int ret;

	if (lttng_ust_ctl_channel_get_wakeup_fd(channel->ust) < 0)
		return -EALREADY; /* its descriptor is closed after the first time */
	ret = receive_object(channel, &object);
	if (ret < 0)
		return ret;
	*data = malloc(object->size);
	if (!*data) {
		ret = -ENOMEM;
		goto out;
	}
	memcpy(*data, object->u.channel.data, object->size);
	*data_size = object->size;
	*type = (int32_t)object->u.channel.type;
	ret = duplicate(object->u.channel.wakeup_fd);
	for (uint32_t i = 0; ret >= 0 && i < channel->stream_count; i++) {
		fds[count++] = ret;
		ret = duplicate(channel->streams[i].shm_fd);
		if (ret < 0)
			break;
		fds[count++] = ret;
		ret = duplicate(channel->streams[i].wakeup_fd);
	}
	if (ret >= 0) {
		fds[count] = ret;
		lttng_ust_ctl_channel_close_wakeup_fd(channel->ust);
		ret = 0;
	} else {
		while (count > 0)
			close(fds[--count]);
		free(*data);
	}
out:
	lttng_ust_ctl_release_object(-1, object);
	free(object);
	return ret;
}

int tf_channel_export(struct tf_channel *channel, int32_t *type, uint8_t **data, size_t *data_size, int *fds,
		      size_t fd_count)
{
	int ret;

	if (fd_count != 1 + 2 * (size_t)channel->stream_count)
		return -EINVAL;
	pthread_mutex_lock(&channel->lock);
	ret = channel->is_closed ? -EBADF : export_locked(channel, type, data, data_size, fds);
	pthread_mutex_unlock(&channel->lock);
	return ret;
}

/* ---- what is asked of all streams ---- */

int tf_channel_flush(struct tf_channel *channel, bool is_final)
{
	int ret = 0;

	for (uint32_t i = 0; i < channel->stream_count && ret == 0; i++) {
		struct tf_stream *stream = &channel->streams[i];

		pthread_mutex_lock(&stream->lock);
		if (channel->is_closed)
			ret = -EBADF;
		else
			tf_stream_flush(stream, is_final);
		pthread_mutex_unlock(&stream->lock);
	}
	tf_pump_notice(channel);
	return ret;
}

int tf_channel_resume(struct tf_channel *channel)
{
	for (uint32_t i = 0; i < channel->stream_count; i++) {
		struct tf_stream *stream = &channel->streams[i];

		pthread_mutex_lock(&stream->lock);
		stream->is_quiescent = false;
		pthread_mutex_unlock(&stream->lock);
	}
	return channel->is_closed ? -EBADF : 0;
}

/* True when all that is complete is written. */
static bool drain_stream(struct tf_channel *channel, struct tf_stream *stream, uint64_t end_ms)
{
	enum tf_turn_result result;
	uint64_t settled_sequence;
	struct tf_fleet *fleet;
	int loss_packets = 0;
	bool is_jammed;

	for (;;) {
		pthread_mutex_lock(&stream->lock);
		result = channel->is_closed ? TF_TURN_FAILED : tf_stream_turn(stream, true);
		if (result == TF_TURN_EMPTY && loss_packets < LOSS_PACKETS_PER_DRAIN && tf_stream_tell_losses(stream)) {
			loss_packets++;
			result = TF_TURN_WROTE;
		}
		is_jammed = stream->is_jam_reported;
		settled_sequence = stream->settled_sequence;
		/* The relay daemon has not answered for longer than anybody should wait. */
		if (result == TF_TURN_GAVE && stream->error != 0)
			result = TF_TURN_FAILED;
		if (tf_now_ms() >= end_ms && result != TF_TURN_EMPTY)
			result = TF_TURN_FAILED;
		fleet = result == TF_TURN_GAVE ? tf_fleet_get(stream->fleet) : NULL; /* a close may come in between */
		pthread_mutex_unlock(&stream->lock);
		if (result == TF_TURN_EMPTY)
			return true;
		/* The first attempt is for the caller's sake; a disk that refuses it will not change its mind at once. */
		if (result == TF_TURN_FAILED)
			return false;
		if (result == TF_TURN_GAVE) {
			tf_fleet_await_progress(fleet, stream->fleet_key, settled_sequence, tf_now_ms() + FLEET_POLL_MS);
			tf_fleet_put(fleet);
		} else if (result == TF_TURN_HOLE) {
			if (is_jammed)
				return false;
			poll(NULL, 0, HOLE_POLL_MS);
		}
	}
}

int tf_channel_drain(struct tf_channel *channel, uint32_t deadline_ms)
{
	const uint64_t end_ms = tf_now_ms() + deadline_ms;
	bool is_complete = true;

	if (channel->is_closed)
		return -EBADF;
	for (uint32_t i = 0; i < channel->stream_count; i++)
		is_complete &= drain_stream(channel, &channel->streams[i], end_ms);
	tf_pump_notice(channel);
	return is_complete;
}

int tf_channel_repair(struct tf_channel *channel, bool is_tracing)
{
	int repaired = 0, ret = 0;

	if (!has_repair)
		return -ENOTSUP;
	for (uint32_t i = 0; i < channel->stream_count && ret >= 0; i++) {
		struct tf_stream *stream = &channel->streams[i];

		pthread_mutex_lock(&stream->lock);
		if (channel->is_closed)
			ret = -EBADF;
		else if (is_tracing)
			ret = stream->is_jam_reported ? tf_stream_repair(stream, stream->jam_limit) : 0;
		else
			ret = tf_stream_repair(stream, UINT64_MAX);
		pthread_mutex_unlock(&stream->lock);
		if (ret > 0)
			repaired += ret;
	}
	tf_pump_notice(channel);
	return ret < 0 ? ret : repaired;
}

int tf_channel_books(struct tf_channel *channel, struct tf_stream_books *books, size_t count)
{
	if (count != channel->stream_count)
		return -EINVAL;
	for (uint32_t i = 0; i < channel->stream_count; i++) {
		struct tf_stream *stream = &channel->streams[i];

		pthread_mutex_lock(&stream->lock);
		books[i] = (struct tf_stream_books){
			.cpu = i,
			.packet_count = stream->packet_count,
			.bytes = stream->byte_count,
			.discarded_event_count = tf_stream_count_discarded(stream),
			.lost_packet_count = stream->lost_packet_count,
			.unwritten_packet_count = stream->ust && (stream->error != 0 || stream->refused_since_ms) ?
							  tf_stream_count_complete(stream) :
							  stream->unwritten_packet_count,
		};
		pthread_mutex_unlock(&stream->lock);
	}
	return 0;
}

int tf_channel_usage(struct tf_channel *channel, struct tf_channel_usage *usage)
{
	int ret = 0;

	*usage = (struct tf_channel_usage){ .lowest = UINT64_MAX };
	for (uint32_t i = 0; i < channel->stream_count; i++) {
		struct tf_stream *stream = &channel->streams[i];
		uint64_t consumed, produced, unread;

		pthread_mutex_lock(&stream->lock);
		ret = channel->is_closed ? -EBADF : tf_stream_positions(stream, &consumed, &produced);
		pthread_mutex_unlock(&stream->lock);
		if (ret == -EBADF)
			return ret;
		if (ret < 0)
			continue; /* a broken stream has no usage worth telling */
		unread = produced - consumed;
		usage->lowest = unread < usage->lowest ? unread : usage->lowest;
		usage->highest = unread > usage->highest ? unread : usage->highest;
		usage->consumed += consumed;
	}
	if (usage->lowest == UINT64_MAX)
		usage->lowest = 0;
	return 0;
}

int tf_channel_error(struct tf_channel *channel)
{
	int error = 0;

	for (uint32_t i = 0; i < channel->stream_count && error == 0; i++) {
		pthread_mutex_lock(&channel->streams[i].lock);
		error = -channel->streams[i].error;
		pthread_mutex_unlock(&channel->streams[i].lock);
	}
	return error;
}
