#include <tracefleet/spool.h>

#include "crc32c.h"
#include "guard.h"
#include "io.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_NAME "frames"
#define HEADER_SIZE sizeof(struct tf_fleet_header)
/* Data passes through here between the buffers and the file, in pieces that stay in the processor's cache. */
#define BUFFER_SIZE (256 << 10)
/* Each piece that is given back costs the file system a transaction. */
#define GIVE_BACK_SIZE (4 << 20)

struct spool_stream { /* all 0: nothing was ever seen of it */
	uint64_t begin; /* all before it are released */
	uint64_t next;	/* after the latest that was appended */
};

struct tf_spool {
	int directory_fd, fd;
	bool is_directory_synced;
	bool has_holes; /* as far as we know, the file system can give back parts of a file */
	uint64_t size_limit, block_size;
	uint8_t *buffer;
	struct spool_stream *streams; /* by handle */
	size_t stream_count, stream_capacity;
	/* Offsets in the file: what was given back is before the oldest frame that is not released. */
	uint64_t given_back, front, read_position, end;
	uint64_t front_handle, front_sequence, front_size; /* of the frame at front; size 0: not known yet */
	uint64_t frame_count, appended_count, released_count;
};

static uint64_t frame_size(const struct tf_fleet_header *header)
{
	return HEADER_SIZE + header->data_size;
}

/* Swap every field between host order and little-endian: the same both ways. */
static void swap_header(struct tf_fleet_header *header)
{
	header->magic = le32toh(header->magic);
	header->header_crc = le32toh(header->header_crc);
	header->handle = le64toh(header->handle);
	header->sequence = le64toh(header->sequence);
	header->data_size = le32toh(header->data_size);
	header->padding_size = le32toh(header->padding_size);
	header->payload_crc = le32toh(header->payload_crc);
	header->flags = le32toh(header->flags);
	header->packet_size = le64toh(header->packet_size);
	header->content_size = le64toh(header->content_size);
	header->timestamp_begin = le64toh(header->timestamp_begin);
	header->timestamp_end = le64toh(header->timestamp_end);
	header->events_discarded = le64toh(header->events_discarded);
	header->stream_class_id = le64toh(header->stream_class_id);
	header->stream_instance_id = le64toh(header->stream_instance_id);
	header->packet_seq_num = le64toh(header->packet_seq_num);
	for (int i = 0; i < 3; i++)
		header->reserved[i] = le64toh(header->reserved[i]);
}

/* Read all of @size bytes. 0 or a negative errno; -EBADMSG: the file ends before. */
static int read_whole(int fd, void *bytes, size_t size, uint64_t offset)
{
	uint8_t *next = bytes;

	while (size > 0) {
		const ssize_t count = pread(fd, next, size, (off_t)offset);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return count < 0 ? -errno : -EBADMSG;
		next += count;
		offset += (uint64_t)count;
		size -= (size_t)count;
	}
	return 0;
}

/* The header at @offset, in host order. -EBADMSG: it is none, or its data is not all there before @end. */
static int read_header(const struct tf_spool *spool, uint64_t offset, uint64_t end, struct tf_fleet_header *header)
{
	struct tf_fleet_header raw;
	int ret;

	if (end - offset < HEADER_SIZE)
		return -EBADMSG;
	ret = read_whole(spool->fd, &raw, sizeof(raw), offset);
	if (ret < 0)
		return ret;
	*header = raw;
	swap_header(header);
	raw.header_crc = 0;
	if (header->magic != TF_FLEET_HEADER_MAGIC || header->header_crc != tf_crc32c(0, &raw, sizeof(raw)) ||
	    header->handle >= TF_SPOOL_STREAM_COUNT_MAX || header->data_size > end - offset - HEADER_SIZE)
		return -EBADMSG;
	return 0;
}

/* Make room for @handle in the table, so that note_appended() cannot fail. */
static int reserve_stream(struct tf_spool *spool, uint64_t handle)
{
	size_t capacity = spool->stream_capacity;
	struct spool_stream *streams;

	if (handle >= TF_SPOOL_STREAM_COUNT_MAX)
		return -EINVAL;
	if (handle < capacity)
		return 0;
	capacity = 2 * handle > 64 ? 2 * handle : 64;
	streams = realloc(spool->streams, capacity * sizeof(*streams));
	if (!streams)
		return -ENOMEM;
	memset(streams + spool->stream_capacity, 0, (capacity - spool->stream_capacity) * sizeof(*streams));
	spool->streams = streams;
	spool->stream_capacity = capacity;
	return 0;
}

static void note_appended(struct tf_spool *spool, const struct tf_fleet_header *header)
{
	struct spool_stream *stream = &spool->streams[header->handle];

	if (header->handle >= spool->stream_count)
		spool->stream_count = header->handle + 1;
	if (header->sequence != stream->next)
		stream->begin = header->sequence;
	stream->next = header->sequence + 1;
	spool->end += frame_size(header);
	spool->frame_count++;
}

/* ---- what is found ---- */

/* Where the first frame may begin: what was given back reads as zeros. @size when there is nothing else. */
static int find_front(const struct tf_spool *spool, uint64_t size, uint64_t *front)
{
	const off_t data = lseek(spool->fd, 0, SEEK_DATA);
	uint64_t offset = data > 0 ? (uint64_t)data : 0;

	*front = size;
	if (data < 0 && errno == ENXIO)
		return 0; /* nothing but a hole */
	while (offset < size) {
		const size_t piece = size - offset < BUFFER_SIZE ? size - offset : BUFFER_SIZE;
		const int ret = read_whole(spool->fd, spool->buffer, piece, offset);

		if (ret < 0)
			return ret;
		for (size_t i = 0; i < piece; i++)
			if (spool->buffer[i] != 0) {
				*front = offset + i;
				return 0;
			}
		offset += piece;
	}
	return 0;
}

/* 0 when the data of the frame at @offset is what its checksum says; otherwise -EBADMSG, or another negative errno. */
static int check_data(const struct tf_spool *spool, uint64_t offset, const struct tf_fleet_header *header)
{
	uint32_t crc = 0;

	offset += HEADER_SIZE;
	for (uint32_t done = 0; done < header->data_size;) {
		const uint32_t rest = header->data_size - done, piece = rest < BUFFER_SIZE ? rest : BUFFER_SIZE;
		const int ret = read_whole(spool->fd, spool->buffer, piece, offset + done);

		if (ret < 0)
			return ret;
		crc = tf_crc32c(crc, spool->buffer, piece);
		done += piece;
	}
	return crc == header->payload_crc ? 0 : -EBADMSG;
}

/* The frame at the end of what was found so far, which is put to it. -EBADMSG: what is there is none. */
static int find_frame(struct tf_spool *spool, uint64_t size)
{
	struct tf_fleet_header header;
	int ret = read_header(spool, spool->end, size, &header);

	if (ret < 0)
		return ret;
	ret = check_data(spool, spool->end, &header);
	if (ret < 0)
		return ret;
	ret = reserve_stream(spool, header.handle);
	if (ret < 0)
		return ret;
	if (header.sequence < spool->streams[header.handle].next || header.sequence == TF_FLEET_NO_SEQUENCE)
		return -EBADMSG;
	note_appended(spool, &header);
	return 0;
}

static int find_frames(struct tf_spool *spool, bool *is_damaged)
{
	struct stat status;
	uint64_t size;
	int ret;

	*is_damaged = false;
	if (fstat(spool->fd, &status) < 0)
		return -errno;
	if (!S_ISREG(status.st_mode))
		return -EINVAL;
	spool->block_size = status.st_blksize > 0 ? (uint64_t)status.st_blksize : 1;
	size = (uint64_t)status.st_size;
	ret = find_front(spool, size, &spool->front);
	if (ret < 0)
		return ret;
	spool->given_back = spool->read_position = spool->end = spool->front;
	while (spool->end < size) {
		ret = find_frame(spool, size);
		if (ret == -EBADMSG) {
			*is_damaged = true;
			break;
		}
		if (ret < 0)
			return ret;
	}
	if (spool->frame_count == 0)
		spool->given_back = spool->front = spool->read_position = spool->end = 0;
	if (spool->end < size && ftruncate(spool->fd, (off_t)spool->end) < 0)
		return -errno;
	return 0;
}

int tf_spool_open(const char *directory, uint64_t size_limit, struct tf_spool **out, bool *is_damaged)
{
	struct tf_spool *spool = calloc(1, sizeof(*spool));
	int ret;

	if (!spool)
		return -ENOMEM;
	spool->size_limit = size_limit;
	spool->has_holes = true;
	spool->fd = -1;
	spool->directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (spool->directory_fd < 0)
		goto err_errno;
	/* Not blocking: somebody may have put a pipe there. */
	spool->fd = openat(spool->directory_fd, FILE_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (spool->fd < 0)
		goto err_errno;
	if (flock(spool->fd, LOCK_EX | LOCK_NB) < 0) {
		ret = errno == EWOULDBLOCK ? -EBUSY : -errno;
		goto err;
	}
	spool->buffer = malloc(HEADER_SIZE + BUFFER_SIZE);
	if (!spool->buffer) {
		ret = -ENOMEM;
		goto err;
	}
	ret = find_frames(spool, is_damaged);
	if (ret < 0)
		goto err;
	*out = spool;
	return 0;

err_errno:
	ret = -errno;
err:
	tf_spool_close(spool);
	return ret;
}

void tf_spool_close(struct tf_spool *spool)
{
	if (spool->fd >= 0)
		close(spool->fd);
	if (spool->directory_fd >= 0)
		close(spool->directory_fd);
	free(spool->streams);
	free(spool->buffer);
	free(spool);
}

/* ---- what comes and goes ---- */

/* Bytes of disk if the file ended at @end. */
static uint64_t disk_size(const struct tf_spool *spool, uint64_t end)
{
	const uint64_t block = spool->block_size;

	return (end + block - 1) / block * block - spool->given_back / block * block;
}

static void give_back(struct tf_spool *spool)
{
	uint64_t begin;

	if (spool->front == spool->given_back)
		return;
	if (spool->front == spool->end) {
		if (ftruncate(spool->fd, 0) == 0)
			spool->given_back = spool->front = spool->read_position = spool->end = 0;
		return;
	}
	/*
	 * From the block of which a part was left, up to the frame: the begin of its block becomes zeros, behind which
	 * the frame is found again. A file system that cannot do it gets everything back when the spool is empty.
	 */
	if (!spool->has_holes)
		return;
	begin = spool->given_back / spool->block_size * spool->block_size;
	if (fallocate(spool->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)begin,
		      (off_t)(spool->front - begin)) == 0)
		spool->given_back = spool->front;
	else if (errno == EOPNOTSUPP || errno == ENOSYS)
		spool->has_holes = false;
}

struct piece {
	uint8_t *to;
	const void *from;
	size_t size;
};

static int copy(void *argument)
{
	const struct piece *piece = argument;

	memcpy(piece->to, piece->from, piece->size);
	return 0;
}

/*
 * Put the frame to the end of the file. Its writer may scribble over the data meanwhile, so what is summed up is the
 * copy that is written. Without its header there is no frame, so the header comes with the data, or after it.
 */
static int write_frame(struct tf_spool *spool, struct tf_fleet_header *header, const void *data)
{
	const uint32_t data_size = header->data_size;
	struct piece piece = { .to = spool->buffer + HEADER_SIZE };
	size_t size_together = 0;
	uint32_t crc = 0;
	int ret;

	for (size_t done = 0; done < data_size; done += piece.size) {
		piece.from = (const uint8_t *)data + done;
		piece.size = data_size - done < BUFFER_SIZE ? data_size - done : BUFFER_SIZE;
		if (tf_guarded(copy, &piece, piece.from, piece.size) == TF_GUARD_TRIPPED)
			return -EFAULT;
		crc = tf_crc32c(crc, piece.to, piece.size);
		if (piece.size == data_size) {
			size_together = piece.size;
			break;
		}
		ret = tf_write_whole(spool->fd, piece.to, piece.size, (off_t)(spool->end + HEADER_SIZE + done));
		if (ret < 0)
			return ret;
	}
	header->magic = TF_FLEET_HEADER_MAGIC;
	header->payload_crc = crc;
	header->header_crc = 0;
	swap_header(header);
	header->header_crc = htole32(tf_crc32c(0, header, sizeof(*header)));
	memcpy(spool->buffer, header, sizeof(*header));
	return tf_write_whole(spool->fd, spool->buffer, HEADER_SIZE + size_together, (off_t)spool->end);
}

static bool is_released(const struct tf_spool *spool, uint64_t handle, uint64_t sequence)
{
	return handle < spool->stream_count && sequence < spool->streams[handle].begin;
}

/* Bring the front to the oldest frame that is not released. 0 or a negative errno. */
static int advance(struct tf_spool *spool)
{
	while (spool->front < spool->end) {
		if (spool->front_size == 0) {
			struct tf_fleet_header header;
			const int ret = read_header(spool, spool->front, spool->end, &header);

			if (ret < 0)
				return ret;
			spool->front_handle = header.handle;
			spool->front_sequence = header.sequence;
			spool->front_size = frame_size(&header);
		}
		if (!is_released(spool, spool->front_handle, spool->front_sequence))
			break;
		spool->front += spool->front_size;
		spool->front_size = 0;
		spool->frame_count--;
		spool->released_count++;
	}
	if (spool->read_position < spool->front)
		spool->read_position = spool->front;
	return 0;
}

int tf_spool_append(struct tf_spool *spool, const struct tf_fleet_header *header, const void *data)
{
	struct tf_fleet_header written = *header;
	int ret;

	if (header->sequence == TF_FLEET_NO_SEQUENCE)
		return -EINVAL;
	ret = reserve_stream(spool, header->handle);
	if (ret < 0)
		return ret;
	if (header->sequence < spool->streams[header->handle].next)
		return -EINVAL;
	if (disk_size(spool, spool->end + frame_size(header)) > spool->size_limit) {
		ret = advance(spool);
		if (ret < 0)
			return ret;
		give_back(spool);
		if (disk_size(spool, spool->end + frame_size(header)) > spool->size_limit)
			return -ENOSPC;
	}
	ret = write_frame(spool, &written, data);
	if (ret < 0) {
		tf_truncate(spool->fd, (off_t)spool->end);
		return ret;
	}
	note_appended(spool, header);
	spool->appended_count++;
	return 0;
}

int tf_spool_sync(struct tf_spool *spool)
{
	if (fdatasync(spool->fd) < 0)
		return -errno;
	if (!spool->is_directory_synced && fsync(spool->directory_fd) < 0)
		return -errno;
	spool->is_directory_synced = true;
	return 0;
}

int tf_spool_next(struct tf_spool *spool, struct tf_spool_frame *frame)
{
	while (spool->read_position < spool->end) {
		const int ret = read_header(spool, spool->read_position, spool->end, &frame->header);

		if (ret < 0)
			return ret;
		frame->offset = spool->read_position;
		spool->read_position += frame_size(&frame->header);
		if (!is_released(spool, frame->header.handle, frame->header.sequence))
			return 1;
	}
	return 0;
}

void tf_spool_rewind(struct tf_spool *spool)
{
	spool->read_position = spool->front;
}

ssize_t tf_spool_send(struct tf_spool *spool, int fd, const struct tf_spool_frame *frame, uint32_t begin, uint32_t size)
{
	off_t offset = (off_t)(frame->offset + HEADER_SIZE + begin);
	ssize_t count;

	if (begin > frame->header.data_size || size > frame->header.data_size - begin || frame->offset < spool->front ||
	    frame->offset + frame_size(&frame->header) > spool->end)
		return -EINVAL;
	count = sendfile(fd, spool->fd, &offset, size);
	if (count < 0)
		return -errno;
	/* Somebody has cut the file. */
	return count == 0 && size > 0 ? -EIO : count;
}

int tf_spool_release(struct tf_spool *spool, uint64_t handle, uint64_t sequence)
{
	struct spool_stream *stream;
	int ret;

	if (handle >= spool->stream_count || sequence == TF_FLEET_NO_SEQUENCE)
		return 0;
	stream = &spool->streams[handle];
	if (sequence >= stream->next)
		stream->begin = stream->next;
	else if (sequence >= stream->begin)
		stream->begin = sequence + 1;
	ret = advance(spool);
	if (spool->front == spool->end || spool->front - spool->given_back >= GIVE_BACK_SIZE)
		give_back(spool);
	return ret;
}

/* ---- what is there ---- */

void tf_spool_books(const struct tf_spool *spool, struct tf_spool_books *books)
{
	*books = (struct tf_spool_books){ .frame_count = spool->frame_count,
					  .byte_count = spool->end - spool->front,
					  .disk_size = disk_size(spool, spool->end),
					  .appended_count = spool->appended_count,
					  .released_count = spool->released_count };
}

size_t tf_spool_stream_count(const struct tf_spool *spool)
{
	return spool->stream_count;
}

bool tf_spool_range(const struct tf_spool *spool, uint64_t handle, uint64_t *oldest_sequence, uint64_t *next_sequence)
{
	if (handle >= spool->stream_count || spool->streams[handle].begin == spool->streams[handle].next)
		return false;
	*oldest_sequence = spool->streams[handle].begin;
	*next_sequence = spool->streams[handle].next;
	return true;
}
