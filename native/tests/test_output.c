/* Files are where they belong, the owner's, and nowhere else. */
#include "trace.h"

#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define OWNER 65534

static const uint8_t uuid[16] = { 1, 2, 3 };

static int create(const char *root, const char *relative_path, uid_t uid, struct tf_output **output)
{
	const gid_t groups[] = { (gid_t)uid };

	return tf_output_create(root, relative_path, uid, (gid_t)uid, groups, 1, output);
}

static void test_paths(void)
{
	static const char *const refused[] = { "", "/", "/etc", "..", "a/../b", "a//b", "a/", "./a", "a/.", "../a" };
	struct tf_output *output;

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		CHECK(create("/tmp", refused[i], 0, &output) == -EINVAL);
	CHECK(create("tmp", "a", 0, &output) == -EINVAL);
	CHECK(create("/tmp", "...", 0, &output) == 0);
	CHECK(tf_output_create_file(output, NULL, "a/b", O_WRONLY) == -EINVAL);
	CHECK(tf_output_create_file(output, NULL, "..", O_WRONLY) == -EINVAL);
	tf_output_put(output);
}

static void test_metadata(const char *root)
{
	const int memory = metadata_memory_create();
	struct tf_output *output;
	struct stat status;
	char path[128], text[10000];
	mode_t old = umask(077);

	memset(text, ' ', sizeof(text));
	CHECK(create(root, "m/n", geteuid(), &output) == 0);
	CHECK(tf_output_write_metadata(output) == 0);
	CHECK(tf_output_set_metadata(output, memory, uuid) == 0);
	CHECK(tf_output_set_metadata(output, memory, uuid) == -EINVAL);
	CHECK(tf_output_write_metadata(output) == 0);
	snprintf(path, sizeof(path), "%s/m/n/metadata", root);
	CHECK(stat(path, &status) < 0 && errno == ENOENT);
	metadata_memory_append(memory, text, 10);
	CHECK(tf_output_write_metadata(output) == 0);
	CHECK(stat(path, &status) == 0 && status.st_size == 4096);
	metadata_memory_append(memory, text, 10);
	metadata_memory_append(memory, text, sizeof(text) - 10);
	CHECK(tf_output_write_metadata(output) == 0 && tf_output_write_metadata(output) == 0);
	CHECK(stat(path, &status) == 0 && status.st_size == 4 * 4096 && (status.st_mode & 07777) == 0660);
	metadata_memory_append(memory, text, 10);
	CHECK(tf_output_close(output) == 0);
	CHECK(stat(path, &status) == 0 && status.st_size == 5 * 4096);
	snprintf(path, sizeof(path), "%s/m", root);
	CHECK(stat(path, &status) == 0 && (status.st_mode & 07777) == 0770);
	metadata_memory_append(memory, text, 10);
	CHECK(tf_output_write_metadata(output) == -EBADF);
	tf_output_put(output);
	close(memory);
	umask(old);
}

/* A session daemon that has gone mad must not take us with it. */
static void test_metadata_memory(const char *root)
{
	const uint64_t sizes[] = { 11, UINT64_MAX, UINT64_MAX - TF_METADATA_TEXT_OFFSET, 9, 0 }; /* 10 are there */
	struct tf_metadata_memory *map;
	struct tf_output *output;
	int fd = memfd_create("unsealed", MFD_CLOEXEC);

	CHECK(create(root, "o", geteuid(), &output) == 0);
	CHECK(ftruncate(fd, TF_METADATA_TEXT_OFFSET) == 0);
	CHECK(tf_output_set_metadata(output, fd, uuid) == -EINVAL);
	CHECK(tf_output_set_metadata(output, -1, uuid) == -EINVAL);
	close(fd);
	fd = memfd_create("empty", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	CHECK(tf_output_set_metadata(output, fd, uuid) == -EINVAL);
	CHECK(ftruncate(fd, TF_METADATA_TEXT_OFFSET) == 0);
	CHECK(tf_output_set_metadata(output, fd, uuid) == -EINVAL); /* no magic */
	close(fd);

	CHECK(tf_output_describes(output, 0)); /* no metadata, no claim */
	fd = metadata_memory_create();
	CHECK(tf_output_set_metadata(output, fd, uuid) == 0);
	metadata_memory_append(fd, "0123456789", 10);
	CHECK(tf_output_write_metadata(output) == 0);
	map = mmap(NULL, TF_METADATA_TEXT_OFFSET, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(map != MAP_FAILED);
	CHECK(!tf_output_describes(output, 0) && !tf_output_describes(output, 1));
	map->is_described[1] = 1;
	CHECK(!tf_output_describes(output, 0) && tf_output_describes(output, 1));
	CHECK(!tf_output_describes(output, TF_METADATA_CHANNEL_COUNT - 1));
	CHECK(tf_output_describes(output, TF_METADATA_CHANNEL_COUNT));
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		map->text_size = sizes[i];
		CHECK(tf_output_write_metadata(output) == -EBADMSG);
	}
	CHECK(tf_output_close(output) == -EBADMSG);
	munmap(map, TF_METADATA_TEXT_OFFSET);
	tf_output_put(output);
	close(fd);
}

/* As root, for a user who prepared traps in a directory of theirs. */
static void test_owner(const char *root)
{
	struct tf_output *output;
	struct stat status;
	char path[160], target[160];
	int fd;

	CHECK(chmod(root, 0777) == 0);
	CHECK(create(root, "u/64-bit", OWNER, &output) == 0);
	fd = tf_output_create_file(output, "index", "c_0.idx", O_WRONLY);
	CHECK(fd >= 0 && fstat(fd, &status) == 0 && status.st_uid == OWNER && status.st_gid == OWNER);
	close(fd);
	CHECK(setfsuid((uid_t)-1) == 0 && setfsgid((gid_t)-1) == 0);
	snprintf(path, sizeof(path), "%s/u", root);
	CHECK(stat(path, &status) == 0 && status.st_uid == OWNER);

	/* A link in the place of a file is replaced, not followed. */
	snprintf(target, sizeof(target), "%s/precious", root);
	fd = open(target, O_CREAT | O_WRONLY, 0600);
	CHECK(write(fd, "x", 1) == 1);
	close(fd);
	snprintf(path, sizeof(path), "%s/u/64-bit/c_0", root);
	CHECK(symlink(target, path) == 0);
	fd = tf_output_create_file(output, NULL, "c_0", O_WRONLY);
	CHECK(fd >= 0);
	close(fd);
	CHECK(stat(target, &status) == 0 && status.st_size == 1);
	CHECK(lstat(path, &status) == 0 && S_ISREG(status.st_mode));
	tf_output_put(output);

	/* A link in the place of a directory ends the way. */
	snprintf(path, sizeof(path), "%s/link", root);
	CHECK(symlink("/", path) == 0);
	CHECK(create(root, "link/x", OWNER, &output) == 0);
	fd = tf_output_create_file(output, NULL, "c_0", O_WRONLY);
	CHECK(fd == -ENOTDIR || fd == -ELOOP);
	tf_output_put(output);

	/* Where the owner may not write, nothing is written for them. */
	CHECK(chmod(root, 0755) == 0);
	CHECK(create(root, "forbidden", OWNER, &output) == 0);
	fd = metadata_memory_create();
	CHECK(tf_output_set_metadata(output, fd, uuid) == 0);
	metadata_memory_append(fd, "x", 1);
	CHECK(tf_output_write_metadata(output) == -EACCES);
	close(fd);
	tf_output_put(output);
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
	(void)status;
	(void)type;
	(void)walk;
	return remove(path);
}

int main(void)
{
	char root[] = "/tmp/tf-native-output-XXXXXX";

	CHECK(mkdtemp(root));
	test_paths();
	test_metadata(root);
	test_metadata_memory(root);
	if (geteuid() == 0)
		test_owner(root);
	CHECK(nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS) == 0);
	return geteuid() == 0 ? 0 : 77;
}
