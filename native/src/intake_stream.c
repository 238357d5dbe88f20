#include "intake.h"

#include "io.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Padding up to that goes with the data in one call; more is a hole that costs no space. */
#define ZERO_SIZE 4096
#define COPY_SIZE (256 << 10)

struct intake_stream *tf_intake_stream_new(uint64_t handle)
{
	struct intake_stream *stream = calloc(1, sizeof(*stream));

	if (!stream)
		return NULL;
	stream->node.key = handle;
	stream->reference_count = 1;
	stream->target.fd = stream->target.index_fd = -1;
	pthread_mutex_init(&stream->lock, NULL);
	tf_intake_join_init(&stream->join);
	return stream;
}

/* With the stream's lock held: before the descriptors go, the device must have what somebody is to be told. */
static void sync_files(struct intake_stream *stream)
{
	const struct tf_intake_target *target = &stream->target;

	if (!target->is_synced || target->fd < 0 || stream->synced_sequence >= target->next_sequence)
		return;
	if (fdatasync(target->fd) < 0 || (target->index_fd >= 0 && fdatasync(target->index_fd) < 0))
		stream->sync_error = errno;
	else
		stream->synced_sequence = target->next_sequence;
}

static void close_files(struct intake_stream *stream)
{
	if (stream->target.fd >= 0)
		close(stream->target.fd);
	if (stream->target.index_fd >= 0)
		close(stream->target.index_fd);
	stream->target.fd = stream->target.index_fd = -1;
}

void tf_intake_stream_free(struct intake_stream *stream)
{
	close_files(stream);
	tf_intake_join_destroy(&stream->join);
	pthread_mutex_destroy(&stream->lock);
	free(stream);
}

void tf_intake_stream_revoke(struct intake_stream *stream)
{
	pthread_mutex_lock(&stream->lock);
	sync_files(stream);
	close_files(stream);
	pthread_mutex_unlock(&stream->lock);
}

void tf_intake_stream_remove(struct intake_stream *stream)
{
	pthread_mutex_lock(&stream->lock);
	if (stream->writer && stream->target.fd >= 0)
		tf_truncate(stream->target.fd, (off_t)stream->target.offset);
	stream->is_removed = true;
	close_files(stream);
	tf_intake_join_stop(stream);
	pthread_mutex_unlock(&stream->lock);
}

/* ---- targets ---- */

static int copy(int from_fd, off_t from, int to_fd, off_t to, uint64_t size)
{
	uint8_t *buffer = malloc(COPY_SIZE);
	int ret = buffer ? 0 : -ENOMEM;

	while (ret == 0 && size > 0) {
		ssize_t count = pread(from_fd, buffer, size < COPY_SIZE ? (size_t)size : COPY_SIZE, from);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0) {
			ret = count < 0 ? -errno : -EIO;
			break;
		}
		ret = tf_write_whole(to_fd, buffer, (size_t)count, to);
		from += count;
		to += count;
		size -= (uint64_t)count;
	}
	free(buffer);
	return ret;
}

/* Move what has arrived of the packet under way. */
static int move_packet(struct intake_stream *stream, int fd, uint64_t offset)
{
	int ret = copy(stream->target.fd, (off_t)stream->target.offset, fd, (off_t)offset, stream->received);

	if (ret < 0)
		tf_truncate(fd, (off_t)offset);
	else
		tf_truncate(stream->target.fd, (off_t)stream->target.offset);
	return ret;
}

/* The caller may have truncated it to begin anew: then it is another one. */
static bool is_same_file(const struct intake_stream *stream, const struct stat *status)
{
	return stream->target_number > 0 && status->st_dev == stream->device && status->st_ino == stream->inode &&
	       (uint64_t)status->st_size >= stream->target.offset + stream->received;
}

/* With the stream's lock held. The offset that @target means in its file, to which a packet under way was moved. */
static int place(struct intake_stream *stream, const struct tf_intake_target *target, const struct stat *status,
		 uint64_t *offset)
{
	*offset = target->offset;
	if (is_same_file(stream, status)) {
		if (*offset == TF_INTAKE_KEEP_OFFSET)
			*offset = stream->target.offset;
		/* What was written since the caller looked must not be cut. */
		if (*offset != stream->target.offset)
			return -ESTALE;
		return 0;
	}
	if (*offset == TF_INTAKE_KEEP_OFFSET)
		return -ESTALE;
	if (*offset > (uint64_t)status->st_size)
		return -EINVAL;
	if (stream->received > 0 && status->st_dev == stream->device && status->st_ino == stream->inode)
		return -EINVAL; /* truncated under the packet */
	if (stream->target.fd < 0 && (stream->received > 0 || stream->has_rest))
		return -EBADF;
	return stream->received > 0 ? move_packet(stream, target->fd, *offset) : 0;
}

static int stat_file(int fd, struct stat *status)
{
	if (fstat(fd, status) < 0)
		return -errno;
	return S_ISREG(status->st_mode) ? 0 : -EINVAL;
}

/* With the stream's lock held. The numbers that @target means for its index file, and for the next packet. */
static int place_index(struct intake_stream *stream, const struct tf_intake_target *target, bool is_same,
		       uint64_t *index_offset, uint64_t *next_sequence)
{
	const bool is_first = stream->target_number == 0;
	struct stat status;
	int ret;

	*next_sequence = target->next_sequence;
	if (*next_sequence == TF_INTAKE_KEEP_OFFSET)
		*next_sequence = is_first ? 0 : stream->target.next_sequence;
	if (!is_first && *next_sequence != stream->target.next_sequence)
		return -ESTALE;
	*index_offset = target->index_fd < 0 ? 0 : target->index_offset;
	if (target->index_fd < 0)
		return is_same && stream->target.index_offset > 0 ? -ESTALE : 0;
	if (*index_offset == TF_INTAKE_KEEP_OFFSET && is_same)
		*index_offset = stream->target.index_offset;
	if (*index_offset == TF_INTAKE_KEEP_OFFSET || (is_same && *index_offset != stream->target.index_offset))
		return -ESTALE;
	ret = stat_file(target->index_fd, &status);
	if (ret < 0)
		return ret;
	return *index_offset > (uint64_t)status.st_size ? -EINVAL : 0;
}

static int set_target(struct intake_stream *stream, const struct tf_intake_target *target)
{
	uint64_t offset, index_offset, next_sequence;
	struct stat status;
	bool is_same;
	int ret;

	ret = stat_file(target->fd, &status);
	if (ret < 0)
		return ret;
	if (stream->is_removed)
		return -ENOENT;
	if (stream->sync_error)
		return -EIO;
	is_same = is_same_file(stream, &status);
	ret = place_index(stream, target, is_same, &index_offset, &next_sequence);
	if (ret == 0)
		ret = place(stream, target, &status, &offset);
	if (ret < 0)
		return ret;
	if (!is_same) {
		sync_files(stream);
		tf_intake_join_stop(stream); /* its entries are of packets in the former file */
	}
	if (stream->target_number == 0)
		stream->synced_sequence = next_sequence;
	if ((uint64_t)status.st_size > offset + stream->received)
		tf_truncate(target->fd, (off_t)(offset + stream->received));
	if (target->index_fd >= 0)
		tf_truncate(target->index_fd, (off_t)index_offset);
	/* The caller may only want other limits. */
	if (stream->target.fd == target->fd)
		stream->target.fd = -1;
	if (stream->target.index_fd == target->index_fd)
		stream->target.index_fd = -1;
	close_files(stream);
	stream->target = *target;
	stream->target.offset = offset;
	stream->target.index_offset = index_offset;
	stream->target.next_sequence = next_sequence;
	stream->device = status.st_dev;
	stream->inode = status.st_ino;
	stream->has_rest = false;
	atomic_store_explicit(&stream->has_no_splice, false, memory_order_relaxed);
	if (!is_same)
		stream->target_number++;
	return 0;
}

int tf_intake_stream_set_target(struct intake_stream *stream, const struct tf_intake_target *target)
{
	int ret;

	pthread_mutex_lock(&stream->lock);
	ret = set_target(stream, target);
	pthread_mutex_unlock(&stream->lock);
	return ret;
}

/* ---- packets ---- */

static enum intake_step hold(struct intake_connection *connection, int reason, int error)
{
	connection->reason = reason;
	connection->error = error;
	return INTAKE_HOLD;
}

#define REASON_UNWANTED (-1)
#define REASON_BEACON (-2)

/* With the stream's lock held. Reasons that make the former file superfluous come first: nobody need open it again. */
static int reason_against(const struct intake_stream *stream, const struct intake_connection *connection)
{
	const struct tf_intake_target *target = &stream->target;
	const struct intake_packet *packet = &connection->packet;

	if (stream->is_removed)
		return TF_INTAKE_UNKNOWN_STREAM;
	if (connection->group != 0 && target->group != 0 && connection->group != target->group)
		return TF_INTAKE_FOREIGN_STREAM;
	if (packet->is_beacon)
		return REASON_BEACON;
	if (stream->writer)
		return TF_INTAKE_STREAM_BUSY;
	if (stream->sync_error)
		return TF_INTAKE_WRITE_FAILED;
	if (connection->fleet && packet->net_seq != target->next_sequence)
		return REASON_UNWANTED;
	if (target->stop_net_seq != TF_INTAKE_NO_STOP && packet->net_seq >= target->stop_net_seq)
		return TF_INTAKE_STOPPED;
	if (target->size_limit > 0 && target->offset + packet->data_size > target->size_limit &&
	    (connection->full_target_number == 0 || connection->full_target_number == stream->target_number))
		return TF_INTAKE_FILE_FULL;
	return target->fd < 0 ? TF_INTAKE_NO_FILE : 0;
}

/* With the stream's lock held: a packet that is there already, or one that comes too early. */
static void refuse(struct intake_stream *stream, struct intake_connection *connection)
{
	const uint64_t next = stream->target.next_sequence;
	const bool is_duplicate = connection->packet.net_seq < next;

	if (is_duplicate)
		stream->books.duplicate_count++;
	tf_intake_fleet_note(connection, is_duplicate ? TF_FLEET_WRITTEN : TF_FLEET_GAP, next - 1);
}

enum intake_step tf_intake_stream_begin(struct intake_stream *stream, struct intake_connection *connection)
{
	int reason, error;

	pthread_mutex_lock(&stream->lock);
	reason = reason_against(stream, connection);
	error = reason == TF_INTAKE_WRITE_FAILED ? stream->sync_error : 0;
	if (reason == REASON_UNWANTED) {
		refuse(stream, connection);
	} else if (reason == REASON_BEACON) {
		/* With a packet before it still to come, it would be a promise that does not hold. */
		if (connection->packet.net_seq == stream->target.next_sequence)
			tf_intake_report_packet(connection, 0);
	} else if (reason == 0) {
		stream->writer = connection;
		connection->stream = stream;
		if (connection->group == 0)
			connection->group = stream->target.group;
	} else if (reason == TF_INTAKE_FILE_FULL) {
		connection->full_target_number = stream->target_number;
	}
	pthread_mutex_unlock(&stream->lock);
	if (reason < 0)
		return INTAKE_UNWANTED;
	return reason == 0 ? INTAKE_GO : hold(connection, reason, error);
}

static uint64_t size_of(const struct intake_packet *packet)
{
	return (uint64_t)packet->data_size + packet->padding_size;
}

/* With the stream's lock held: the packet is no longer under way. The reference is still the connection's. */
static void leave_packet(struct intake_stream *stream, struct intake_connection *connection)
{
	stream->writer = NULL;
	stream->received = 0;
	connection->stream = NULL;
	connection->header_size = 0;
	connection->full_target_number = 0;
}

/* With the stream's lock held. */
static void end_packet(struct intake_stream *stream, struct intake_connection *connection)
{
	const struct intake_packet *packet = &connection->packet;
	const uint64_t offset = stream->target.offset;

	stream->target.offset += size_of(packet);
	stream->books.packet_count++;
	stream->books.data_bytes += packet->data_size;
	stream->books.padding_bytes += packet->padding_size;
	leave_packet(stream, connection);
	if (connection->fleet || !tf_intake_join_data(stream, connection, offset))
		tf_intake_report_packet(connection, offset);
}

/* With the stream's lock held: @data, and with the last of it the padding when that is little. Bytes or -errno. */
static ssize_t write_data(struct intake_stream *stream, const struct intake_packet *packet, const uint8_t *data,
			  size_t size)
{
	static const uint8_t zeros[ZERO_SIZE];
	const struct iovec vector[2] = { { (void *)(uintptr_t)data, size }, { (void *)(uintptr_t)zeros, packet->padding_size } };
	const bool is_last = stream->received + size == packet->data_size;
	const int count = is_last && packet->padding_size <= ZERO_SIZE ? 2 : 1;
	ssize_t written;

	do {
		written = pwritev(stream->target.fd, vector, count, (off_t)(stream->target.offset + stream->received));
	} while (written < 0 && errno == EINTR);
	if (written == 0)
		return -ENOSPC;
	return written < 0 ? -errno : written;
}

/* With the stream's lock held. */
static int write_padding(struct intake_stream *stream, const struct intake_packet *packet)
{
	const off_t end = (off_t)(stream->target.offset + size_of(packet));
	int ret;

	do {
		ret = ftruncate(stream->target.fd, end);
	} while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -errno;
	stream->received = size_of(packet);
	return 0;
}

/*
 * With the stream's lock held: index entry and answer of a packet whose data and padding are in the file. Leaves the
 * packet when it is corrupt.
 */
static int end_fleet_packet(struct intake_stream *stream, struct intake_connection *connection)
{
	uint64_t entry[INTAKE_INDEX_ENTRY_SIZE / 8];
	struct tf_intake_target *target = &stream->target;
	int ret;

	if (tf_intake_fleet_is_corrupt(connection)) {
		tf_truncate(target->fd, (off_t)target->offset);
		stream->books.cut_count++;
		tf_intake_fleet_note(connection, TF_FLEET_CORRUPT, target->next_sequence - 1);
		leave_packet(stream, connection);
		return 0;
	}
	if (target->index_fd >= 0) {
		tf_intake_fleet_index_entry(connection, target->offset, entry);
		ret = tf_write_whole(target->index_fd, entry, sizeof(entry), (off_t)target->index_offset);
		if (ret < 0) {
			tf_truncate(target->index_fd, (off_t)target->index_offset);
			return ret;
		}
		target->index_offset += sizeof(entry);
	}
	tf_intake_fleet_note(connection, TF_FLEET_WRITTEN, target->next_sequence++);
	return 0;
}

/* With the stream's lock held. */
static enum intake_step write_some(struct intake_stream *stream, struct intake_connection *connection,
				   const uint8_t *data, size_t size, size_t *used)
{
	const struct intake_packet *packet = &connection->packet;
	int ret;

	if (stream->is_removed) {
		connection->error = ENOENT;
		return INTAKE_OVER;
	}
	if (size == 0 && stream->received < packet->data_size)
		return INTAKE_GO;
	if (stream->target.fd < 0)
		return hold(connection, TF_INTAKE_NO_FILE, 0);
	while (*used < size && stream->received < packet->data_size) {
		const uint64_t missing = packet->data_size - stream->received;
		const size_t part = size - *used < missing ? size - *used : (size_t)missing;
		const ssize_t written = write_data(stream, packet, data + *used, part);

		if (written < 0)
			return hold(connection, TF_INTAKE_WRITE_FAILED, (int)-written);
		if (connection->fleet)
			tf_intake_fleet_check(connection, data + *used, (size_t)written < part ? (size_t)written : part);
		*used += (size_t)written < part ? (size_t)written : part;
		stream->received += (uint64_t)written;
	}
	if (stream->received < packet->data_size)
		return INTAKE_GO;
	ret = stream->received < size_of(packet) ? write_padding(stream, packet) : 0;
	if (ret == 0 && connection->fleet)
		ret = end_fleet_packet(stream, connection);
	if (ret < 0)
		return hold(connection, TF_INTAKE_WRITE_FAILED, -ret);
	if (connection->stream)
		end_packet(stream, connection);
	return INTAKE_GO;
}

enum intake_step tf_intake_stream_write(struct intake_connection *connection, const uint8_t *data, size_t size,
					size_t *used)
{
	struct intake_stream *stream = connection->stream;
	enum intake_step step;

	*used = 0;
	pthread_mutex_lock(&stream->lock);
	step = write_some(stream, connection, data, size, used);
	pthread_mutex_unlock(&stream->lock);
	if (!connection->stream)
		tf_intake_put_stream(connection->intake, stream);
	return step;
}

size_t tf_intake_stream_splice(struct intake_connection *connection, int pipe_fd, size_t size)
{
	struct intake_stream *stream = connection->stream;
	size_t moved = 0;

	pthread_mutex_lock(&stream->lock);
	while (moved < size && !stream->is_removed && stream->target.fd >= 0) {
		off_t at = (off_t)(stream->target.offset + stream->received);
		const ssize_t count = splice(pipe_fd, NULL, stream->target.fd, &at, size - moved, SPLICE_F_MOVE);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 && errno == EINVAL)
			atomic_store_explicit(&stream->has_no_splice, true, memory_order_relaxed); /* the file system */
		if (count <= 0)
			break;
		moved += (size_t)count;
		stream->received += (uint64_t)count;
	}
	pthread_mutex_unlock(&stream->lock);
	return moved;
}

size_t tf_intake_stream_missing(const struct intake_connection *connection)
{
	/* Only the writer, who asks, changes it; a target that moves leaves it alone. */
	const uint64_t received = connection->stream->received;

	return received < connection->packet.data_size ? connection->packet.data_size - received : 0;
}

/* With the stream's lock held. Copies of the descriptors, for a sync that others need not wait for. */
static bool copy_files(const struct intake_stream *stream, int *fd, int *index_fd)
{
	const struct tf_intake_target *target = &stream->target;

	*index_fd = -1;
	*fd = fcntl(target->fd, F_DUPFD_CLOEXEC, 0);
	if (*fd >= 0 && target->index_fd >= 0)
		*index_fd = fcntl(target->index_fd, F_DUPFD_CLOEXEC, 0);
	if (*fd >= 0 && (*index_fd >= 0 || target->index_fd < 0))
		return true;
	if (*fd >= 0)
		close(*fd);
	return false;
}

/* With the stream's lock held, which is given back while the device works. */
static void sync_copies(struct intake_stream *stream, int fd, int index_fd)
{
	const uint64_t end = stream->target.next_sequence;
	int error = 0;

	pthread_mutex_unlock(&stream->lock);
	if (fdatasync(fd) < 0 || (index_fd >= 0 && fdatasync(index_fd) < 0))
		error = errno;
	close(fd);
	if (index_fd >= 0)
		close(index_fd);
	pthread_mutex_lock(&stream->lock);
	if (error)
		stream->sync_error = error;
	else if (stream->synced_sequence < end)
		stream->synced_sequence = end;
}

int tf_intake_stream_sync(struct intake_stream *stream, uint64_t sequence)
{
	int fd, index_fd, ret;

	pthread_mutex_lock(&stream->lock);
	/* Who closes the files syncs before, so here they are open. */
	if (stream->target.is_synced && stream->synced_sequence <= sequence && stream->sync_error == 0) {
		if (copy_files(stream, &fd, &index_fd))
			sync_copies(stream, fd, index_fd);
		else
			sync_files(stream);
	}
	ret = stream->sync_error ? -stream->sync_error : stream->target.is_synced ? 1 : 0;
	pthread_mutex_unlock(&stream->lock);
	return ret;
}

void tf_intake_stream_abort(struct intake_connection *connection)
{
	struct intake_stream *stream = connection->stream;

	if (!stream)
		return;
	pthread_mutex_lock(&stream->lock);
	stream->books.cut_count++;
	if (stream->target.fd >= 0)
		tf_truncate(stream->target.fd, (off_t)stream->target.offset);
	else if (stream->received > 0)
		stream->has_rest = true;
	leave_packet(stream, connection);
	pthread_mutex_unlock(&stream->lock);
	tf_intake_put_stream(connection->intake, stream);
}
