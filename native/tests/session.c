#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <lttng/ust-ctl.h>
#include <lttng/ust-error.h>

static const char metadata_format[] =
	"/* CTF 1.8 */\n"
	"typealias integer { size = 8; align = 8; signed = false; } := uint8_t;\n"
	"typealias integer { size = 16; align = 8; signed = false; } := uint16_t;\n"
	"typealias integer { size = 32; align = 8; signed = false; } := uint32_t;\n"
	"typealias integer { size = 64; align = 8; signed = false; } := uint64_t;\n"
	"trace {\n"
	"	major = 1; minor = 8; byte_order = le;\n"
	"	uuid = \"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\";\n"
	"	packet.header := struct {\n"
	"		uint32_t magic; uint8_t uuid[16]; uint32_t stream_id; uint64_t stream_instance_id;\n"
	"	};\n"
	"};\n"
	"env { domain = \"ust\"; tracer_name = \"lttng-ust\"; tracer_major = 2; tracer_minor = 13; };\n"
	"clock { name = monotonic; freq = 1000000000; offset = 0; };\n"
	"typealias integer { size = 32; align = 8; signed = false; map = clock.monotonic.value; } := uint32_clock_t;\n"
	"typealias integer { size = 64; align = 8; signed = false; map = clock.monotonic.value; } := uint64_clock_t;\n"
	"struct packet_context {\n"
	"	uint64_clock_t timestamp_begin; uint64_clock_t timestamp_end;\n"
	"	uint64_t content_size; uint64_t packet_size; uint64_t packet_seq_num;\n"
	"	uint64_t events_discarded; uint32_t cpu_id;\n"
	"};\n"
	"struct event_header_large {\n"
	"	enum : uint16_t { compact = 0 ... 65534, extended = 65535 } id;\n"
	"	variant <id> {\n"
	"		struct { uint32_clock_t timestamp; } compact;\n"
	"		struct { uint32_t id; uint64_clock_t timestamp; } extended;\n"
	"	} v;\n"
	"} align(8);\n"
	"stream { id = 0; event.header := struct event_header_large; packet.context := struct packet_context; };\n"
	"event {\n"
	"	name = \"tf_test:number\"; id = 0; stream_id = 0; loglevel = 13;\n"
	"	fields := struct {\n"
	"		uint32_t _writer; uint64_t _number; uint32_t __payload_length;\n"
	"		uint8_t _payload[ __payload_length ];\n"
	"	};\n"
	"};\n";

static void die(const char *what, int error)
{
	fprintf(stderr, "session: %s: %s (%d)\n", what, strerror(error < 0 ? -error : error), error);
	exit(1);
}

void session_open(struct session *session)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char directory[80];

	memset(session, 0, sizeof(*session));
	strcpy(session->home, "/tmp/tf-native-XXXXXX");
	if (!mkdtemp(session->home))
		die("mkdtemp", errno);
	snprintf(directory, sizeof(directory), "%s/.lttng", session->home);
	mkdir(directory, 0700);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/lttng-ust-sock-8", directory);
	session->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(session->listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(session->listener, 16) < 0)
		die("listen", errno);
	if (getrandom(session->uuid, sizeof(session->uuid), 0) != sizeof(session->uuid))
		die("getrandom", errno);
}

void session_use(struct session *session, struct tf_channel *channel)
{
	int ret;

	free(session->channel_data);
	session->channel = channel;
	session->fd_count = 1 + 2 * (size_t)tf_possible_cpu_count();
	ret = tf_channel_export(channel, &session->channel_type, &session->channel_data, &session->channel_data_size,
				session->fds, session->fd_count);
	if (ret < 0)
		die("export", ret);
}

int metadata_memory_create(void)
{
	const struct tf_metadata_memory header = { .magic = TF_METADATA_MEMORY_MAGIC,
						   .version = TF_METADATA_MEMORY_VERSION };
	const int fd = memfd_create("metadata", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, TF_METADATA_TEXT_OFFSET) < 0 || pwrite(fd, &header, sizeof(header), 0) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0)
		die("metadata memory", errno);
	return fd;
}

void metadata_memory_append(int fd, const char *text, size_t size)
{
	struct tf_metadata_memory *memory =
		mmap(NULL, TF_METADATA_TEXT_OFFSET, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (memory == MAP_FAILED ||
	    pwrite(fd, text, size, (off_t)(TF_METADATA_TEXT_OFFSET + memory->text_size)) != (ssize_t)size)
		die("metadata", errno);
	__atomic_store_n(&memory->text_size, memory->text_size + size, __ATOMIC_RELEASE);
	munmap(memory, TF_METADATA_TEXT_OFFSET);
}

void session_write_metadata(struct session *session, struct tf_output *output)
{
	const uint8_t *u = session->uuid;
	const int fd = metadata_memory_create();
	char text[8192];
	int ret, size = snprintf(text, sizeof(text), metadata_format, u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7],
				 u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);

	metadata_memory_append(fd, text, (size_t)size);
	ret = tf_output_set_metadata(output, fd, u);
	if (ret < 0)
		die("metadata", ret);
	close(fd);
}

/* The tracer announces channels and events; all of ours have id 0 and large headers. */
static void *serve_notifications(void *argument)
{
	const int sock = (int)(intptr_t)argument;
	enum lttng_ust_ctl_notify_cmd command;

	while (lttng_ust_ctl_recv_notify(sock, &command) == 0) {
		char name[LTTNG_UST_ABI_SYM_NAME_LEN], *signature = NULL, *uri = NULL;
		struct lttng_ust_ctl_field *fields = NULL;
		int session_handle, channel_handle, level, ret;
		size_t count;

		if (command == LTTNG_UST_CTL_NOTIFY_CMD_EVENT) {
			ret = lttng_ust_ctl_recv_register_event(sock, &session_handle, &channel_handle, name, &level,
								&signature, &count, &fields, &uri);
			if (ret == 0)
				lttng_ust_ctl_reply_register_event(sock, 0, 0);
		} else if (command == LTTNG_UST_CTL_NOTIFY_CMD_CHANNEL) {
			ret = lttng_ust_ctl_recv_register_channel(sock, &session_handle, &channel_handle, &count,
								  &fields);
			if (ret == 0)
				lttng_ust_ctl_reply_register_channel(sock, 0, LTTNG_UST_CTL_CHANNEL_HEADER_LARGE, 0);
		} else {
			break;
		}
		free(signature);
		free(uri);
		free(fields);
		if (ret < 0)
			break;
	}
	close(sock);
	return NULL;
}

static void accept_app(struct session *session, struct session_app *app)
{
	app->command = app->notify = -1;
	while (app->command < 0 || app->notify < 0) {
		enum lttng_ust_ctl_socket_type type;
		uint32_t major, minor, pid, ppid, uid, gid, bits, a8, a16, a32, a64, along;
		int byte_order, ret, sock = accept4(session->listener, NULL, NULL, SOCK_CLOEXEC);
		char name[LTTNG_UST_ABI_PROCNAME_LEN];

		if (sock < 0)
			die("accept", errno);
		ret = lttng_ust_ctl_recv_reg_msg(sock, &type, &major, &minor, &pid, &ppid, &uid, &gid, &bits, &a8, &a16,
						 &a32, &a64, &along, &byte_order, name);
		if (ret < 0)
			die("registration", ret);
		if (type == LTTNG_UST_CTL_SOCKET_CMD)
			app->command = sock;
		else
			app->notify = sock;
	}
}

static int duplicate(int fd)
{
	int copy = dup(fd);

	if (copy < 0)
		die("dup", errno);
	return copy;
}

static struct lttng_ust_abi_object_data *make_object(int type)
{
	struct lttng_ust_abi_object_data *object = calloc(1, sizeof(*object));

	object->type = type;
	object->handle = -1;
	return object;
}

static void send_channel(struct session *session, struct session_app *app)
{
	struct lttng_ust_abi_object_data *channel = make_object(LTTNG_UST_ABI_OBJECT_TYPE_CHANNEL), *event;
	struct lttng_ust_abi_event rule = { .instrumentation = LTTNG_UST_ABI_TRACEPOINT,
					    .name = "tf_test:*",
					    .loglevel_type = LTTNG_UST_ABI_LOGLEVEL_ALL,
					    .loglevel = -1 };
	int ret;

	channel->size = session->channel_data_size;
	channel->u.channel.type = session->channel_type;
	channel->u.channel.wakeup_fd = duplicate(session->fds[0]);
	channel->u.channel.data = malloc(session->channel_data_size);
	memcpy(channel->u.channel.data, session->channel_data, session->channel_data_size);
	ret = lttng_ust_ctl_send_channel_to_ust(app->command, app->handle, channel);
	if (ret < 0)
		die("send channel", ret);
	for (size_t i = 1; i < session->fd_count; i += 2) {
		struct lttng_ust_abi_object_data *stream = make_object(LTTNG_UST_ABI_OBJECT_TYPE_STREAM);

		/* Only tests of what is whole come here: the real size is that of the file. */
		struct stat status;

		fstat(session->fds[i], &status);
		stream->size = (uint64_t)status.st_size;
		stream->u.stream.shm_fd = duplicate(session->fds[i]);
		stream->u.stream.wakeup_fd = duplicate(session->fds[i + 1]);
		stream->u.stream.stream_nr = (uint32_t)(i / 2);
		ret = lttng_ust_ctl_send_stream_to_ust(app->command, channel, stream);
		if (ret < 0)
			die("send stream", ret);
		lttng_ust_ctl_release_object(-1, stream);
		free(stream);
	}
	ret = lttng_ust_ctl_create_event(app->command, &rule, channel, &event);
	if (ret < 0)
		die("create event", ret);
	ret = lttng_ust_ctl_enable(app->command, event);
	if (ret < 0)
		die("enable event", ret);
	free(event);
	lttng_ust_ctl_release_object(-1, channel);
	free(channel);
}

/* In a thread of its own: a program may be over, or stop itself, before it has answered. */
static void *release_app(void *argument)
{
	struct session_app *app = argument;

	lttng_ust_ctl_register_done(app->command);
	return NULL;
}

int session_start(struct session *session, const char *path, char *const arguments[])
{
	const int number = session->app_count++;
	struct session_app *app = &session->apps[number];
	int input[2], ret;
	pthread_t thread;

	if (pipe2(input, O_CLOEXEC) < 0)
		die("pipe", errno);
	app->stdin_fd = input[1];
	app->pid = fork();
	if (app->pid < 0)
		die("fork", errno);
	if (app->pid == 0) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		dup2(input[0], 0);
		setenv("LTTNG_HOME", session->home, 1);
		setenv("LTTNG_UST_REGISTER_TIMEOUT", "-1", 1);
		execv(path, arguments);
		_exit(127);
	}
	close(input[0]);
	accept_app(session, app);
	pthread_create(&thread, NULL, serve_notifications, (void *)(intptr_t)app->notify);
	pthread_detach(thread);
	app->handle = lttng_ust_ctl_create_session(app->command);
	if (app->handle < 0)
		die("create session", app->handle);
	send_channel(session, app);
	ret = lttng_ust_ctl_start_session(app->command, app->handle);
	if (ret == 0)
		ret = lttng_ust_ctl_wait_quiescent(app->command);
	if (ret < 0)
		die("start session", ret);
	pthread_create(&app->release, NULL, release_app, app);
	return number;
}

int session_wait(struct session *session, int number)
{
	struct session_app *app = &session->apps[number];
	int status;

	if (app->stdin_fd >= 0)
		close(app->stdin_fd);
	app->stdin_fd = -1;
	if (waitpid(app->pid, &status, 0) < 0)
		die("waitpid", errno);
	pthread_join(app->release, NULL);
	close(app->command);
	return status;
}

void session_release(struct session *session)
{
	for (size_t i = 0; i < session->fd_count; i++)
		close(session->fds[i]);
	session->fd_count = 0;
}

void session_close(struct session *session)
{
	char path[128];

	session_release(session);
	free(session->channel_data);
	close(session->listener);
	snprintf(path, sizeof(path), "%s/.lttng/lttng-ust-sock-8", session->home);
	unlink(path);
	snprintf(path, sizeof(path), "%s/.lttng", session->home);
	rmdir(path);
	rmdir(session->home);
}
