/* The spool: frames come and go, and are found again after whatever happened to the file or to its writer. */
#include "trace.h"

#include <tracefleet/spool.h>

#include "crc32c.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNLIMITED UINT64_MAX
#define BIG_SIZE (700 << 10) /* more than the spool's buffer */
#define FRAME_SIZE(data_size) (sizeof(struct tf_fleet_header) + (data_size))

static char place[] = "/tmp/tf-spool-XXXXXX";
static uint8_t data[BIG_SIZE], sent[BIG_SIZE];

/* What a packet holds tells which one it is. */
static void fill(uint8_t *bytes, uint64_t handle, uint64_t sequence, uint32_t size)
{
	for (uint32_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(31 * i + (i >> 8) + 7 * sequence + 101 * handle + 1);
}

static int append(struct tf_spool *spool, uint64_t handle, uint64_t sequence, uint32_t size)
{
	const struct tf_fleet_header header = { .handle = handle,
						.sequence = sequence,
						.data_size = size,
						.padding_size = 5,
						.packet_size = 8 * ((uint64_t)size + 5),
						.content_size = 8 * (uint64_t)size,
						.timestamp_begin = 1000 * sequence,
						.timestamp_end = 1000 * sequence + 999,
						.events_discarded = 3,
						.stream_class_id = 4,
						.stream_instance_id = handle,
						.packet_seq_num = sequence };

	fill(data, handle, sequence, size);
	return tf_spool_append(spool, &header, data);
}

static struct tf_spool *reopen_damaged(uint64_t limit, bool is_expected_damaged)
{
	struct tf_spool *spool;
	bool is_damaged;

	CHECK(tf_spool_open(place, limit, &spool, &is_damaged) == 0);
	CHECK(is_damaged == is_expected_damaged);
	return spool;
}

static struct tf_spool *reopen(uint64_t limit)
{
	return reopen_damaged(limit, false);
}

static const char *frames_path(void)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/frames", place);
	return path;
}

static struct tf_spool_books books_of(const struct tf_spool *spool)
{
	struct tf_spool_books books;

	tf_spool_books(spool, &books);
	return books;
}

/* The next frame is that packet, header and data, as sendfile() takes it out in two parts. */
static void check_next(struct tf_spool *spool, uint64_t handle, uint64_t sequence, uint32_t size)
{
	struct tf_spool_frame frame;
	const int fd = memfd_create("sent", MFD_CLOEXEC);
	const uint32_t first = size / 3;

	CHECK(fd >= 0);
	CHECK(tf_spool_next(spool, &frame) == 1);
	CHECK(frame.header.magic == TF_FLEET_HEADER_MAGIC);
	CHECK(frame.header.handle == handle && frame.header.sequence == sequence && frame.header.data_size == size);
	CHECK(frame.header.padding_size == 5 && frame.header.packet_size == 8 * ((uint64_t)size + 5));
	CHECK(frame.header.content_size == 8 * (uint64_t)size && frame.header.events_discarded == 3);
	CHECK(frame.header.timestamp_begin == 1000 * sequence && frame.header.timestamp_end == 1000 * sequence + 999);
	CHECK(frame.header.stream_class_id == 4 && frame.header.stream_instance_id == handle);
	CHECK(frame.header.packet_seq_num == sequence);
	CHECK(tf_spool_send(spool, fd, &frame, 0, first) == (ssize_t)first);
	CHECK(tf_spool_send(spool, fd, &frame, first, size - first) == (ssize_t)(size - first));
	CHECK(tf_spool_send(spool, fd, &frame, 0, size + 1) == -EINVAL);
	CHECK(pread(fd, sent, sizeof(sent), 0) == (ssize_t)size);
	fill(data, handle, sequence, size);
	CHECK(memcmp(sent, data, size) == 0);
	CHECK(frame.header.payload_crc == tf_crc32c(0, data, size));
	close(fd);
}

static void check_end(struct tf_spool *spool)
{
	struct tf_spool_frame frame;

	CHECK(tf_spool_next(spool, &frame) == 0);
}

static void check_range(const struct tf_spool *spool, uint64_t handle, uint64_t oldest, uint64_t next)
{
	uint64_t found_oldest, found_next;

	CHECK(tf_spool_range(spool, handle, &found_oldest, &found_next) == (oldest < next));
	if (oldest < next)
		CHECK(found_oldest == oldest && found_next == next);
}

/* Empty and closed, for the next test. */
static void end(struct tf_spool *spool)
{
	tf_spool_close(spool);
	CHECK(unlink(frames_path()) == 0);
}

/* Frames of several streams, of no size, small and large; released in any order, read again from the oldest one. */
static void test_come_and_go(void)
{
	struct tf_spool *spool = reopen(UNLIMITED);
	struct tf_spool_books books = books_of(spool);
	struct tf_spool_frame frame;

	CHECK(books.frame_count == 0 && books.byte_count == 0 && books.disk_size == 0);
	CHECK(tf_spool_stream_count(spool) == 0);
	check_end(spool);
	CHECK(append(spool, 2, 0, 100) == 0);
	CHECK(append(spool, 0, 7, BIG_SIZE) == 0);
	CHECK(append(spool, 2, 1, 0) == 0);
	CHECK(append(spool, 0, 8, 33) == 0);
	CHECK(append(spool, 2, 2, 256 << 10) == 0); /* just the buffer */
	CHECK(append(spool, 2, 2, 1) == -EINVAL);
	CHECK(append(spool, TF_SPOOL_STREAM_COUNT_MAX, 0, 1) == -EINVAL);
	CHECK(append(spool, 3, TF_FLEET_NO_SEQUENCE, 1) == -EINVAL);
	CHECK(tf_spool_sync(spool) == 0);
	CHECK(tf_spool_stream_count(spool) == 3);
	check_range(spool, 0, 7, 9);
	check_range(spool, 1, 0, 0);
	check_range(spool, 2, 0, 3);
	check_range(spool, 3, 0, 0);
	check_next(spool, 2, 0, 100);
	check_next(spool, 0, 7, BIG_SIZE);
	check_next(spool, 2, 1, 0);
	/* What is behind one that was not released stays, and is not read again. */
	CHECK(tf_spool_release(spool, 0, 7) == 0);
	CHECK(tf_spool_release(spool, 0, TF_FLEET_NO_SEQUENCE) == 0);
	CHECK(tf_spool_release(spool, 77, 0) == 0);
	books = books_of(spool);
	CHECK(books.frame_count == 5 && books.appended_count == 5 && books.released_count == 0);
	tf_spool_rewind(spool);
	check_next(spool, 2, 0, 100);
	check_next(spool, 2, 1, 0);
	CHECK(tf_spool_release(spool, 2, 0) == 0);
	books = books_of(spool);
	CHECK(books.frame_count == 3 && books.released_count == 2);
	CHECK(books.byte_count == FRAME_SIZE(0) + FRAME_SIZE(33) + FRAME_SIZE(256 << 10));
	check_next(spool, 0, 8, 33);
	check_next(spool, 2, 2, 256 << 10);
	check_end(spool);
	/* Reading goes on behind what was there. */
	CHECK(append(spool, 0, 9, 10) == 0);
	tf_spool_rewind(spool);
	CHECK(tf_spool_next(spool, &frame) == 1);
	/* An acknowledgement for more than was ever there is for all that is there, and for nothing that comes. */
	CHECK(tf_spool_release(spool, 2, 1000) == 0);
	CHECK(tf_spool_release(spool, 0, 9) == 0);
	CHECK(tf_spool_send(spool, STDERR_FILENO, &frame, 0, 0) == -EINVAL);
	books = books_of(spool);
	CHECK(books.frame_count == 0 && books.byte_count == 0 && books.disk_size == 0 && books.released_count == 6);
	check_end(spool);
	CHECK(append(spool, 2, 3, 50) == 0);
	check_range(spool, 2, 3, 4);
	check_next(spool, 2, 3, 50);
	end(spool);
}

/* A stream that goes to its relay daemon directly for a while, and comes back while another holds the front. */
static void test_jump(void)
{
	struct tf_spool *spool = reopen(UNLIMITED);

	CHECK(append(spool, 1, 4, 10) == 0);
	CHECK(append(spool, 0, 0, 10) == 0);
	CHECK(append(spool, 1, 5, 10) == 0);
	CHECK(append(spool, 1, 9, 10) == 0);
	check_range(spool, 1, 9, 10);
	for (int i = 0; i < 2; i++) {
		check_range(spool, 1, 9, 10);
		check_range(spool, 0, 0, 1);
		check_next(spool, 0, 0, 10);
		check_next(spool, 1, 9, 10);
		check_end(spool);
		tf_spool_close(spool);
		spool = reopen(UNLIMITED);
	}
	end(spool);
}

/* One process at a time; and nothing is touched that is not the spool's file. */
static void test_open(void)
{
	struct tf_spool *spool = reopen(UNLIMITED), *second;
	bool is_damaged;
	int status;
	pid_t pid;

	CHECK(tf_spool_open(place, UNLIMITED, &second, &is_damaged) == -EBUSY);
	pid = fork();
	if (pid == 0)
		_exit(tf_spool_open(place, UNLIMITED, &second, &is_damaged) == -EBUSY ? 0 : 1);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	end(spool);
	CHECK(tf_spool_open("/nowhere", UNLIMITED, &second, &is_damaged) == -ENOENT);
	CHECK(symlink("/etc/passwd", frames_path()) == 0);
	CHECK(tf_spool_open(place, UNLIMITED, &second, &is_damaged) == -ELOOP);
	CHECK(unlink(frames_path()) == 0 && mkfifo(frames_path(), 0600) == 0);
	CHECK(tf_spool_open(place, UNLIMITED, &second, &is_damaged) == -EINVAL);
	CHECK(unlink(frames_path()) == 0 && mkdir(frames_path(), 0700) == 0);
	CHECK(tf_spool_open(place, UNLIMITED, &second, &is_damaged) == -EISDIR);
	CHECK(rmdir(frames_path()) == 0);
}

#define SMALL_COUNT 6

static uint32_t small_size(int i)
{
	return (uint32_t)(i * 37 % 90);
}

static void write_file(const uint8_t *bytes, size_t size)
{
	const int fd = open(frames_path(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0);
	CHECK(write(fd, bytes, size) == (ssize_t)size);
	close(fd);
}

/* Exactly the frames before @count are there, and others can follow. */
static void check_found(int count, bool is_damaged)
{
	struct tf_spool *spool = reopen_damaged(UNLIMITED, is_damaged);

	for (int i = 0; i < count; i++)
		check_next(spool, (uint64_t)i % 2, (uint64_t)i / 2, small_size(i));
	check_end(spool);
	CHECK(append(spool, (uint64_t)count % 2, (uint64_t)count / 2, 11) == 0);
	check_next(spool, (uint64_t)count % 2, (uint64_t)count / 2, 11);
	tf_spool_close(spool);
	spool = reopen(UNLIMITED);
	CHECK(books_of(spool).frame_count == (uint64_t)count + 1);
	tf_spool_close(spool);
}

/* Whatever byte is the last, or the wrong one: what is before it is found, what is after it is not. */
static void test_cut_and_flipped(void)
{
	uint64_t ends[SMALL_COUNT + 1] = { 0 };
	static uint8_t bytes[SMALL_COUNT * FRAME_SIZE(90)], wrong[sizeof(bytes)];
	struct tf_spool *spool = reopen(UNLIMITED);
	size_t size;
	int fd, whole;

	for (int i = 0; i < SMALL_COUNT; i++) {
		CHECK(append(spool, (uint64_t)i % 2, (uint64_t)i / 2, small_size(i)) == 0);
		ends[i + 1] = ends[i] + FRAME_SIZE(small_size(i));
	}
	size = ends[SMALL_COUNT];
	CHECK(books_of(spool).byte_count == size);
	tf_spool_close(spool);
	fd = open(frames_path(), O_RDONLY | O_CLOEXEC);
	CHECK(read(fd, bytes, sizeof(bytes)) == (ssize_t)size);
	close(fd);
	for (size_t at = 0; at <= size; at++) {
		for (whole = 0; whole < SMALL_COUNT && ends[whole + 1] <= at; whole++)
			;
		write_file(bytes, at);
		check_found(whole, ends[whole] != at);
		/* A file system that was cut off knows the size of a file, and not all of its bytes. */
		if (at > 0 && at < size) {
			memcpy(wrong, bytes, at);
			memset(wrong + at, 0, size - at);
			write_file(wrong, size);
			while (memcmp(wrong, bytes, ends[whole + 1]) == 0) /* some were zeros before */
				whole++;
			check_found(whole, true);
		}
		if (at == size)
			break;
		while (ends[whole] > at)
			whole--;
		memcpy(wrong, bytes, size);
		wrong[at] ^= (uint8_t)(1 << at % 8);
		write_file(wrong, size);
		check_found(whole, true);
	}
	CHECK(unlink(frames_path()) == 0);
}

/* Frames that nobody could have written, with checksums that are right. */
static void test_forged(void)
{
	struct tf_fleet_header header = { .magic = htole32(TF_FLEET_HEADER_MAGIC) };
	const uint64_t handles[] = { TF_SPOOL_STREAM_COUNT_MAX, UINT64_MAX, 0, 0 };
	const uint64_t sequences[] = { 0, 0, TF_FLEET_NO_SEQUENCE, 0 };
	const uint32_t sizes[] = { 0, 0, 0, UINT32_MAX };

	for (int i = 0; i < 4; i++) {
		header.handle = htole64(handles[i]);
		header.sequence = htole64(sequences[i]);
		header.data_size = htole32(sizes[i]);
		header.header_crc = 0;
		header.header_crc = htole32(tf_crc32c(0, &header, sizeof(header)));
		write_file((const uint8_t *)&header, sizeof(header));
		end(reopen_damaged(UNLIMITED, true));
	}
}

static uint64_t blocks_bytes(void)
{
	struct stat status;

	CHECK(stat(frames_path(), &status) == 0);
	return 512 * (uint64_t)status.st_blocks;
}

/* Many times the limit goes through; the disk never has more, and all that is there is found after a restart. */
static void test_limit(uint32_t size, bool has_holes)
{
	const uint64_t limit = 8 << 20;
	struct tf_spool *spool = reopen(limit);
	uint64_t next = 0, oldest = 0, refused = 0;

	while (next < 20 * limit / size) {
		const int ret = append(spool, 0, next, size);

		CHECK(books_of(spool).disk_size <= limit);
		if (ret == 0) {
			next++;
			continue;
		}
		CHECK(ret == -ENOSPC);
		refused++;
		CHECK(blocks_bytes() <= limit + (64 << 10)); /* with what the file system needs to find it */
		CHECK(next - oldest >= limit / size * 9 / 10 - 1);
		/* Without holes only what is empty is given back. */
		oldest = has_holes ? (oldest + next) / 2 : next;
		CHECK(tf_spool_release(spool, 0, oldest - 1) == 0);
		check_range(spool, 0, oldest, next);
		if (refused % 5 == 0) {
			tf_spool_close(spool);
			spool = reopen(limit); /* what was released and not given back is there again */
			CHECK(tf_spool_release(spool, 0, oldest - 1) == 0);
			check_range(spool, 0, oldest < next ? oldest : 0, oldest < next ? next : 0);
		}
		CHECK(books_of(spool).frame_count <= limit / size);
		tf_spool_rewind(spool);
		for (uint64_t i = oldest; has_holes && i < next; i++)
			check_next(spool, 0, i, size);
	}
	CHECK(refused >= 19);
	end(spool);
}

/* The file system has no holes, and what is in front is held: the limit is kept, and nothing is lost. */
static void test_limit_without_holes(void)
{
	const uint32_t size = 128 << 10;
	struct tf_spool *spool = reopen(8 * FRAME_SIZE(size));
	uint64_t next = 0;

	while (append(spool, 0, next, size) == 0)
		next++;
	CHECK(next >= 7 && tf_spool_release(spool, 0, next - 2) == 0);
	CHECK(append(spool, 0, next, size) == -ENOSPC);
	check_next(spool, 0, next - 1, size);
	CHECK(tf_spool_release(spool, 0, next - 1) == 0);
	CHECK(books_of(spool).disk_size == 0);
	CHECK(append(spool, 0, next, size) == 0);
	end(spool);
}

/* The disk is full, somewhere within a frame: nothing of it remains, and it goes in when there is room. */
static void test_full_disk(void)
{
	struct tf_spool *spool = reopen(UNLIMITED);
	uint64_t next = 0;
	int ret;

	while ((ret = append(spool, next % 3, next / 3, 300 << 10)) == 0)
		next++;
	CHECK(ret == -ENOSPC && next > 10);
	CHECK(append(spool, next % 3, next / 3, BIG_SIZE) == -ENOSPC);
	tf_spool_close(spool);
	spool = reopen(UNLIMITED);
	CHECK(books_of(spool).frame_count == next);
	for (uint64_t i = 0; i < 3; i++) /* a full disk does not hinder giving back */
		CHECK(tf_spool_release(spool, i, next / 6) == 0);
	CHECK(append(spool, next % 3, next / 3, BIG_SIZE) == 0);
	for (uint64_t i = 3 * (next / 6 + 1); i < next; i++)
		check_next(spool, i % 3, i / 3, 300 << 10);
	check_next(spool, next % 3, next / 3, BIG_SIZE);
	check_end(spool);
	end(spool);
}

/* A file that may not grow: as a full disk, and at any byte. */
static void test_short_write(void)
{
	const struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	struct tf_spool *spool = reopen(UNLIMITED);
	uint64_t sizes[] = { 1, 127, 128, 129, 500, 1000, 300 << 10 };

	signal(SIGXFSZ, SIG_IGN);
	CHECK(append(spool, 0, 0, 10) == 0);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		const struct rlimit limit = { books_of(spool).byte_count + sizes[i], RLIM_INFINITY };
		int ret;

		CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
		ret = append(spool, 0, i + 1, i == 6 ? BIG_SIZE : 1000);
		CHECK(setrlimit(RLIMIT_FSIZE, &unlimited) == 0);
		CHECK(ret == -EFBIG);
		tf_spool_close(spool);
		spool = reopen(UNLIMITED);
		CHECK(books_of(spool).frame_count == i + 1);
		CHECK(append(spool, 0, i + 1, 1000) == 0);
	}
	end(spool);
}

/* An application cuts its buffer while it is read. */
static void test_vanishing_data(void)
{
	const int fd = memfd_create("buffer", MFD_CLOEXEC);
	struct tf_spool *spool = reopen(UNLIMITED);
	struct tf_fleet_header header = { .data_size = BIG_SIZE, .sequence = 1 };
	uint8_t *buffer;

	CHECK(ftruncate(fd, BIG_SIZE) == 0);
	buffer = mmap(NULL, BIG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(buffer != MAP_FAILED);
	CHECK(append(spool, 0, 0, 100) == 0);
	for (off_t rest = BIG_SIZE; rest >= 0; rest -= 100 << 10) {
		CHECK(ftruncate(fd, rest) == 0);
		CHECK(tf_spool_append(spool, &header, buffer) == (rest == BIG_SIZE ? 0 : -EFAULT));
		if (rest == BIG_SIZE)
			header.sequence++;
	}
	header.data_size = 1000;
	CHECK(tf_spool_append(spool, &header, buffer) == -EFAULT);
	CHECK(append(spool, 1, 0, 100) == 0);
	tf_spool_close(spool);
	spool = reopen(UNLIMITED);
	CHECK(books_of(spool).frame_count == 3);
	munmap(buffer, BIG_SIZE);
	close(fd);
	end(spool);
}

static bool is_over;

/* Not a word of what it writes is protected; that is the point. */
__attribute__((no_sanitize("thread"))) static void *scribble(void *argument)
{
	volatile uint8_t *bytes = argument;

	for (uint32_t i = 0; !__atomic_load_n(&is_over, __ATOMIC_RELAXED); i = (i + 1021) % BIG_SIZE)
		bytes[i]++;
	return NULL;
}

/* Somebody writes to the data all the time: the checksum is of what is in the file. */
static void test_changing_data(void)
{
	struct tf_spool *spool = reopen(UNLIMITED);
	struct tf_fleet_header header = { .data_size = BIG_SIZE };
	pthread_t thread;

	is_over = false;
	CHECK(pthread_create(&thread, NULL, scribble, data) == 0);
	for (; header.sequence < 40; header.sequence++) {
		header.data_size = header.sequence % 2 ? BIG_SIZE : 100000;
		CHECK(tf_spool_append(spool, &header, data) == 0);
	}
	__atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	tf_spool_close(spool);
	spool = reopen(UNLIMITED);
	CHECK(books_of(spool).frame_count == 40);
	end(spool);
}

/* kill -9 in the middle of it: what was appended is there, what was released may be. */
static void test_killed(void)
{
	uint64_t *counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(counts != MAP_FAILED);
	for (uint64_t round = 0; round < 30; round++) {
		const uint64_t appended = counts[0], goal = appended + 1 + 7 * round % 60;
		uint64_t oldest, next;
		struct tf_spool *spool;
		bool is_damaged;
		pid_t pid;
		int status;

		pid = fork();
		CHECK(pid >= 0);
		if (pid == 0) {
			CHECK(tf_spool_open(place, UNLIMITED, &spool, &is_damaged) == 0);
			for (uint64_t sequence = appended;; sequence++) {
				const uint32_t size = sequence % 3 ? 20000 : BIG_SIZE;

				CHECK(append(spool, 0, sequence, size) == 0);
				__atomic_store_n(&counts[0], sequence + 1, __ATOMIC_SEQ_CST);
				if (sequence % 8 != 7)
					continue;
				__atomic_store_n(&counts[1], sequence - 4, __ATOMIC_SEQ_CST);
				CHECK(tf_spool_release(spool, 0, sequence - 5) == 0);
			}
		}
		while (__atomic_load_n(&counts[0], __ATOMIC_SEQ_CST) < goal)
			CHECK(waitpid(pid, &status, WNOHANG) == 0);
		CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
		CHECK(tf_spool_open(place, UNLIMITED, &spool, &is_damaged) == 0);
		CHECK(tf_spool_range(spool, 0, &oldest, &next));
		CHECK(oldest <= counts[1] && next >= counts[0] && next <= counts[0] + 1);
		for (uint64_t sequence = oldest; sequence < next; sequence++)
			check_next(spool, 0, sequence, sequence % 3 ? 20000 : BIG_SIZE);
		check_end(spool);
		counts[0] = next;
		tf_spool_close(spool);
	}
	munmap(counts, 4096);
	CHECK(unlink(frames_path()) == 0);
}

/* Put a file system of @type over the place, as root only. */
static bool cover(const char *type, const char *options)
{
	return mount("none", place, type, 0, options) == 0;
}

int main(void)
{
	struct tf_spool *spool;
	bool is_damaged;

	CHECK(tf_initialize() == 0);
	CHECK(mkdtemp(place));
	CHECK(tf_spool_open(place, 0, &spool, &is_damaged) == 0);
	CHECK(append(spool, 0, 0, 1) == -ENOSPC);
	end(spool);
	test_come_and_go();
	test_jump();
	test_open();
	test_cut_and_flipped();
	test_forged();
	test_limit(200000, true);
	test_limit(1000000 / 2, true);
	test_limit(5000, true);
	test_short_write();
	test_vanishing_data();
	test_changing_data();
	test_killed();
	if (unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	    cover("tmpfs", "size=8m")) {
		test_full_disk();
		CHECK(umount(place) == 0);
		CHECK(cover("ramfs", NULL)); /* the one that cannot punch holes */
		test_come_and_go();
		test_limit(200000, false);
		test_limit_without_holes();
		CHECK(umount(place) == 0);
	} else {
		fprintf(stderr, "not root: no file systems to try\n");
	}
	CHECK(rmdir(place) == 0);
	return 0;
}
