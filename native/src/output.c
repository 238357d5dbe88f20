#include "output.h"

#include "credentials.h"
#include "fleet.h"
#include "io.h"
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* As LTTng's: readers have seen this size for years, and an increment of metadata is seldom larger. */
#define METADATA_PACKET_SIZE 4096
#define METADATA_HEADER_SIZE 37
#define METADATA_MAGIC 0x75D11D57u
/* At a relay daemon: what programs announce at once is smaller by far. */
#define METADATA_TEXT_SIZE_MAX (1 << 20)
#define DIRECTORY_MODE 0770
#define FILE_MODE 0660

struct tf_output {
	int reference_count; /* atomic */
	struct tf_relay *relay; /* this and the next NULL: files */
	struct tf_fleet *fleet;
	uint64_t metadata_handle; /* the relay's, or the fleet's key */
	char *root;
	char *relative_path;
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	size_t group_count;
	pthread_mutex_t directory_lock;
	int directory_fd; /* -1: not made yet */
	pthread_mutex_t metadata_lock; /* taken before directory_lock */
	bool is_closed;
	int metadata_fd; /* -1: not made yet */
	off_t metadata_size;
	uint8_t uuid[16];
	int text_fd; /* -1: none, or closed */
	const struct tf_metadata_memory *text; /* NULL: this output has no metadata */
	uint64_t written_text_size; /* atomic, but changes with metadata_lock held */
};

_Static_assert(sizeof(struct tf_metadata_memory) == TF_METADATA_TEXT_OFFSET, "shared with the session daemon");

static bool is_valid_component(const char *name, size_t size)
{
	return size > 0 && size <= NAME_MAX && !(size == 1 && name[0] == '.') &&
	       !(size == 2 && name[0] == '.' && name[1] == '.');
}

static bool is_valid_relative_path(const char *path)
{
	for (;;) {
		size_t size = strcspn(path, "/");

		if (!is_valid_component(path, size))
			return false;
		if (path[size] == '\0')
			return true;
		path += size + 1;
	}
}

static struct tf_output *allocate(void)
{
	struct tf_output *output = calloc(1, sizeof(*output));

	if (!output)
		return NULL;
	output->reference_count = 1;
	output->directory_fd = -1;
	output->metadata_fd = -1;
	output->text_fd = -1;
	pthread_mutex_init(&output->directory_lock, NULL);
	pthread_mutex_init(&output->metadata_lock, NULL);
	return output;
}

int tf_output_create(const char *root, const char *relative_path, uid_t uid, gid_t gid, const gid_t *groups,
		     size_t group_count, struct tf_output **out)
{
	struct tf_output *output;

	if (root[0] != '/' || !is_valid_relative_path(relative_path) || strlen(root) >= PATH_MAX)
		return -EINVAL;
	output = allocate();
	if (!output)
		return -ENOMEM;
	output->uid = uid;
	output->gid = gid;
	output->group_count = group_count;
	output->root = strdup(root);
	output->relative_path = strdup(relative_path);
	output->groups = calloc(group_count + 1, sizeof(*groups));
	if (!output->root || !output->relative_path || !output->groups) {
		tf_output_put(output);
		return -ENOMEM;
	}
	if (group_count > 0)
		memcpy(output->groups, groups, group_count * sizeof(*groups));
	*out = output;
	return 0;
}

int tf_output_create_relayed(struct tf_relay *relay, uint64_t metadata_handle, struct tf_output **out)
{
	struct tf_output *output = allocate();

	if (!output)
		return -ENOMEM;
	output->relay = tf_relay_get(relay);
	output->metadata_handle = metadata_handle;
	*out = output;
	return 0;
}

int tf_output_create_fleet(struct tf_fleet *fleet, uint32_t metadata_key, struct tf_output **out)
{
	struct tf_output *output = allocate();

	if (!output)
		return -ENOMEM;
	output->fleet = tf_fleet_get(fleet);
	output->metadata_handle = metadata_key;
	*out = output;
	return 0;
}

struct tf_fleet *tf_output_fleet(const struct tf_output *output)
{
	return output->fleet;
}

struct tf_relay *tf_output_relay(const struct tf_output *output)
{
	return output->relay;
}

struct tf_output *tf_output_get(struct tf_output *output)
{
	__atomic_add_fetch(&output->reference_count, 1, __ATOMIC_RELAXED);
	return output;
}

void tf_output_put(struct tf_output *output)
{
	if (!output || __atomic_sub_fetch(&output->reference_count, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	tf_output_close(output);
	if (output->directory_fd >= 0)
		close(output->directory_fd);
	if (output->text)
		munmap((void *)(uintptr_t)output->text, TF_METADATA_TEXT_OFFSET);
	pthread_mutex_destroy(&output->directory_lock);
	pthread_mutex_destroy(&output->metadata_lock);
	free(output->root);
	free(output->relative_path);
	free(output->groups);
	tf_relay_put(output->relay);
	tf_fleet_put(output->fleet);
	free(output);
}

/* Open the directory @name below @parent_fd, making it when it is not there. @flags: O_NOFOLLOW below the root. */
static int open_directory(int parent_fd, const char *name, int flags)
{
	bool is_new = false;
	int fd;

	/* First what is there: to try to make it costs far more. A directory on the way may let pass and not read. */
	fd = openat(parent_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC | flags);
	if (fd < 0 && errno == ENOENT) {
		is_new = mkdirat(parent_fd, name, DIRECTORY_MODE) == 0;
		if (!is_new && errno != EEXIST)
			return -errno;
		fd = openat(parent_fd, name, (is_new ? O_RDONLY : O_PATH) | O_DIRECTORY | O_CLOEXEC | flags);
	}
	if (fd < 0)
		return -errno;
	/* The process's umask does not decide: who may read a trace is the session daemon's contract. */
	if (is_new && fchmod(fd, DIRECTORY_MODE) < 0) {
		int ret = -errno;

		close(fd);
		return ret;
	}
	return fd;
}

/* Walk @path component by component from @fd, which it takes over. */
static int walk(int fd, const char *path, int flags)
{
	char name[NAME_MAX + 1];

	while (fd >= 0 && *path != '\0') {
		size_t size = strcspn(path, "/");
		int next;

		if (size > NAME_MAX) {
			close(fd);
			return -ENAMETOOLONG;
		}
		memcpy(name, path, size);
		name[size] = '\0';
		path += size + (path[size] == '/');
		if (size == 0)
			continue;
		next = open_directory(fd, name, flags);
		close(fd);
		fd = next;
	}
	return fd;
}

/* With the owner's credentials and the directory lock held. */
static int ensure_directory(struct tf_output *output)
{
	int fd;

	if (output->directory_fd >= 0)
		return 0;
	/* The way to the root may have links of the owner's choice: the owner's rights decide where they lead. */
	fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	fd = walk(fd, output->root, 0);
	if (fd >= 0)
		fd = walk(fd, output->relative_path, O_NOFOLLOW);
	if (fd < 0)
		return fd;
	output->directory_fd = fd;
	return 0;
}

static int create_file(int directory_fd, const char *name, int flags)
{
	int fd;

	if (unlinkat(directory_fd, name, 0) < 0 && errno != ENOENT)
		return -errno;
	fd = openat(directory_fd, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | flags, FILE_MODE);
	/* tmpfs before Linux 6.6, and some network file systems, have no direct I/O. */
	if (fd < 0 && errno == EINVAL && (flags & O_DIRECT)) {
		unlinkat(directory_fd, name, 0);
		flags &= ~O_DIRECT;
		fd = openat(directory_fd, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | flags, FILE_MODE);
	}
	if (fd < 0)
		return -errno;
	if (fchmod(fd, FILE_MODE) < 0) {
		int ret = -errno;

		close(fd);
		return ret;
	}
	return fd;
}

/* Whether a file can be made there. A file system without nameless files cannot be asked without leaving a trace. */
static int try_directory(int directory_fd)
{
	const int fd = openat(directory_fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, FILE_MODE);

	if (fd >= 0)
		close(fd);
	else if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL && errno != ENOENT)
		return -errno;
	return 0;
}

int tf_output_prepare(struct tf_output *output)
{
	struct tf_credentials saved;
	int ret;

	if (output->relay || output->fleet)
		return 0;
	ret = tf_credentials_assume(&saved, output->uid, output->gid, output->groups, output->group_count);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&output->directory_lock);
	ret = ensure_directory(output);
	if (ret == 0)
		ret = try_directory(output->directory_fd);
	pthread_mutex_unlock(&output->directory_lock);
	tf_credentials_restore(&saved);
	return ret;
}

int tf_output_create_file(struct tf_output *output, const char *directory, const char *name, int flags)
{
	struct tf_credentials saved;
	int ret, fd = -1;

	if (output->relay || output->fleet || !is_valid_component(name, strlen(name)) || strchr(name, '/'))
		return -EINVAL;
	ret = tf_credentials_assume(&saved, output->uid, output->gid, output->groups, output->group_count);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&output->directory_lock);
	ret = ensure_directory(output);
	if (ret < 0)
		goto out;
	if (!directory) {
		ret = create_file(output->directory_fd, name, flags);
		goto out;
	}
	fd = open_directory(output->directory_fd, directory, O_NOFOLLOW);
	ret = fd < 0 ? fd : create_file(fd, name, flags);
	if (fd >= 0)
		close(fd);
out:
	pthread_mutex_unlock(&output->directory_lock);
	tf_credentials_restore(&saved);
	return ret;
}

/* ---- metadata ---- */

int tf_output_set_metadata(struct tf_output *output, int fd, const uint8_t uuid[16])
{
	const struct tf_metadata_memory *memory;
	const int seals = fcntl(fd, F_GET_SEALS);
	struct stat status;
	int copy, ret;
	void *map;

	if (output->text || seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &status) < 0 ||
	    status.st_size < TF_METADATA_TEXT_OFFSET)
		return -EINVAL;
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0)
		return -errno;
	map = mmap(NULL, TF_METADATA_TEXT_OFFSET, PROT_READ, MAP_SHARED, copy, 0);
	if (map == MAP_FAILED) {
		ret = -errno;
		goto err_copy;
	}
	memory = map;
	if (memory->magic != TF_METADATA_MEMORY_MAGIC || memory->version != TF_METADATA_MEMORY_VERSION) {
		ret = -EINVAL;
		goto err_map;
	}
	output->text = memory;
	output->text_fd = copy;
	memcpy(output->uuid, uuid, sizeof(output->uuid));
	return 0;

err_map:
	munmap(map, TF_METADATA_TEXT_OFFSET);
err_copy:
	close(copy);
	return ret;
}

static int read_text(const struct tf_output *output, uint8_t *text, size_t size, uint64_t offset)
{
	while (size > 0) {
		const ssize_t got = pread(output->text_fd, text, size, (off_t)(TF_METADATA_TEXT_OFFSET + offset));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EBADMSG;
		text += got;
		offset += (uint64_t)got;
		size -= (size_t)got;
	}
	return 0;
}

/* One packet: header (37 bytes, native byte order, packed), text; zeroes up to @packet_size are the caller's. */
static int fill_metadata_packet(const struct tf_output *output, uint8_t *packet, size_t packet_size, size_t size,
				uint64_t offset)
{
	const uint32_t magic = METADATA_MAGIC;
	const uint32_t content_bits = (uint32_t)(METADATA_HEADER_SIZE + size) * 8;
	const uint32_t packet_bits = (uint32_t)packet_size * 8;

	memcpy(packet, &magic, 4);
	memcpy(packet + 4, output->uuid, 16);
	memcpy(packet + 24, &content_bits, 4); /* 20: the checksum, none */
	memcpy(packet + 28, &packet_bits, 4);
	packet[35] = 1; /* 32..34: no compression, encryption, checksum */
	packet[36] = 8;
	return read_text(output, packet + METADATA_HEADER_SIZE, size, offset);
}

/* Cut text into packets of a page. */
static int fill_metadata_packets(const struct tf_output *output, uint8_t *packet, size_t size, uint64_t offset)
{
	const size_t room = METADATA_PACKET_SIZE - METADATA_HEADER_SIZE;

	for (; size > 0; packet += METADATA_PACKET_SIZE) {
		const size_t taken = size < room ? size : room;
		int ret;

		ret = fill_metadata_packet(output, packet, METADATA_PACKET_SIZE, taken, offset);
		if (ret < 0)
			return ret;
		offset += taken;
		size -= taken;
	}
	return 0;
}

static int ensure_metadata_file(struct tf_output *output)
{
	int fd;

	if (output->metadata_fd >= 0)
		return 0;
	fd = tf_output_create_file(output, NULL, "metadata", O_WRONLY);
	if (fd < 0)
		return fd;
	output->metadata_fd = fd;
	return 0;
}

/* Acquire: pairs with the store of the session daemon, before which it wrote the text. */
static uint64_t published_text_size(const struct tf_output *output)
{
	return __atomic_load_n(&output->text->text_size, __ATOMIC_ACQUIRE);
}

bool tf_output_describes(const struct tf_output *output, uint32_t channel_id)
{
	if (!output->text || channel_id >= TF_METADATA_CHANNEL_COUNT)
		return true;
	/* Acquire: pairs with the store of the session daemon, after which the text is there. */
	return __atomic_load_n(&output->text->is_described[channel_id], __ATOMIC_ACQUIRE) != 0;
}

/* With the metadata lock held: send text from where the latest ended, as much as makes a packet. */
static int send_text(struct tf_output *output, size_t size)
{
	const size_t content_size = METADATA_HEADER_SIZE + size;
	const size_t packet_size =
		(content_size + METADATA_PACKET_SIZE - 1) / METADATA_PACKET_SIZE * METADATA_PACKET_SIZE;
	uint8_t *packet = calloc(1, content_size);
	int ret;

	if (!packet)
		return -ENOMEM;
	ret = fill_metadata_packet(output, packet, packet_size, size, output->written_text_size);
	if (ret == 0 && output->fleet) {
		ret = tf_fleet_give_metadata(output->fleet, (uint32_t)output->metadata_handle, packet, content_size,
					     (uint32_t)(packet_size - content_size));
		if (ret == 0)
			packet = NULL;
	} else if (ret == 0) {
		ret = tf_relay_send_metadata(output->relay, output->metadata_handle, packet, content_size,
					     (uint32_t)(packet_size - content_size));
	}
	/* Release: as below. */
	if (ret == 0)
		__atomic_store_n(&output->written_text_size, output->written_text_size + size, __ATOMIC_RELEASE);
	free(packet);
	return ret;
}

/* With the metadata lock held: append all text up to @end. */
static int append_text(struct tf_output *output, uint64_t end)
{
	const size_t room = METADATA_PACKET_SIZE - METADATA_HEADER_SIZE;
	const uint64_t begin = output->written_text_size;
	size_t size, packets_size;
	struct stat status;
	uint8_t *packets;
	int ret;

	if (output->is_closed)
		return -EBADF;
	if (fstat(output->text_fd, &status) < 0)
		return -errno;
	if (end < begin || end > (uint64_t)status.st_size - TF_METADATA_TEXT_OFFSET)
		return -EBADMSG;
	size = (size_t)(end - begin);
	if (output->relay || output->fleet) {
		for (ret = 0; size > 0 && ret == 0; size = (size_t)(end - output->written_text_size))
			ret = send_text(output, size < METADATA_TEXT_SIZE_MAX ? size : METADATA_TEXT_SIZE_MAX);
		return ret;
	}
	packets_size = (size + room - 1) / room * METADATA_PACKET_SIZE;
	packets = calloc(1, packets_size);
	if (!packets)
		return -ENOMEM;
	ret = fill_metadata_packets(output, packets, size, begin);
	if (ret == 0)
		ret = ensure_metadata_file(output);
	if (ret < 0)
		goto out;
	ret = tf_write_whole(output->metadata_fd, packets, packets_size, output->metadata_size);
	if (ret < 0) {
		tf_truncate(output->metadata_fd, output->metadata_size);
		goto out;
	}
	output->metadata_size += (off_t)packets_size;
	/* Release: pairs with the acquire of another stream's thread, which takes it that the file has the text. */
	__atomic_store_n(&output->written_text_size, end, __ATOMIC_RELEASE);
out:
	free(packets);
	return ret;
}

int tf_output_write_metadata(struct tf_output *output)
{
	uint64_t end;
	int ret = 0;

	if (!output->text ||
	    published_text_size(output) == __atomic_load_n(&output->written_text_size, __ATOMIC_ACQUIRE))
		return 0;
	pthread_mutex_lock(&output->metadata_lock);
	end = published_text_size(output);
	if (end != output->written_text_size)
		ret = append_text(output, end);
	pthread_mutex_unlock(&output->metadata_lock);
	return ret;
}

int tf_output_close(struct tf_output *output)
{
	const int ret = tf_output_write_metadata(output);

	pthread_mutex_lock(&output->metadata_lock);
	output->is_closed = true;
	if (output->metadata_fd >= 0)
		close(output->metadata_fd);
	if (output->text_fd >= 0)
		close(output->text_fd);
	output->metadata_fd = output->text_fd = -1;
	pthread_mutex_unlock(&output->metadata_lock);
	/* An open directory keeps its file system busy; a channel that still writes here opens it again. */
	pthread_mutex_lock(&output->directory_lock);
	if (output->directory_fd >= 0)
		close(output->directory_fd);
	output->directory_fd = -1;
	pthread_mutex_unlock(&output->directory_lock);
	return ret;
}
